"""Features of teachers and student on the batch that the next action will weigh: means over it, or row by row.

Labels are those of the train split, wrong ones included where there is label noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kd_env.mdp.observations.base import FEATURES, Feature, View
from kd_env.mdp.problem import Problem
from kd_env.numerics.losses import entropy, row_gold_loss

Rows = Callable[[View], np.ndarray]
"""From a view to values of every row, ``[N, B, n]``."""


def _of_teachers(name: str) -> Rows:
    def rows(v: View) -> np.ndarray:
        return np.moveaxis(getattr(v.teacher_facts, name), 0, -1)  # [T, N, B] -> [N, B, T]

    return rows


def _losses(v: View) -> np.ndarray:
    return np.asarray(np.log1p(_of_teachers("loss")(v)))


def _student_agreement(v: View) -> np.ndarray:
    student_classes = v.next_batch.student_logits.argmax(-1)
    return np.asarray(_of_teachers("prediction")(v) == student_classes[..., None], dtype=np.float64)


def _student(v: View) -> np.ndarray:
    logits, labels = v.next_batch.student_logits, v.problem.train.labels[v.rows]
    loss = row_gold_loss(logits, labels, v.problem.label_width)
    if v.problem.task.regression:
        return np.asarray(np.log1p(loss)[..., None])
    return np.stack([np.log1p(loss), entropy(logits), np.exp(-loss)], axis=-1)


def _representations(v: View) -> np.ndarray:
    return np.concatenate(v.next_batch.teacher_cls, axis=-1)


def _teachers(problem: Problem) -> int:
    return len(problem.teachers)


def _widths(problem: Problem) -> int:
    return sum(teacher.source.facts.hidden_size for teacher in problem.teachers)


_ABOUT = {
    "teacher_losses": "``log(1 + loss)`` of each teacher on the train label.",
    "teacher_entropies": "Entropy of each teacher, in units of ``log C``.",
    "teacher_confidences": "Probability that each teacher gives the train label.",
    "teacher_student_agreement": "Whether each teacher and the student have the same class.",
    "teacher_agreement": "Share of the other teachers that have a teacher's class; 1 for a single teacher.",
    "student_on_batch": (
        "Of the student ``log(1 + loss)`` on the train label, entropy in units of ``log C`` and probability of the "
        "label; of scores the first alone."
    ),
    "teacher_representations": "Last [CLS] of every teacher (RL-KD).",
}
"""What one value of each is; of a row, unless it is a mean."""


def register() -> None:
    """Add every feature twice: as the mean over the batch, and row by row with the prefix ``row_``."""
    by_class: dict[str, Any] = {"classification_only": True, "labels_only": True}
    wide: dict[str, Any] = {"low": -10.0, "high": 10.0, "needs_cls": True, "labels_only": True}
    for name, by_row, rows, width, options in (
        ("teacher_losses", "row_teacher_losses", _losses, _teachers, {"high": 10.0, "labels_only": True}),
        ("teacher_entropies", "row_teacher_entropies", _of_teachers("entropy"), _teachers, by_class),
        ("teacher_confidences", "row_teacher_confidences", _of_teachers("confidence"), _teachers, by_class),
        ("teacher_student_agreement", "row_teacher_student_agreement", _student_agreement, _teachers, by_class),
        ("teacher_agreement", "row_teacher_agreement", _of_teachers("agreement"), _teachers, by_class),
        ("student_on_batch", "row_student", _student, _student_width, {"high": 10.0, "labels_only": True}),
        ("teacher_representations", "row_teacher_representations", _representations, _widths, wide),
    ):
        add_rows(name, by_row, rows, width, {**options, "about": _ABOUT[name]})


def add_rows(name: str, by_row: str, rows: Rows, width: Callable[[Problem], int], options: dict[str, Any]) -> None:
    """Add the feature ``name``, means ``[n]`` over the batch, and ``by_row``, the values ``[B, n]`` themselves."""
    mean = {**options, "about": f"{options['about']} The mean over the next batch."}
    FEATURES.register(name)(Feature(lambda p: (width(p),), lambda v: rows(v).mean(1), **mean))
    shape: Callable[[Problem], tuple[int, ...]] = lambda p: (p.config.batch_size, width(p))  # noqa: E731
    FEATURES.register(by_row)(Feature(shape, rows, per_row=True, **options))


def _student_width(problem: Problem) -> int:
    return 1 if problem.task.regression else 3
