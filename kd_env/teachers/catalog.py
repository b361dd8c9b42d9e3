"""Teacher sources by name: what a teacher says about train rows, and when it is asked.

Other distributions add theirs with ``@TEACHER_SOURCES.register`` or the entry-point group ``kd_env.teacher_sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from kd_env.core.registry import Registry
from kd_env.core.types import EncoderFacts, ModelOutput, Signal
from kd_env.data.tables import Table
from kd_env.models.encoder import Encoder
from kd_env.teachers.sources import CachedTeacher, OnlineTeacher, StudentAsTeacher, TeacherSource
from kd_files.plugins import function

BUILT_IN = ("cached", "online", "student")
"""Ours, of whose train logits :mod:`kd_env.teachers.loading` knows."""
_AT_ONCE = 256
"""Rows that a source is asked about at a time."""


class SourceParts(NamedTuple):
    """What the source of one frozen teacher may be made of."""

    encoder: Encoder  # the teacher
    facts: EncoderFacts  # its sizes; those of the student where it is its own teacher
    signals: frozenset[Signal]  # what terms and features read of it beside the logits
    table: Table  # the train rows in its tokens, in the order of the student's, with their labels
    foreign: bool  # whether these are other tokens than the student's
    precision: str  # fp32, fp64 or bf16 (run under autocast)
    dtype: torch.dtype  # of everything that it returns
    kept: Callable[[], Mapping[Signal, np.ndarray]]  # computes, or reads from the cache, its outputs on the train rows


SourceFactory = Callable[[SourceParts], TeacherSource]

TEACHER_SOURCES: Registry[SourceFactory] = Registry("teacher source", "kd_env.teacher_sources", function)


@TEACHER_SOURCES.register("cached")
def _cached(parts: SourceParts) -> TeacherSource:
    return CachedTeacher(parts.facts, parts.kept(), parts.table, parts.dtype)


@TEACHER_SOURCES.register("online")
def _online(parts: SourceParts) -> TeacherSource:
    return OnlineTeacher(parts.encoder, parts.signals, parts.precision, table=parts.table if parts.foreign else None)


@TEACHER_SOURCES.register("student")
def _student(parts: SourceParts) -> TeacherSource:
    return StudentAsTeacher(parts.facts)


def logits_of(source: TeacherSource, table: Table, num_labels: int) -> np.ndarray:
    """What a source says about every train row, ``[R, C]`` float32: what features and rules read of its teacher.

    Args:
        source: of another distribution.
        table: R train rows in the student's tokens.
        num_labels: C.

    Raises:
        ValueError: logits of another shape.
    """
    found = np.zeros((len(table), num_labels), np.float32)
    for rows in np.split(np.arange(len(table)), range(_AT_ONCE, len(table), _AT_ONCE)):
        batch = table.gather(rows)
        logits = torch.zeros(len(rows), num_labels, device=batch.input_ids.device)
        student = ModelOutput(logits, {}, {}, {}, {}, {}, {})  # there is none
        logits = source.signals(rows, batch, student).logits
        if logits.shape != (len(rows), num_labels):
            raise ValueError(
                f"The teacher source {type(source).__name__} gives logits of shape {tuple(logits.shape)} for "
                f"{len(rows)} rows; it has to give ({len(rows)}, {num_labels})."
            )
        found[rows] = logits.float().cpu().numpy()
    return found
