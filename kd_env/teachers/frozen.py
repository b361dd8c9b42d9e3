"""What frozen layers of a student say about the rows of a table, computed once and kept like a teacher's outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_env.core.types import Batch, Signal
from kd_env.data.tables import Table
from kd_env.models.encoder import Encoder
from kd_env.teachers.outputs import teacher_outputs, weights_hash
from kd_env.teachers.sources import CachedTeacher


class KeptStates:
    """Hidden states of the student's last frozen layer by row; all replicas read the same.

    Args:
        source: the frozen layers as if they were a teacher.
    """

    def __init__(self, source: CachedTeacher) -> None:
        self.source = source

    def __call__(self, rows: np.ndarray, batch: Batch) -> dict[int, Tensor]:
        """Layer -> ``[..., S, H]``, 0 at padding."""
        unused: Any = None  # what a student says, which kept outputs do not depend on
        return self.source.signals(rows, batch, unused).hidden_states


def with_states(
    table: Table, student: Encoder, dtype: torch.dtype, *, precision: str, cache_dir: str | None, progress: bool
) -> Table:
    """The table with what the student's frozen layers say about its rows.

    Args:
        table: rows as they are, which nothing edits.
        student: frozen up to some depth.
        dtype: floating type of the run, of which they are kept.
        precision: of the pass.
        cache_dir: folder of the disk cache, for other processes, too; None keeps them in memory.
        progress: whether to show a progress bar.
    """
    depth = student.facts.frozen_depth
    assert depth is not None
    outputs = teacher_outputs(
        student,
        table,
        {Signal("hidden_states", depth)},
        dtype="float64" if dtype == torch.float64 else "float32",
        precision=precision,
        cache_dir=cache_dir,
        identity=weights_hash(student),
        progress=progress,
        name="(frozen layers)",
    )
    return dataclasses.replace(table, states=KeptStates(CachedTeacher(student.facts, outputs, table, dtype)))
