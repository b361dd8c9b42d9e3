"""What a frozen teacher says about rows: computed once and kept (in memory or memory-mapped on disk), or online.

Ragged storage: token-level signals are kept for real tokens only, attention scores for pairs of real tokens only, and
are padded with zeros to a batch's own width when they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kd_env import trees
from kd_env.models import Encoder
from kd_env.tables import Table
from kd_env.types import Batch, EncoderFacts, ModelOutput, Signal

LOGITS = Signal("logits")
CACHE_FORMAT = 1
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
    """Runs the teacher for every batch; the last rows are remembered, since observation and step ask for the same."""

    def __init__(self, encoder: Encoder, signals: Iterable[Signal], precision: str) -> None:
        self.encoder = encoder
        self.facts = encoder.facts
        self.wanted = frozenset(signals)
        self.precision = precision
        self._last: tuple[bytes, ModelOutput] | None = None

    def provides(self, signal: Signal) -> bool:
        """See :class:`TeacherSource`."""
        return signal == LOGITS or signal in self.wanted

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """See :class:`TeacherSource`."""
        key = rows.tobytes() + batch.input_ids.shape[-1].to_bytes(4, "little")
        if self._last is None or self._last[0] != key:
            lead = batch.input_ids.shape[:-1]
            flat = trees.map_leaves(lambda t: t.reshape(-1, *t.shape[len(lead) :]), batch)
            with torch.no_grad(), autocast(flat.input_ids.device, self.precision):
                output = cast(self.encoder.forward({}, flat, self.wanted), self.encoder.module.dtype)
            output = trees.map_leaves(lambda t: t.reshape(*lead, *t.shape[1:]), output)
            self._last = (key, output)
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
    """Reads what :func:`teacher_outputs` computed once.

    Args:
        outputs: signal -> flat array: ``[R, F]`` for logits and [CLS], ``[tokens, F]`` for token-level signals and
            ``[token pairs, A]`` for attention scores.
    """

    def __init__(
        self, facts: EncoderFacts, outputs: Mapping[Signal, np.ndarray], table: Table, dtype: torch.dtype
    ) -> None:
        self.facts = facts
        self.dtype = dtype
        self.device = table.input_ids.device
        lengths = table.lengths
        self._tokens = torch.as_tensor(np.concatenate([[0], np.cumsum(lengths)[:-1]]), device=self.device)
        self._pairs = torch.as_tensor(np.concatenate([[0], np.cumsum(lengths**2)[:-1]]), device=self.device)
        self._lengths = table.device_lengths
        # In memory: on the device, in the type of the run. Memory-mapped files are read at every step instead.
        self._outputs: dict[Signal, Tensor | np.ndarray] = {
            signal: array
            if isinstance(array, np.memmap)
            else torch.as_tensor(array, device=self.device, dtype=self.dtype if array.nbytes < 2**28 else None)
            for signal, array in outputs.items()
        }

    def provides(self, signal: Signal) -> bool:
        """See :class:`TeacherSource`."""
        return signal in self._outputs

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """See :class:`TeacherSource`."""
        index = torch.as_tensor(rows, device=self.device)
        mask = batch.attention_mask
        positions = torch.arange(mask.shape[-1], device=self.device)
        tokens = self._tokens[index][..., None] + positions.minimum(self._lengths[index][..., None] - 1)
        result: dict[str, dict[int, Tensor]] = {name: {} for name in _FIELDS}
        for signal in self._outputs:
            kind, layer = signal
            if kind in ("logits", "cls"):
                value = self._read(signal, index)
            elif kind == "hidden_states":
                value = self._read(signal, tokens) * mask[..., None]
            elif kind == "attention_scores":
                length = self._lengths[index][..., None, None]
                column = positions.minimum(length - 1)
                row = positions[:, None].minimum(length - 1)
                cells = self._read(signal, self._pairs[index][..., None, None] + row * length + column)
                value = (cells * (mask[..., :, None, None] & mask[..., None, :, None])).movedim(-1, -3)
            else:
                flat = self._read(signal, tokens) * mask[..., None]
                value = flat.unflatten(-1, (self.facts.num_heads, -1)).movedim(-2, -3)
            result[kind][layer] = value
        logits = result.pop("logits")
        return ModelOutput(logits=logits[-1], **result)

    def _read(self, signal: Signal, index: Tensor) -> Tensor:
        source = self._outputs[signal]
        if isinstance(source, Tensor):
            return source[index].to(self.dtype)
        return torch.from_numpy(source[index.cpu().numpy()]).to(self.device, self.dtype)


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
        rows_at_once: rows of one forward pass.
        progress: whether to show a progress bar.

    Raises:
        ValueError: the cache folder holds something else under the key of this content.
    """
    wanted = sorted(frozenset(signals) | {LOGITS})
    shapes = {signal: _flat_shape(signal, encoder, table) for signal in wanted}
    if cache_dir is None:
        arrays = {signal: np.empty(shape, dtype=dtype) for signal, shape in shapes.items()}
        _fill(arrays, encoder, table, rows_at_once, precision, progress)
        return arrays
    meta = {
        "format": CACHE_FORMAT,
        "teacher": identity,
        "rows": table.content_hash(),
        "dtype": dtype,
        "precision": precision,
        "signals": {_file(signal): list(shape) for signal, shape in shapes.items()},
    }
    key = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"teacher-{key}"
    if not folder.exists():
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache_dir))
        try:
            files: dict[Signal, np.memmap[Any, Any]] = {
                signal: np.lib.format.open_memmap(temporary / _file(signal), mode="w+", dtype=dtype, shape=shape)
                for signal, shape in shapes.items()
            }
            _fill(files, encoder, table, rows_at_once, precision, progress)
            for array in files.values():
                array.flush()
            digests = {_file(signal): _digest(temporary / _file(signal)) for signal in wanted}
            (temporary / "meta.json").write_text(json.dumps({**meta, "sha256": digests}, indent=1), encoding="utf-8")
            try:
                os.rename(temporary, folder)
            except OSError:  # another process finished the same content first: its files are as good
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _check_cache(folder, meta)
    return {signal: np.load(folder / _file(signal), mmap_mode="r", allow_pickle=False) for signal in wanted}


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 over names, shapes and values of a module's parameters and buffers, and its configuration."""
    digest = hashlib.sha256(encoder.module.config.to_json_string().encode())
    for name, tensor in sorted(encoder.module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_cache(folder: Path, meta: Mapping[str, Any]) -> None:
    remedy = f"Delete {folder} or name another cache_dir."
    try:
        found = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"The teacher cache {folder} has no readable meta.json. {remedy}") from error
    for name, value in meta.items():
        if found.get(name) != value:
            raise ValueError(
                f"The teacher cache {folder} is of other content: {name} is {found.get(name)!r} there and {value!r} "
                f"here. {remedy}"
            )
    for file in meta["signals"]:
        path = folder / file
        if not path.is_file() or _digest(path) != found.get("sha256", {}).get(file):
            raise ValueError(f"The teacher cache file {path} is missing, cut short or of other content. {remedy}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    progress: bool,
) -> None:
    from tqdm import tqdm

    tokens = np.concatenate([[0], np.cumsum(table.lengths)])
    pairs = np.concatenate([[0], np.cumsum(table.lengths**2)])
    with tqdm(total=len(table), desc="teacher outputs", unit="row", disable=not progress, leave=False) as bar:
        for rows in table.chunks(rows_at_once):
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
