"""What a frozen teacher says about rows: computed once and kept (in memory or memory-mapped on disk), or online.

Ragged storage: token-level signals are kept for real tokens only, attention scores for pairs of real tokens only, and
are padded with zeros to a batch's own width when they are read.

A teacher with another tokenizer than the student's has a table of its own, with the same rows in the same order. What
it says about a whole row (logits, [CLS]) is read by row and fits; what it says about tokens does not.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.data.tables import Table
from kd_env.models.encoder import Encoder
from kd_env.teachers.cache import MappedArray, stored_arrays

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
        """See :class:`TeacherSource`."""
        return signal == LOGITS or signal in self.wanted

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """See :class:`TeacherSource`."""
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
        """See :class:`TeacherSource`; what the terms ask for is computed by the student."""
        return True

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """See :class:`TeacherSource`."""
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
        """See :class:`TeacherSource`."""
        return signal in self._outputs

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """See :class:`TeacherSource`."""
        key = _batch_key(rows, batch)
        if self._last is None or self._last[0] != key:
            self._last = None  # else the memory of two batches is held
            index = torch.as_tensor(rows, device=self.device)
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
            found = torch.from_numpy(self._read_mapped(signal, source, rows, mask.shape[-1]))
        else:
            found = self._read_held(signal, source, index, mask)
        value: Tensor = found.to(self.device).to(self.dtype)  # in one call the host would convert, and send more
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


def teacher_outputs(
    encoder: Encoder,
    table: Table,
    signals: Iterable[Signal],
    *,
    dtype: str = "float32",
    precision: str = "fp32",
    cache_dir: str | None = None,
    identity: str = "",
    rows_at_once: int = 128,
    progress: bool = False,
    name: str = "",
) -> dict[Signal, np.ndarray]:
    """Everything the teacher says about the rows of one table, computed once.

    Args:
        encoder: the teacher.
        table: the rows.
        signals: what to keep beside the logits.
        precision: ``bf16`` runs the teacher under autocast.
        dtype: type of the stored values, ``float32`` or ``float16``.
        cache_dir: folder of the disk cache (read memory-mapped afterwards); None keeps the arrays in memory.
        identity: hash of the teacher's weights (:func:`weights_hash`); part of the cache's key.
        rows_at_once: rows of one forward pass, a chunk of the cache.
        progress: whether to show a progress bar.
        name: of the teacher, for the progress bar.

    Raises:
        ValueError: see :func:`kd_env.teachers.cache.stored_arrays`.
    """
    shapes = {signal: _flat_shape(signal, encoder, table) for signal in sorted(frozenset(signals) | {LOGITS})}
    title = f"teacher outputs {name}".rstrip() if progress else None

    def fill(arrays: Mapping[Signal, np.ndarray], start: int) -> Iterator[int]:
        return _fill(arrays, encoder, table, rows_at_once, precision, start, title)

    if cache_dir is None:
        arrays = {signal: np.empty(shape, dtype=dtype) for signal, shape in shapes.items()}
        deque(fill(arrays, 0), maxlen=0)
        return arrays
    files = {_file(signal): signal for signal in shapes}
    found = stored_arrays(
        cache_dir,
        {"teacher": identity, "rows": table.content_hash(), "precision": precision},
        {_file(signal): shape for signal, shape in shapes.items()},
        dtype,
        lambda targets, start: fill({files[file]: array for file, array in targets.items()}, start),
        rows=len(table),
        rows_at_once=rows_at_once,
        progress=progress,
    )
    return {files[file]: array for file, array in found.items()}


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 over names, shapes and values of a module's parameters and buffers, and its configuration."""
    digest = hashlib.sha256(encoder.module.config.to_json_string().encode())
    for name, tensor in sorted(encoder.module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _batch_key(rows: np.ndarray, batch: Batch) -> bytes:
    """Rows and width: what a batch of one table is known by."""
    return f"{rows.shape}{batch.input_ids.shape[-1]}".encode() + rows.tobytes()


def _file(signal: Signal) -> str:
    return f"{signal.kind}.npy" if signal.layer < 0 else f"{signal.kind}-{signal.layer}.npy"


def _flat_shape(signal: Signal, encoder: Encoder, table: Table) -> tuple[int, ...]:
    facts = encoder.facts
    if signal.kind == "logits":
        return (len(table), facts.num_labels)
    if signal.kind == "cls":
        return (len(table), facts.hidden_size)
    if signal.kind == "attention_scores":
        return (int((table.lengths**2).sum()), facts.num_heads)
    return (int(table.lengths.sum()), facts.hidden_size)


def _fill(
    arrays: Mapping[Signal, np.ndarray],
    encoder: Encoder,
    table: Table,
    rows_at_once: int,
    precision: str,
    start: int,
    title: str | None,
) -> Iterator[int]:
    """Compute the chunks from number ``start`` on; yields how many are finished. No title, no progress bar."""
    from tqdm import tqdm

    tokens = np.concatenate([[0], np.cumsum(table.lengths)])
    pairs = np.concatenate([[0], np.cumsum(table.lengths**2)])
    with tqdm(total=len(table), desc=title, unit="row", disable=title is None, leave=False) as bar:
        for number, rows in enumerate(table.chunks(rows_at_once)):
            if number < start:
                bar.update(len(rows))
                continue
            batch = table.gather(rows)
            with torch.no_grad(), autocast(batch.input_ids.device, precision):
                output = encoder.forward({}, batch, arrays)
            for signal, target in arrays.items():
                value = output.logits if signal.kind == "logits" else getattr(output, signal.kind)[signal.layer]
                host = value.to(torch.float64 if target.dtype == np.float64 else torch.float32).cpu().numpy()
                if signal.kind in ("logits", "cls"):
                    target[rows] = host
                    continue
                for place, row in enumerate(rows):
                    length = int(table.lengths[row])
                    if signal.kind == "attention_scores":  # [A, S, S] -> [len * len, A]
                        cells = host[place, :, :length, :length].transpose(1, 2, 0).reshape(length * length, -1)
                        target[pairs[row] : pairs[row + 1]] = cells
                    elif signal.kind == "hidden_states":
                        target[tokens[row] : tokens[row + 1]] = host[place, :length]
                    else:  # [A, S, D] -> [len, A * D]
                        heads = host[place, :, :length].transpose(1, 0, 2).reshape(length, -1)
                        target[tokens[row] : tokens[row + 1]] = heads
            bar.update(len(rows))
            yield number + 1
