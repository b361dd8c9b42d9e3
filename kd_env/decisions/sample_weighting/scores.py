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
    """

    compute: Callable[[View], np.ndarray]
    classification_only: bool = False
    reads_influence: bool = False
    objective: str = "labels"


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


# The student's loss on the label, and the teachers' (mean): cross-entropy in nats, or the scaled squared error.
SCORES.register("student_loss")(Score(_student_loss))
SCORES.register("teacher_loss")(Score(_teacher_loss))
# KL from each teacher to the student in nats (mean), or the scaled squared difference.
SCORES.register("disagreement")(Score(_disagreement))
# The student's uncertainty, without labels: entropy in units of log C, largest probability minus second, largest.
SCORES.register("student_entropy")(Score(lambda v: losses.entropy(v.next_batch.student_logits), True))
SCORES.register("margin")(Score(lambda v: losses.margin(v.next_batch.student_logits), True))
SCORES.register("confidence")(Score(lambda v: losses.confidence(v.next_batch.student_logits), True))
# Drop of the feedback loss per unit of the row's weight: what LGTM's rule weighs rows by.
SCORES.register("influence")(Score(lambda v: v.row_influence, reads_influence=True))
# Of masked text: the mean distance of the student's probability from the plausibility of the tokens to be written.
SCORES.register("edit_error")(Score(lambda v: v.row_edit[..., 1], objective="text"))
