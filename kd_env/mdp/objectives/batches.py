"""What students learn from in one update: a batch, as it is or with other tokens in some of its places."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env.core.types import Batch, ModelOutput


class Edit(NamedTuple):
    """What stands in the slots of N edited batches, on the device; P slots of a row."""

    places: Tensor  # [N, B, P] int64, rising; 0 where a slot is not valid
    valid: Tensor  # [N, B, P] bool
    original: Tensor  # [N, B, P] int64, tokens of the text
    chosen: Tensor  # [N, B, P] int64, tokens in their place; the original where a slot is not valid
    masked: Tensor  # [N, B, P] int64, what stood there while they were chosen: [MASK], a random token or the original
    log_original: Tensor  # [N, B, P] log-probabilities of these tokens in the masked text, says its reader
    log_chosen: Tensor


class StudentBatch(NamedTuple):
    """The batch of one update of N students."""

    rows: np.ndarray  # [N, B] of the train table
    batch: Batch  # [N, B, ...], with what was written into it
    edit: Edit | None  # None where the rows are as they are


class TeacherPass(NamedTuple):
    """What the teachers say about a batch, without gradient."""

    outputs: tuple[ModelOutput, ...]  # T times [N, B, ...]
    hidden: tuple[
        Tensor, ...
    ] = ()  # T times [N, B, P, H], language models' last hidden states at the slots; else empty


class StudentUpdate(NamedTuple):
    """An update of N students as the decision hears of it."""

    batch: StudentBatch
    teachers: TeacherPass
    student: ModelOutput  # [N, B, ...], what the students said before the update, without gradient; see below
    diverged: Tensor  # [N] bool
    # Of a batch that is computed in parts, logits and hidden states alone are of all rows; there are no other signals.


def original_tokens(batch: Batch, places: Tensor) -> Tensor:
    """Tokens of the text at the slots, ``[N, B, P]``."""
    return batch.input_ids.gather(-1, places)


def edited(batch: Batch, places: Tensor, valid: Tensor, tokens: Tensor) -> Batch:
    """The batch with ``tokens [N, B, P]`` in its valid slots."""
    # A slot that is not valid lies at place 0, which is never a slot of another, and writes what is there already.
    written = torch.where(valid, tokens, original_tokens(batch, places))
    return batch._replace(input_ids=batch.input_ids.scatter(-1, places, written))


def at_slots(values: Tensor, places: Tensor) -> Tensor:
    """``values [N, B, S, ...]`` at ``places [N, B, P]``."""
    index = places.reshape(*places.shape, *(1,) * (values.dim() - 3))
    return values.gather(2, index.expand(*places.shape, *values.shape[3:]))
