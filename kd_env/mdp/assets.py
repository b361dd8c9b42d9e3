"""The costly parts of a problem, which every environment of it shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from kd_env.data import splits
from kd_env.data.tables import Table, TrainTable
from kd_env.data.tasks import Task
from kd_env.data.text import TokenFacts
from kd_env.models import encoder
from kd_env.models.masked_lm import MaskedLM
from kd_env.teachers.teacher_set import Teacher


class RowArray(Protocol):
    """An array, or what is read from files row by row as if it were one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Some of its rows, an array."""


class Reader(NamedTuple):
    """Who reads masked text, and how the train rows are masked."""

    folder: str
    identity: str  # hash of the weights
    model: MaskedLM
    tokens: TokenFacts
    ids: RowArray  # [R, S] int32, tokens of the train rows on the host
    ordinary: RowArray  # [R, S] bool, positions of train rows that may be masked
    slots: int  # P
    left_out: int  # train rows with fewer ordinary tokens than slots


class Assets(NamedTuple):
    """The costly parts, shared by every environment of one problem."""

    task: Task
    tokenizer: Any
    splits: splits.Splits
    train: TrainTable
    feedback: Table  # the fixed rows that are evaluated for reward and observation
    selection: Table
    teachers: tuple[Teacher, ...]
    reference: int  # index of the only teacher, or of the best one on the selection split
    student: encoder.Encoder
    projections: dict[str, tuple[int, int]]  # parameter name -> (out, in)
    device: torch.device
    dtype: torch.dtype
    reader: Reader | None = None  # where tokens are masked

    @property
    def reference_teacher(self) -> Teacher:
        """The teacher whose loss is ``e_T``."""
        return self.teachers[self.reference]


def label_width(task: Task) -> float | None:
    """Width of the label range of a regression task; None for classification."""
    if not task.regression:
        return None
    assert task.label_range is not None
    return float(task.label_range[1] - task.label_range[0])


def present_entries(teachers: int, reads_teacher: Sequence[bool]) -> np.ndarray:
    """Which entries of the loss table exist, ``[T, K]`` bool: a term without a teacher stands in row 0 only."""
    return np.array([[row == 0 or reads for reads in reads_teacher] for row in range(teachers)])
