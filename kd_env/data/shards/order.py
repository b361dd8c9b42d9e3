"""The order of rows in an episode where there are too many to list: a bijection that is computed place by place.

A generalised Feistel network over a grid of about ``sqrt(R)`` by ``sqrt(R)`` places (Black and Rogaway, "Ciphers with
Arbitrary Finite Domains", CT-RSA 2002): the two coordinates are moved in turns by a hash of the other one, and what
falls outside of the rows walks on. So any place of any epoch costs the same, and nothing is kept.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class OrderStream(NamedTuple):
    """Where one replica stands in its data order."""

    seed: int
    drawn: int  # batches so far, over all epochs


class RowOrder(NamedTuple):
    """R rows in full batches of B, in another order in every epoch.

    Every row comes exactly once in an epoch, but for the ``R % B`` last ones of its order, which make no full batch;
    they are others in each epoch.
    """

    rows: int
    batch_size: int

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.rows // self.batch_size

    def draw(self, stream: OrderStream, count: int) -> tuple[np.ndarray, OrderStream]:
        """The next ``count`` batches, ``[count, B]`` row numbers, and where the stream then stands."""
        batches = []
        for number in range(stream.drawn, stream.drawn + count):
            epoch, batch = divmod(number, self.per_epoch)
            places = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
            batches.append(rows_at(places, self.rows, stream.seed, epoch))
        return np.stack(batches), stream._replace(drawn=stream.drawn + count)

    def visits(self, stream: OrderStream, ahead: int, rows: np.ndarray) -> np.ndarray:
        """How often ``rows [B]`` stood in a batch before; the last ``ahead`` batches that were drawn do not count."""
        counts = np.zeros(rows.shape, dtype=np.int64)
        full, rest = divmod(stream.drawn - ahead, self.per_epoch)
        for epoch in range(full + 1):
            seen = self.per_epoch if epoch < full else rest
            counts += places_of(rows, self.rows, stream.seed, epoch) < seen * self.batch_size
        return counts


def check_rows(rows: int, batch_size: int) -> None:
    """Raise ``ValueError`` where there are fewer train rows than one batch has."""
    if rows < batch_size:
        raise ValueError(
            f"The train split has {rows} rows, fewer than batch_size={batch_size}; lower batch_size, or give "
            "feedback_rows and selection_rows that leave more rows to train on."
        )


def rows_at(places: np.ndarray, rows: int, seed: int, epoch: int) -> np.ndarray:
    """Rows at ``places [*]`` of the order of an epoch, int64 in ``[0, rows)``."""
    return _walked(places, rows, seed, epoch, range(_ROUNDS), 1)


def places_of(rows_asked: np.ndarray, rows: int, seed: int, epoch: int) -> np.ndarray:
    """Places of rows in the order of an epoch: the other way round than :func:`rows_at`."""
    return _walked(rows_asked, rows, seed, epoch, range(_ROUNDS - 1, -1, -1), -1)


def mixed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """A hash of 64 bits for each of ``values [*]`` uint64 (the finaliser of SplitMix64)."""
    state = (values + key) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FACTORS[0]
    state = (state ^ (state >> np.uint64(27))) * _FACTORS[1]
    return np.asarray(state ^ (state >> np.uint64(31)))


def keys_of(*seeds: int, count: int) -> np.ndarray:
    """Keys of hashes, ``[count]`` uint64."""
    return np.random.SeedSequence(seeds).generate_state(count, np.uint64)


def _walked(values: np.ndarray, rows: int, seed: int, epoch: int, rounds: range, sign: int) -> np.ndarray:
    keys = keys_of(seed, epoch, count=_ROUNDS)
    high = isqrt(rows - 1) + 1
    sizes = (-(-rows // high), high)

    def once(flat: np.ndarray) -> np.ndarray:
        halves = list(np.divmod(flat, high))
        for number in rounds:
            side, other = number % 2, 1 - number % 2
            step = mixed(halves[other].astype(np.uint64), keys[number]) % np.uint64(sizes[side])
            halves[side] = (halves[side] + sign * step.astype(np.int64)) % sizes[side]
        return np.asarray(halves[0] * high + halves[1])

    found = once(np.atleast_1d(np.asarray(values, dtype=np.int64)))
    while (outside := found >= rows).any():
        found[outside] = once(found[outside])
    return found.reshape(np.shape(values))
