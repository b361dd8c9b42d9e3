"""Scores of the rows of the next batch by name: what the discrete and box view of sample weighting rank rows by.

Every score is one number a row, a function of the state before the action; all but ``teacher_loss`` cost one forward
pass of the student on that batch, ``influence`` several passes
(:func:`kd_env.mdp.influence.samples.sample_influence`). Labels are those of the train split, wrong ones included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kd_env.core.registry import Registry
from kd_env.mdp.observations.base import View
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState
from kd_env.numerics import losses
from kd_files.plugins import instance_of


class Score(NamedTuple):
    """One score.

    Attributes:
        compute: values ``[N, B]`` of the rows of the next batch.
        classification_only: whether it has no meaning in regression, where it is refused.
        reads_influence: whether it is the influence of rows, which needs feedback rows enough.
        objective: under which it has a meaning.
        about: what it is, in a sentence, for the documentation.
    """

    compute: Callable[[View], np.ndarray]
    classification_only: bool = False
    reads_influence: bool = False
    objective: str = "labels"
    about: str = ""


SCORES: Registry[Score] = Registry("score", "kd_env.scores", instance_of(Score))


def resolve(name: str, regression: bool, objective: str = "labels") -> Score:
    """The score of a name.

    Raises:
        ValueError: an unknown name (with near matches), or one without meaning for this kind of task or objective.
    """
    score = SCORES[name]
    if score.objective != objective:
        allowed = [other for other in SCORES if SCORES[other].objective == objective]
        raise ValueError(
            f"The score {name!r} has no meaning with objective={objective!r}; set score to one of {', '.join(allowed)}."
        )
    if regression and score.classification_only:
        allowed = [
            other for other in SCORES if SCORES[other].objective == objective and not SCORES[other].classification_only
        ]
        raise ValueError(
            f"The score {name!r} has no meaning in a regression task; valid there: {', '.join(allowed)}. Set score to "
            "one of them."
        )
    return score


def row_scores(problem: Problem, state: DistillState) -> np.ndarray:
    """The configured score of every row of the next batch, ``[N, B]`` float64, finite.

    A student whose outputs are not finite has scores of 0: the update that follows says that it diverged.
    """
    scores = SCORES[problem.config.score].compute(View(problem, state, reads_cls=False))
    return np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _student_loss(v: View) -> np.ndarray:
    labels = v.problem.train.labels[v.rows]
    return losses.row_gold_loss(v.next_batch.student_logits, labels, v.problem.label_width)


def _teacher_loss(v: View) -> np.ndarray:
    return np.asarray(v.teacher_facts.loss.mean(0))


def _disagreement(v: View) -> np.ndarray:
    student_logits, width = v.next_batch.student_logits, v.problem.label_width
    divergences = [losses.row_divergence(student_logits, teacher_logits, width) for teacher_logits in v.teacher_logits]
    return np.asarray(np.mean(divergences, axis=0))


_ABOUT = {
    "student_loss": "The student's cross-entropy on the label in nats, or its scaled squared error.",
    "teacher_loss": "The same of the teachers, their mean.",
    "disagreement": "KL from each teacher to the student in nats, or the scaled squared difference; the mean of them.",
    "student_entropy": "Entropy of the student, in units of ``log C``.",
    "margin": "The student's largest probability minus its second.",
    "confidence": "The student's largest probability.",
    "influence": "Drop of the feedback loss per unit of the row's weight: what the rule ``lgtm`` weighs rows by.",
    "edit_error": "Of masked text: the student's mean distance from the plausibility of the tokens to be written.",
}
for _name, _score in {
    "student_loss": Score(_student_loss),
    "teacher_loss": Score(_teacher_loss),
    "disagreement": Score(_disagreement),
    "student_entropy": Score(lambda v: losses.entropy(v.next_batch.student_logits), True),
    "margin": Score(lambda v: losses.margin(v.next_batch.student_logits), True),
    "confidence": Score(lambda v: losses.confidence(v.next_batch.student_logits), True),
    "influence": Score(lambda v: v.row_influence, reads_influence=True),
    "edit_error": Score(lambda v: v.row_edit[..., 1], objective="text"),
}.items():
    SCORES.register(_name)(_score._replace(about=_ABOUT[_name]))
