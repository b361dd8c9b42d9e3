"""What a frozen teacher says about rows: computed once and kept (in memory or memory-mapped on disk), or online.

Ragged storage: token-level signals are kept for real tokens only, attention scores for pairs of real tokens only, and
are padded with zeros to a batch's own width when they are read.

A teacher with another tokenizer than the student's has a table of its own, with the same rows in the same order. What
it says about a whole row (logits, [CLS]) is read by row and fits; what it says about tokens does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.core.trees import upload
from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.data.tables import Table
from kd_env.models.encoder import Encoder
from kd_env.teachers.cache import MappedArray

LOGITS = Signal("logits")
ROW_KINDS = ("logits", "cls")
"""Signals of whole rows; the others are of tokens."""
_FIELDS = ("logits", "cls", "hidden_states", "attention_scores", "queries", "keys", "values")


class TeacherSource(Protocol):
    """Teacher signals for train rows."""

    facts: EncoderFacts

    def provides(self, signal: Signal) -> bool:
        """Whether a signal is there."""
        ...

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """Signals for rows ``[...]``, whose batch has the same leading shape, each field ``[..., S, ...]``.

        ``student`` is what the student says about the same batch.
        """
        ...


def autocast(device: torch.device, precision: str) -> Any:
    """The autocast context of a forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def cast(output: ModelOutput, dtype: torch.dtype) -> ModelOutput:
    """Every signal in one floating type (bf16 leaves the autocast region here)."""
    return trees.map_leaves(lambda t: t.to(dtype), output)


class OnlineTeacher:
    """Runs the teacher for every batch; the last rows are remembered, since observation and step ask for the same.

    Args:
        encoder: the teacher.
        signals: what to return beside the logits.
        precision: ``bf16`` runs the teacher under autocast.
        table: the rows as the teacher's own tokenizer reads them; None reads the student's batch.

    Raises:
        ValueError: token-level signals of a teacher with a table of its own.
    """

    def __init__(self, encoder: Encoder, signals: Iterable[Signal], precision: str, table: Table | None = None) -> None:
        self.encoder = encoder
        self.facts = encoder.facts
        self.wanted = frozenset(signals)
        self.precision = precision
        self.table = table
        self._last: tuple[bytes, ModelOutput] | None = None
        tokens = sorted(
            f"{signal.kind} of layer {signal.layer}" for signal in self.wanted if signal.kind not in ROW_KINDS
        )
        if table is not None and tokens:
            raise ValueError(
                f"A teacher with a table of its own cannot give {', '.join(tokens)}: its tokens are not the "
                "student's, so that nothing says which belong together. Logits and [CLS] are of whole rows and work; "
                "leave out the terms that read tokens, or use a teacher with the student's tokenizer."
            )

    def provides(self, signal: Signal) -> bool:
        """Whether a signal is among those that the teacher was asked for; logits always are."""
        return signal == LOGITS or signal in self.wanted

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """Signals of the teacher, run on the rows now unless they are those of the last call."""
        key = _batch_key(rows, batch)
        if self._last is None or self._last[0] != key:
            self._last = None  # else the memory of two batches is held
            if self.table is None:
                flat = trees.map_leaves(lambda t: t.reshape(-1, *t.shape[rows.ndim :]), batch)
            else:
                flat = self.table.gather(rows.reshape(-1))
            with torch.no_grad(), autocast(flat.input_ids.device, self.precision):
                output = cast(self.encoder.forward({}, flat, self.wanted), self.encoder.module.dtype)
            self._last = (key, trees.map_leaves(lambda t: t.reshape(*rows.shape, *t.shape[1:]), output))
        return self._last[1]


class StudentAsTeacher:
    """The control ``teacher_source=student``: signals are those of the student itself, at every update, detached."""

    def __init__(self, facts: EncoderFacts) -> None:
        self.facts = facts

    def provides(self, signal: Signal) -> bool:
        """True: what the terms ask for is computed by the student."""
        return True

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """The student's signals on the same batch, detached."""
        return trees.map_leaves(Tensor.detach, student)


class CachedTeacher:
    """Reads what :func:`teacher_outputs` computed once; the last batch is remembered as by :class:`OnlineTeacher`.

    Args:
        outputs: signal -> flat array: ``[R, F]`` for logits and [CLS], ``[tokens, F]`` for token-level signals and
            ``[token pairs, A]`` for attention scores.
        table: the table they were computed on; one of the teacher's own tokenizer has logits and [CLS] only.
        dtype: of what is returned.
    """

    def __init__(
        self, facts: EncoderFacts, outputs: Mapping[Signal, np.ndarray], table: Table, dtype: torch.dtype
    ) -> None:
        self.facts = facts
        self.dtype = dtype
        self.device = table.input_ids.device
        self._lengths = table.lengths
        self._tokens = np.concatenate([[0], np.cumsum(table.lengths)[:-1]])
        self._pairs = np.concatenate([[0], np.cumsum(table.lengths**2)[:-1]])
        self._on_device = tuple(
            torch.as_tensor(values, device=self.device) for values in (self._lengths, self._tokens, self._pairs)
        )
        self._last: tuple[bytes, ModelOutput] | None = None
        self._outputs = {signal: self._hold(signal, array) for signal, array in outputs.items()}

    def provides(self, signal: Signal) -> bool:
        """Whether a signal was computed and kept."""
        return signal in self._outputs

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """Signals of the rows, read from what was computed once."""
        key = _batch_key(rows, batch)
        if self._last is None or self._last[0] != key:
            self._last = None  # else the memory of two batches is held
            index = upload(rows, self.device)
            result: dict[str, dict[int, Tensor]] = {name: {} for name in _FIELDS}
            for signal in self._outputs:
                result[signal.kind][signal.layer] = self._read(signal, rows, index, batch.attention_mask)
            logits = result.pop("logits")
            self._last = (key, ModelOutput(logits=logits[-1], **result))
        return self._last[1]

    def _hold(self, signal: Signal, array: np.ndarray) -> Tensor | MappedArray:
        """In memory: on the device, in the type of the run. Memory-mapped files are read at every step instead."""
        if isinstance(array, np.memmap) and signal != LOGITS:  # a few bytes a row are not worth a page each
            return MappedArray(array)
        held = np.array(array) if isinstance(array, np.memmap) else array
        return torch.as_tensor(held, device=self.device, dtype=self.dtype if held.nbytes < 2**28 else None)

    def _read(self, signal: Signal, rows: np.ndarray, index: Tensor, mask: Tensor) -> Tensor:
        """One signal of ``[...]`` rows as a field of :class:`ModelOutput`, zeros at padded places."""
        source = self._outputs[signal]
        if isinstance(source, MappedArray):
            values = torch.from_numpy(self._read_mapped(signal, source, rows, mask.shape[-1]))
        else:
            values = self._read_held(signal, source, index, mask)
        value: Tensor = values.to(self.device).to(self.dtype)  # in one call the host would convert, and send more
        if signal.kind == "attention_scores":
            return value.movedim(-1, -3)
        if signal.kind in ROW_KINDS or signal.kind == "hidden_states":
            return value
        heads: Tensor = value.unflatten(-1, (self.facts.num_heads, -1))
        return heads.movedim(-2, -3)

    def _read_mapped(self, signal: Signal, source: MappedArray, rows: np.ndarray, width: int) -> np.ndarray:
        if signal.kind in ROW_KINDS:
            return source.rows(rows)
        if signal.kind == "attention_scores":
            return source.squares(self._pairs[rows], self._lengths[rows], width)
        return source.spans(self._tokens[rows], self._lengths[rows], width)

    def _read_held(self, signal: Signal, source: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        if signal.kind in ROW_KINDS:
            return source[index]
        lengths, tokens, pairs = (values[index][..., None] for values in self._on_device)
        inside = torch.arange(mask.shape[-1], device=self.device).minimum(lengths - 1)  # [..., S]
        if signal.kind == "attention_scores":
            cells = pairs[..., None] + inside[..., :, None] * lengths[..., None] + inside[..., None, :]
            return source[cells] * (mask[..., :, None, None] & mask[..., None, :, None])
        return source[tokens + inside] * mask[..., None]


def _batch_key(rows: np.ndarray, batch: Batch) -> bytes:
    """Rows and width: what a batch of one table is known by."""
    return f"{rows.shape}{batch.input_ids.shape[-1]}".encode() + rows.tobytes()
