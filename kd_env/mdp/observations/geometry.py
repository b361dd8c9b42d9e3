"""The triangles of student, teacher and label on each row, as TGeo-KD looks at them (Hu et al., ICLR 2024).

On a row there are three points in the simplex of C classes: what the student says (S), what a teacher says (T) and the
label (G). Their differences are the sides of one triangle; with the teacher's mean over rows of the same label in place
of T they are those of a second one, which single outliers do not move. That the sides are differences of probabilities
is our reading.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from kd_env.core.types import Floats
from kd_env.mdp.observations.base import View
from kd_env.mdp.observations.teachers import add_rows
from kd_env.mdp.passes import changes
from kd_env.mdp.problem import Problem
from kd_env.numerics.losses import log_softmax

_MEANS: WeakKeyDictionary[Problem, Floats] = WeakKeyDictionary()
"""Frozen teachers say the same about train rows in every step: their means are computed once."""


def class_means(shares: np.ndarray, labels: np.ndarray, classes: int) -> Floats:
    """Mean of probabilities ``[T, ..., R, C]`` over the rows of each label, ``[T, ..., C, C]``; 0 where it has none.

    Args:
        shares: of T teachers on R rows.
        labels: ``[..., R]``.
        classes: C.
    """
    same = (labels[..., None, :] == np.arange(classes)[:, None]).astype(np.float64)  # [..., C, R]
    return np.asarray(same @ shares / np.maximum(same.sum(-1, keepdims=True), 1.0))


def geometry(v: View) -> np.ndarray:
    """``S - G`` and, teacher by teacher, ``T - G``, ``S - T``, ``M - G`` and ``S - M``, ``[N, B, C (1 + 4 T)]``."""
    labels, classes = v.problem.train.labels[v.rows], v.problem.task.num_labels
    gold = np.eye(classes)[labels]
    student, teachers = (np.exp(log_softmax(logits)) for logits in (v.next_batch.student_logits, v.teacher_logits))
    sides = [student - gold]
    for said, usual in zip(teachers, _usual(v, teachers, labels), strict=True):
        sides += [said - gold, student - said, usual - gold, student - usual]
    return np.concatenate(sides, axis=-1)


def _usual(v: View, teachers: np.ndarray, labels: np.ndarray) -> Floats:
    """The mean that belongs to each row, ``[T, N, B, C]``: over train rows, of teachers that change over its batch."""
    problem, classes = v.problem, v.problem.task.num_labels
    if changes(problem):
        return np.take_along_axis(class_means(teachers, labels, classes), labels[None, ..., None], axis=2)
    if problem not in _MEANS:
        shares = np.stack([np.exp(log_softmax(teacher.train_logits)) for teacher in problem.teachers])
        _MEANS[problem] = class_means(shares, problem.train.labels, classes)
    return np.asarray(_MEANS[problem][:, labels])


def _width(problem: Problem) -> int:
    return problem.task.num_labels * (1 + 4 * len(problem.teachers))


def register() -> None:
    """Add ``row_geometry``, and ``geometry``, its mean over the batch."""
    about = (
        "Differences of the probabilities of student (S), teacher (T) and label (G), TGeo-KD: ``S - G``, then of each "
        "teacher ``T - G``, ``S - T``, ``M - G`` and ``S - M``, with M its mean over the train rows of the same label "
        "(of its batch where the teacher changes)."
    )
    options = {"low": -1.0, "classification_only": True, "labels_only": True, "about": about}
    add_rows("geometry", "row_geometry", geometry, _width, options)
