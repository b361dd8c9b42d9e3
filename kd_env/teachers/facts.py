"""What teachers say about train rows, on the host: a frozen one once and for all, one that learns as it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kd_env.core.types import DistillState
from kd_env.mdp import passes
from kd_env.numerics.losses import entropy, row_gold_loss

if TYPE_CHECKING:
    from kd_env.mdp.problem import Problem


class TeacherFacts(NamedTuple):
    """What T teachers say about R train rows, each ``[T, R]``; the last four are None in regression."""

    loss: np.ndarray  # on the train labels: cross-entropy in nats, or the scaled squared error
    entropy: np.ndarray | None  # in units of log C
    confidence: np.ndarray | None  # probability of the label
    prediction: np.ndarray | None  # class
    agreement: np.ndarray | None  # share of the other teachers that choose the same class; 1 for a single teacher


def teacher_facts(logits: np.ndarray, labels: np.ndarray, label_width: float | None) -> TeacherFacts:
    """Facts for logits ``[T, ..., C]`` (uncalibrated) and labels ``[...]``."""
    loss = row_gold_loss(logits, labels, label_width)
    if label_width is not None:
        return TeacherFacts(loss, None, None, None, None)
    chosen = logits.argmax(-1)
    same = (chosen[:, None] == chosen[None]).sum(1) - 1
    others = max(len(logits) - 1, 1)
    agreement = same / others if len(logits) > 1 else np.ones(chosen.shape)
    return TeacherFacts(loss, entropy(logits), np.exp(-loss), chosen, agreement)


def taught_logits(problem: Problem, state: DistillState, rows: np.ndarray) -> np.ndarray:
    """Logits of the T teachers on train rows ``[N, B]``, ``[T, N, B, C]``.

    A teacher that learns, and the student where it is its own teacher (``teacher_source=student``), run anew.
    """
    if not changes(problem):
        return np.stack([teacher.train_logits[rows] for teacher in problem.teachers])
    batch = problem.train.gather(rows)
    said = passes.changing_logits(problem, state.params, state.teacher, batch).cpu().numpy()
    return np.broadcast_to(said, (len(problem.teachers), *said.shape))


def changes(problem: Problem) -> bool:
    """Whether what the teacher says changes in the course of an episode."""
    return problem.config.teacher_learns or problem.config.teacher_source == "student"
