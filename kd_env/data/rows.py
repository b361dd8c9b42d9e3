"""The rows of a problem: read, cut into splits, with the labels that training and feedback see."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from kd_env.data import splits
from kd_env.data.label_noise import add_label_noise, noise_seed, shuffle_labels
from kd_env.data.loading import load_train
from kd_env.data.tables import Table, tokenize
from kd_env.data.tasks import Rows, Task


class RowOptions(Protocol):
    """Options of an environment that say which rows are used, and for what."""

    @property
    def data_dir(self) -> str | None: ...  # noqa: D102 - documented where the options are
    @property
    def split_seed(self) -> int: ...  # noqa: D102
    @property
    def feedback_rows(self) -> int | None: ...  # noqa: D102
    @property
    def selection_rows(self) -> int | None: ...  # noqa: D102
    @property
    def evaluation_rows(self) -> int: ...  # noqa: D102
    @property
    def feedback_labels(self) -> str: ...  # noqa: D102
    @property
    def max_train_rows(self) -> int | None: ...  # noqa: D102
    @property
    def label_noise(self) -> float: ...  # noqa: D102
    @property
    def noise_seed(self) -> int | None: ...  # noqa: D102
    @property
    def train_on(self) -> str: ...  # noqa: D102


class ProblemRows(NamedTuple):
    """Rows of the official train split, and what they are used for."""

    texts: Rows
    splits: splits.Splits
    train: np.ndarray  # int64, rows that students are trained on
    train_labels: np.ndarray  # of all rows, some replaced where label noise is asked for
    feedback: np.ndarray  # int64, the fixed feedback rows that are evaluated, rising
    feedback_labels: np.ndarray  # of all rows; those of feedback have each other's where they are shuffled

    def tables(
        self, tokenizer: Any, max_length: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Table, Table, Table]:
        """Train, feedback and selection rows in the tokens of a model."""

        def table(index: np.ndarray, labels: np.ndarray) -> Table:
            return tokenize(self.texts.select(index, labels), tokenizer, max_length, device, dtype)

        return (
            table(self.train, self.train_labels),
            table(self.feedback, self.feedback_labels),
            table(self.splits.selection, self.texts.labels),
        )


def read_rows(config: RowOptions, task: Task) -> ProblemRows:
    """Read the official train split and cut it.

    Raises:
        ValueError: files that cannot be read, or too few rows for the splits.
    """
    texts = load_train(task, config.data_dir)
    cut = splits.cut(
        texts,
        seed=config.split_seed,
        feedback_rows=config.feedback_rows,
        selection_rows=config.selection_rows,
        max_train_rows=config.max_train_rows,
        regression=task.regression,
    )
    train_labels = feedback_labels = texts.labels
    if config.label_noise > 0:
        seed = noise_seed(config)
        train_labels = add_label_noise(texts.labels, cut.train, config.label_noise, task.num_labels, seed)
    order = np.random.default_rng([config.split_seed, 1]).permutation(cut.feedback)
    feedback = np.sort(order[: config.evaluation_rows])
    if config.feedback_labels == "shuffled":
        feedback_labels = shuffle_labels(texts.labels, feedback, config.split_seed)
    train = cut.train if config.train_on == "train" else np.concatenate([cut.train, cut.feedback])
    warn_absent_classes(task, texts.labels, train, feedback)
    return ProblemRows(texts, cut, train, train_labels, feedback, feedback_labels)


def warn_absent_classes(task: Task, labels: np.ndarray, train: np.ndarray, feedback: np.ndarray) -> None:
    """Say which classes no train row, or no evaluated feedback row, has.

    Args:
        task: of classes; one of scores has none.
        labels: of all rows.
        train: row numbers.
        feedback: row numbers of those that are evaluated.
    """
    for what, rows, remedy in (
        ("train row", train, "students cannot learn it; give rows of it, or leave it out of the task's labels"),
        ("evaluated feedback row", feedback, "rewards say nothing of it; raise feedback_rows and evaluation_rows"),
    ):
        absent = [name for place, name in enumerate(task.labels) if place not in labels[rows]]
        if absent:
            warnings.warn(f"No {what} is of class {', '.join(absent)}: {remedy}.", UserWarning, stacklevel=3)
