"""What the environment tells rules that weigh teachers, beside its observations."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState


class TeacherAnswers(NamedTuple):
    """What T teachers say about rows that do not change, and where the next batch stands among them."""

    train: np.ndarray  # [T, R, C] uncalibrated logits of train rows
    feedback: np.ndarray  # [T, F, C] of the feedback rows that are evaluated
    feedback_labels: np.ndarray  # [F], as rewards see them
    next_rows: Callable[[], np.ndarray]  # -> [N, B], the train rows that the next action weighs


def teacher_answers(problem: Problem, state: Callable[[], DistillState]) -> TeacherAnswers | None:
    """The answers in the present state; None with ``objective=text``, whose teachers say nothing about whole rows."""
    if problem.config.objective == "text":
        return None
    return TeacherAnswers(
        np.stack([teacher.train_logits for teacher in problem.teachers]),
        np.stack([teacher.feedback_logits for teacher in problem.teachers]),
        problem.feedback.labels,
        lambda: state().next_rows[:, 0],
    )


ATTRIBUTES = MappingProxyType[str, Callable[[Problem, Callable[[], DistillState]], Any]](
    {"teacher_answers": teacher_answers}
)
