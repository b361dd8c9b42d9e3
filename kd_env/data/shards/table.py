"""Train rows in memory-mapped shards, of which a batch reads its own rows alone."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch

from kd_env.core.trees import upload
from kd_env.core.types import Batch
from kd_env.data.masking import ordinary_tokens
from kd_env.data.shards.corpus import Corpus
from kd_env.data.shards.order import RowOrder, check_rows, rows_at
from kd_env.data.shards.packing import TRAIN
from kd_env.data.shards.work import shard_path
from kd_env.data.tables import Table

_GIVE_BACK = 1024
"""Rows after whose reading the pages of the shards are given back; the system keeps them as long as it has room."""
_CHOSEN = 7  # the random stream of a limited number of train rows


class PackedTable:
    """R train rows of S tokens each, none of them padding: a :class:`kd_env.data.tables.TrainTable`.

    Args:
        corpus: of the rows.
        least: tokens that may be masked which a row has to have; others are left out.
        device: of the batches.
        most: upper limit of rows, which are a random subset; a smaller limit gives a subset of a larger one.
        seed: of that subset.

    Raises:
        ValueError: no row has so many tokens that may be masked.
    """

    def __init__(
        self, corpus: Corpus, least: int, device: torch.device, most: int | None = None, seed: int = 0
    ) -> None:
        packing = corpus.plan.packing
        self._special = np.array(packing.special, dtype=np.int64)
        self._device = device
        self._seed = seed
        self._shards: list[np.ndarray] = []
        self._maps: list[mmap.mmap] = []
        counts = []
        for part, entry in enumerate(corpus.parts):
            fitting = sum(number for count, number in entry["ordinary"] if count >= least)  # they come first
            if fitting:
                shard = np.load(shard_path(corpus.folder, part, TRAIN), mmap_mode="r", allow_pickle=False)
                self._maps.append(shard.base)
                self._maps[-1].madvise(mmap.MADV_RANDOM)
                self._shards.append(np.asarray(shard))
                counts.append(fitting)
        self._starts = np.cumsum([0, *counts])
        self._total = int(self._starts[-1])
        if not self._total:
            rows = sum(entry["rows"] for entry in corpus.parts)
            raise ValueError(
                f"None of {rows} packed rows has {least} ordinary tokens within max_length={packing.max_length}; give "
                "more text, a tokenizer that knows its words, or fewer slots."
            )
        self._read = 0
        rows = self._total if most is None else min(most, self._total)
        self.left_out = sum(entry["rows"] for entry in corpus.parts) - self._total
        """Rows with fewer tokens that may be masked."""
        self.shape = (rows, packing.max_length)
        # One number stands for all rows: it takes no memory.
        self.lengths = np.broadcast_to(np.int64(packing.max_length), rows)
        self.labels = np.broadcast_to(np.int64(0), rows)

    def __len__(self) -> int:
        return self.shape[0]

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of rows ``[...]``, ``[..., S]`` int32 on the host."""
        flat = np.asarray(rows, dtype=np.int64).ravel()
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"Rows must lie in [0, {len(self)}), got {flat.min()} to {flat.max()}.")
        if len(self) < self._total:
            flat = rows_at(flat, self._total, self._seed, _CHOSEN)
        shards = np.searchsorted(self._starts, flat, side="right") - 1
        found = np.empty((len(flat), self.shape[1]), dtype=np.int32)
        for place, (shard, row) in enumerate(zip(shards.tolist(), (flat - self._starts[shards]).tolist(), strict=True)):
            found[place] = self._shards[shard][row]
        self._read += len(flat)
        if self._read >= _GIVE_BACK:
            self._read = 0
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
        return found.reshape(*np.shape(rows), self.shape[1])

    def gather(self, rows: np.ndarray) -> Batch:
        """Batch of the given rows; ``rows`` of shape ``[...]`` gives fields of shape ``[..., S]`` and ``[...]``."""
        ids = upload(self.ids(rows), self._device).long()
        return Batch(
            input_ids=ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            token_type_ids=torch.zeros_like(ids),
            labels=torch.zeros(ids.shape[:-1], dtype=torch.int64, device=ids.device),
        )

    def order(self, batch_size: int) -> RowOrder:
        """The order in which an episode visits the rows; raises ``ValueError`` where they make no batch."""
        check_rows(len(self), batch_size)
        return RowOrder(len(self), batch_size)


class RowTokens:
    """Tokens of the rows of a packed table as an array ``[R, S]`` that is read row by row."""

    def __init__(self, table: PackedTable) -> None:
        self._table = table
        self.shape = table.shape

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._table.ids(rows)


class RowPlaces(RowTokens):
    """Which tokens of the rows may be masked, as an array ``[R, S]`` of bool that is read row by row."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        ids = super().__getitem__(rows)
        return ordinary_tokens(ids, np.ones(ids.shape, dtype=bool), self._table._special)


def ordinary_counts(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of tokens that may be masked in train rows, ascending, and how many rows have so many."""
    counts: dict[int, int] = {}
    for entry in corpus.parts:
        for count, number in entry["ordinary"]:
            counts[count] = counts.get(count, 0) + number
    numbers = sorted(counts)
    return np.array(numbers, dtype=np.int64), np.array([counts[number] for number in numbers], dtype=np.int64)


def dense_table(rows: np.ndarray) -> Table:
    """Packed rows ``[R, S]`` as a table in memory, on the host."""
    ids = torch.as_tensor(rows.astype(np.int32))
    lengths = np.full(len(rows), rows.shape[1], dtype=np.int64)
    labels = np.zeros(len(rows), dtype=np.int64)
    types = torch.zeros(ids.shape, dtype=torch.int8)
    return Table(ids, types, lengths, torch.as_tensor(lengths), torch.as_tensor(labels), labels)
