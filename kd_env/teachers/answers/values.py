"""What a teacher without an encoder has said about rows: checked, put into the task's order, and made logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kd_env.data.tasks import Task
from kd_env.teachers.label_order import matching_order

KINDS = ("probabilities", "logits", "scores")
LEAST = 1e-6
"""Probabilities below it count as it: a logarithm of 0 would make every loss infinite."""
SUM_TOLERANCE = 1e-3
"""How far the probabilities of a row may be from one in sum: what rounding to three digits leaves."""


class Answers(NamedTuple):
    """Values of rows as they were given."""

    kind: str
    """One of :data:`KINDS`."""
    labels: tuple[str, ...] | None
    """What the columns stand for; None: the task's labels in their order, as far as is known."""
    values: np.ndarray
    """``[R, C]``, or of scores ``[R]`` or ``[R, 1]``."""


def as_logits(answers: Answers, task: Task, source: str, named: Callable[[np.ndarray], Sequence[str]]) -> np.ndarray:
    """Logits ``[R, C]`` float32 in the order of the task's labels (scores as they are); probabilities as logarithms.

    Args:
        answers: of R rows.
        task: gives the labels.
        source: of the answers, for messages.
        named: ids of the rows of some numbers, for messages.

    Raises:
        ValueError: another kind than the task's, another shape, other labels than its, NaN or infinity, or
            probabilities that are negative or do not sum to one; with the first rows.
    """
    _check_kind(answers, task, source)
    values, order = _numbers(answers.values, source), _order(answers, task, source)
    if task.regression:
        values = values.reshape(len(values), -1)
    if values.ndim != 2 or values.shape[1] != task.num_labels:
        wanted = f"[rows, {task.num_labels}]"
        raise ValueError(
            f"{source} has {answers.kind} of the shape {list(answers.values.shape)}, and the task {task.name!r} needs "
            f"{wanted}: {', '.join(task.labels) or 'one score a row'}."
        )
    values = values[:, order]
    _refuse(~np.isfinite(values).all(1), "hold NaN or infinity", values, source, named, "answer them again")
    if answers.kind == "probabilities":
        _refuse((values < 0).any(1), "hold negative probabilities", values, source, named, "are they logits?")
        off = np.abs(values.sum(1) - 1.0) > SUM_TOLERANCE
        remedy = "divide each row by its sum, or give logits as logits"
        _refuse(off, "do not sum to one", values, source, named, remedy)
        values = np.log(np.maximum(values / values.sum(1, keepdims=True), LEAST))
    with np.errstate(over="ignore"):
        logits = values.astype(np.float32)
    _refuse(~np.isfinite(logits).all(1), "are too large for float32", values, source, named, "scale them down")
    return logits


def _check_kind(answers: Answers, task: Task, source: str) -> None:
    if answers.kind not in KINDS:
        raise ValueError(f"{source} has {answers.kind!r}; allowed are {', '.join(KINDS)}.")
    if task.regression != (answers.kind == "scores"):
        wanted = "scores" if task.regression else "probabilities or logits"
        raise ValueError(f"{source} has {answers.kind}, and the task {task.name!r} needs {wanted}.")


def _numbers(values: Any, source: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"their type is {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} has values that are no numbers ({error}); give an array of numbers.") from error


def _order(answers: Answers, task: Task, source: str) -> list[int]:
    """For each label of the task its column."""
    if answers.labels is None or task.regression:
        return list(range(task.num_labels))
    if len(set(answers.labels)) < len(answers.labels):
        raise ValueError(f"{source} names a label twice: {list(answers.labels)}.")
    order = matching_order(answers.labels, task.labels)
    if order is None:
        absent = [label for label in task.labels if label not in answers.labels]
        raise ValueError(
            f"{source} names the labels {list(answers.labels)}, the task {task.name!r} {list(task.labels)}"
            f"{f' (not there: {absent})' if absent else ''}: which stands for which cannot be established. Name the "
            "columns as the task names its labels, in any order."
        )
    return order


def _refuse(
    faulty: Any,
    what: str,
    values: np.ndarray,
    source: str,
    named: Callable[[np.ndarray], Sequence[str]],
    remedy: str,
) -> None:
    rows = np.flatnonzero(faulty)
    if len(rows):
        shown = shown_ids(named(rows[:3]), len(rows))
        raise ValueError(
            f"{source}: the answers to {len(rows)} of {len(values)} rows {what}: {shown} (the first is "
            f"{values[rows[0]].tolist()}); {remedy}."
        )


def shown_ids(ids: Sequence[str], count: int) -> str:
    """The first ids of some rows, and whether there are more."""
    return ", ".join(ids) + (", ..." if count > len(ids) else "")
