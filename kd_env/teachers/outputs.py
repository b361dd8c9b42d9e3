"""Outputs of a frozen teacher on whole tables, computed once and kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping

import numpy as np
import torch

from kd_env.core.types import Signal
from kd_env.data.tables import Table
from kd_env.models.encoder import Encoder
from kd_env.teachers.cache import stored_arrays
from kd_env.teachers.sources import LOGITS, autocast

_RECENT: OrderedDict[Hashable, dict[Signal, np.ndarray]] = OrderedDict()
"""Outputs that are kept in memory, so that the next environment of the same teacher and rows takes them as they are."""
_RECENT_BYTES = 64 * 2**20
"""Of all of them; larger ones want a ``cache_dir``."""


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
        cache_dir: folder of the disk cache (read memory-mapped afterwards); None keeps the arrays in memory, and small
            ones for the next call about the same teacher and rows in this process, too.
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
        # Another device or number of threads rounds otherwise.
        where = (str(table.input_ids.device), torch.get_num_threads(), rows_at_once)
        key = (identity, table.content_hash(), precision, dtype, tuple(shapes), where)
        arrays = _RECENT.get(key) if identity else None
        if arrays is None:
            arrays = {signal: np.empty(shape, dtype=dtype) for signal, shape in shapes.items()}
            deque(fill(arrays, 0), maxlen=0)
            if identity:
                _remember(key, arrays)
        return {**arrays, LOGITS: arrays[LOGITS].copy()}  # problems show their logits, and each has its own
    files = {_file(signal): signal for signal in shapes}
    stored = stored_arrays(
        cache_dir,
        {"teacher": identity, "rows": table.content_hash(), "precision": precision},
        {_file(signal): shape for signal, shape in shapes.items()},
        dtype,
        lambda targets, start: fill({files[file]: array for file, array in targets.items()}, start),
        rows=len(table),
        rows_at_once=rows_at_once,
        progress=progress,
    )
    return {files[file]: array for file, array in stored.items()}


def _remember(key: Hashable, arrays: dict[Signal, np.ndarray]) -> None:
    """Keep the newest outputs, as many as there is room for."""
    room = _RECENT_BYTES - _size(arrays)
    if room < 0:
        return
    while sum(map(_size, list(_RECENT.values()))) > room:
        _RECENT.popitem(last=False)
    _RECENT[key] = arrays


def _size(arrays: Mapping[Signal, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 over names, shapes and values of a module's parameters and buffers, and its configuration."""
    digest = hashlib.sha256(encoder.module.config.to_json_string().encode())
    for name, tensor in sorted(encoder.module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
