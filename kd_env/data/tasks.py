"""The tasks: their columns, labels and metrics. Other distributions add theirs in the group ``kd_env.tasks``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kd_env.core.registry import Registry
from kd_files.plugins import instance_of


@dataclass(frozen=True)
class Task:
    """What a task's rows look like and how they are judged."""

    name: str
    text_columns: tuple[str, ...]
    """One column, or two for sentence pairs."""
    label_column: str
    labels: tuple[str, ...]
    """Class names in label order; () for regression."""
    metrics: tuple[str, ...]
    """Official metrics; the first is the headline."""
    dev_splits: tuple[str, ...] = ("validation",)
    label_range: tuple[float, float] | None = None
    """Lowest and highest score of a regression task; None for classification."""
    read: Callable[[str], Mapping[str, Sequence[Any]]] | None = None
    """For a task that brings its rows itself: the columns of a split by name (``train`` and those of ``dev_splits``).
    Texts, and labels as names or numbers of classes, or as scores; the same at every call. None: they are in files."""

    @property
    def regression(self) -> bool:
        """Whether labels are scores."""
        return self.label_range is not None

    @property
    def num_labels(self) -> int:
        """Number of classes C; 1 for regression."""
        return 1 if self.regression else len(self.labels)


class Rows(NamedTuple):
    """The raw rows of one split."""

    first: list[str]
    second: list[str] | None  # None for single sentences
    labels: np.ndarray  # [rows] int64 class index, or float32 score for regression

    def select(self, index: np.ndarray, labels: np.ndarray) -> Rows:
        """The rows ``index``, with their labels among ``labels`` of all rows."""
        second = None if self.second is None else [self.second[i] for i in index]
        return Rows([self.first[i] for i in index], second, labels[index])


_PAIR = ("sentence1", "sentence2")


_TASKS = (
    Task("cola", ("sentence",), "label", ("unacceptable", "acceptable"), ("matthews_correlation",)),
    Task("sst2", ("sentence",), "label", ("negative", "positive"), ("accuracy",)),
    Task("mrpc", _PAIR, "label", ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    Task("stsb", _PAIR, "label", (), ("pearson", "spearmanr"), label_range=(0.0, 5.0)),
    Task("qqp", ("question1", "question2"), "label", ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    Task(
        "mnli",
        ("premise", "hypothesis"),
        "label",
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        ("validation_matched", "validation_mismatched"),
    ),
    Task("qnli", ("question", "sentence"), "label", ("entailment", "not_entailment"), ("accuracy",)),
    Task("rte", _PAIR, "label", ("entailment", "not_entailment"), ("accuracy",)),
    Task("wnli", _PAIR, "label", ("not_entailment", "entailment"), ("accuracy",)),
)


GLUE: dict[str, Task] = {task.name: task for task in _TASKS}


EMBEDDED: dict[str, Task] = {
    "toy": Task("toy", ("sentence",), "label", ("negative", "positive"), ("accuracy",)),
    "toy_pair": Task("toy_pair", ("premise", "hypothesis"), "label", ("entailment", "not_entailment"), ("accuracy",)),
}


TASKS: Registry[Task] = Registry("task", "kd_env.tasks", instance_of(Task))
for _task in (*GLUE.values(), *EMBEDDED.values()):
    TASKS.register(_task.name)(_task)


def brings_rows(name: object) -> bool:
    """Whether the rows of a task are embedded, or come with its plug-in, so that there are no files of it."""
    return name in EMBEDDED or (name in TASKS and TASKS[str(name)].read is not None)


def is_regression(name: Any, columns: Any = None) -> bool:
    """Whether the task of these options is one of scores; no file is read, and what is no task is none."""
    if name == "custom":
        return isinstance(columns, Mapping) and columns.get("kind") == "regression"
    return name in TASKS and TASKS[name].regression
