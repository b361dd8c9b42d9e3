"""How long models take for real rows, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.data.tables import Table
from kd_env.evaluation.shipping.models import Model, inputs_of, one_thread

BATCHES = (1, 32)
"""Rows of a batch, as they are timed."""
_WARM_UP = 2


class Timed(NamedTuple):
    """A model and the rows that it is timed on, in its own tokens."""

    model: Model
    table: Table
    names: tuple[str, ...]
    """Of its inputs."""


def latencies(
    models: Mapping[str, Timed], repeats: int, on_batch: Callable[[], None] = lambda: None
) -> dict[str, dict[int, float]]:
    """Median milliseconds of a batch, by model and rows of the batch.

    Every repeat takes other rows, drawn once for all models, padded to their longest. The models take turns, so that
    what else the machine does falls on all of them.

    Args:
        models: by name; their tables hold the same rows.
        repeats: batches that each model is timed on.
        on_batch: called after every batch.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in models}
    generator, [count] = np.random.default_rng(0), {len(timed.table) for timed in models.values()}
    with one_thread():
        for size in BATCHES:
            times: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(_WARM_UP + repeats):
                rows = generator.choice(count, size, replace=count < size)
                for name, timed in models.items():
                    times[name].append(_milliseconds(timed, rows))
                    on_batch()
            for name, values in times.items():
                found[name][size] = median(values[_WARM_UP:])
    return found


def _milliseconds(timed: Timed, rows: NDArray[np.int64]) -> float:
    inputs = inputs_of(timed.table, rows, timed.names)
    begin = time.perf_counter()
    timed.model(inputs)
    return 1000.0 * (time.perf_counter() - begin)


def batches(models: int, repeats: int) -> int:
    """How often ``on_batch`` of :func:`latencies` is called."""
    return len(BATCHES) * models * (_WARM_UP + repeats)
