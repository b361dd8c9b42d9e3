"""Tokenised rows as dense tensors, and the order in which an episode visits them: length buckets, full batches."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from kd_env.core.trees import upload
from kd_env.core.types import Batch
from kd_env.data.shards.order import OrderStream, RowOrder, check_rows
from kd_env.data.tasks import Rows

UNKNOWN_WORDS = 0.1
"""Share of unknown tokens from which it is told that a tokenizer does not know the language of the rows."""

ROWS_AT_ONCE = 8192
"""Rows that a tokenizer is given in one call: what it makes of them takes many times the memory of their tokens."""


class TrainTable(Protocol):
    """Rows to train on: :class:`Table`, or those that stay in files (:mod:`kd_env.data.shards.table`)."""

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, ``[R]``."""

    @property
    def labels(self) -> np.ndarray:
        """Labels of each row on the host."""

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> Batch:
        """Batch of the given rows; ``rows`` of shape ``[...]`` gives fields of shape ``[..., S]`` and ``[...]``."""

    def order(self, batch_size: int) -> Buckets | RowOrder:
        """The order in which an episode visits the rows."""


@dataclass(frozen=True)
class Table:
    """R tokenised rows, padded once to the longest; batches are cut to their own longest row.

    Attributes:
        input_ids: ``[R, S]`` int32 on the device of the run.
        token_type_ids: ``[R, S]`` int8.
        lengths: ``[R]`` real tokens, on the host, so that a batch's width needs no copy from the device.
        device_lengths: ``lengths`` on the device.
        label_tensor: ``[R]`` int64, or floating for regression; ``[R, S]`` of tokens; on the device.
        labels: the labels on the host.
        states: what frozen layers of the student say about rows, by layer; None where it is not kept.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    lengths: np.ndarray
    device_lengths: Tensor
    label_tensor: Tensor
    labels: np.ndarray
    states: Callable[[np.ndarray, Batch], dict[int, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: np.ndarray) -> Batch:
        """Batch of the given rows; ``rows`` of shape ``[...]`` gives fields of shape ``[..., S]`` and ``[...]``."""
        width = int(self.lengths[rows].max())
        index = upload(rows, self.input_ids.device)
        positions = torch.arange(width, device=index.device)
        labels = self.label_tensor if self.label_tensor.dim() == 1 else self.label_tensor[:, :width]
        batch = Batch(
            input_ids=self.input_ids[:, :width][index].long(),
            attention_mask=positions < self.device_lengths[index][..., None],
            token_type_ids=self.token_type_ids[:, :width][index].long(),
            labels=labels[index],
        )
        return batch if self.states is None else batch._replace(states=self.states(rows, batch))

    def take(self, rows: np.ndarray) -> Table:
        """The table of some rows ``[R]``."""
        index, states = upload(rows, self.input_ids.device), self.states
        return Table(
            self.input_ids[index],
            self.token_type_ids[index],
            self.lengths[rows],
            self.device_lengths[index],
            self.label_tensor[index],
            self.labels[rows],
            None if states is None else lambda places, batch: states(rows[places], batch),
        )

    def chunks(self, rows_at_once: int) -> Iterator[np.ndarray]:
        """Row numbers in chunks of similar length, longest first, for passes over the whole table."""
        order = np.argsort(-self.lengths, kind="stable")
        for start in range(0, len(order), rows_at_once):
            yield order[start : start + rows_at_once]

    def order(self, batch_size: int) -> Buckets:
        """The order in which an episode visits the rows; raises ``ValueError`` where they make no batch."""
        return make_buckets(self.lengths, batch_size)

    def content_hash(self) -> str:
        """SHA-256 of the tokens, segments and lengths (labels are left out: a teacher does not see them)."""
        digest = hashlib.sha256()
        for array in (self.input_ids.cpu().numpy(), self.token_type_ids.cpu().numpy(), self.lengths):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def tokenize(rows: Rows, tokenizer: Any, max_length: int, device: torch.device, dtype: torch.dtype) -> Table:
    """Tokenise rows (two segments for pairs), cut to ``max_length`` tokens; a warning where many are unknown.

    Args:
        rows: texts and labels.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens a row is cut to, specials included.
        device: where the table lies.
        dtype: floating type of regression labels.
    """
    parts = [
        _tokens(rows.first[start:stop], rows.second and rows.second[start:stop], tokenizer, max_length)
        for start, stop in pairwise([*range(0, len(rows.first), ROWS_AT_ONCE), len(rows.first)])
    ]
    lengths = np.concatenate([part.lengths for part in parts])
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    dense_ids = np.full(mask.shape, tokenizer.pad_token_id or 0, dtype=np.int32)
    dense_types = np.zeros(mask.shape, dtype=np.int8)
    flat_ids = np.concatenate([part.ids for part in parts])
    dense_ids[mask] = flat_ids
    dense_types[mask] = np.concatenate([part.types for part in parts])
    warn_unknown(_share_unknown(flat_ids, tokenizer), tokenizer)
    labels = torch.as_tensor(rows.labels)
    return Table(
        torch.as_tensor(dense_ids, device=device),
        torch.as_tensor(dense_types, device=device),
        lengths,
        torch.as_tensor(lengths, device=device),
        (labels.to(dtype) if labels.is_floating_point() else labels.long()).to(device),
        np.asarray(rows.labels),
    )


class _Tokens(NamedTuple):
    """Rows as tokens, one after another."""

    ids: np.ndarray  # [tokens] int32
    types: np.ndarray  # [tokens] int8
    lengths: np.ndarray  # [rows] int64


def _tokens(first: list[str], second: list[str] | None, tokenizer: Any, max_length: int) -> _Tokens:
    encoded = tokenizer(first, second, truncation=True, max_length=max_length, padding=False)
    ids = encoded["input_ids"]
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
    types = encoded.get("token_type_ids")
    segments = np.zeros(len(flat), np.int8)
    return _Tokens(flat, np.fromiter(chain.from_iterable(types), np.int8, len(flat)) if types else segments, lengths)


def warn_unknown(share: float, tokenizer: Any) -> None:
    """Say where a tokenizer knows so few of the words of some rows that little can be learned from them."""
    if share >= UNKNOWN_WORDS:
        warnings.warn(
            # In tens, so that it is said once of all splits.
            f"The tokenizer of {tokenizer.name_or_path!r} reads about {round(share, 1):.0%} of the words of these "
            f"rows as {tokenizer.unk_token}: little can be learned from them. Use an encoder that was made for their "
            "language and script.",
            UserWarning,
            stacklevel=3,
        )


def share_unknown(table: Table, tokenizer: Any) -> float:
    """Share of unknown tokens in a table among those that are not special for another reason."""
    ids = table.input_ids.cpu().numpy()
    return _share_unknown(ids[np.arange(ids.shape[1]) < table.lengths[:, None]], tokenizer)


def _share_unknown(ids: np.ndarray, tokenizer: Any) -> float:
    unknown = tokenizer.unk_token_id
    others = [token for token in tokenizer.all_special_ids if token != unknown]
    counted = ids[~np.isin(ids, others)]
    return float((counted == unknown).mean()) if unknown is not None and len(counted) else 0.0


class Buckets(NamedTuple):
    """Row numbers of a table by length, fixed for all episodes."""

    rows: tuple[np.ndarray, ...]
    batch_size: int


class BatchStream(NamedTuple):
    """Where one replica stands in its data order. Immutable: arrays are read-only, ``draw`` returns a new stream."""

    order: np.ndarray  # [M, B] int64, the batches of the present epoch
    cursor: int
    carry: tuple[np.ndarray, ...]  # per bucket: rows left over from the last epoch, visited first in the next
    seed: int
    epoch: int


def make_buckets(
    lengths: np.ndarray, batch_size: int, *, tokens_per_bucket: int = 16, batches_per_bucket: int = 16
) -> Buckets:
    """Split rows into length buckets, as many as padding is worth.

    A bucket spans about ``tokens_per_bucket`` tokens of length and holds at least ``batches_per_bucket`` batches; there
    are at most 8. Rows of similar length have similar content too, so that batches from one bucket are less like the
    whole table: where lengths differ by a few tokens only, as in the embedded tasks, one bucket trains better
    (measured: gap closed by soft labels 0.25 with one bucket, 0.16 with eight).

    Raises:
        ValueError: the table has fewer rows than one batch.
    """
    check_rows(len(lengths), batch_size)
    low, high = np.quantile(lengths, [0.05, 0.95])
    most = min(8, len(lengths) // (batches_per_bucket * batch_size))
    count = int(np.clip(np.ceil((high - low) / tokens_per_bucket), 1, max(most, 1)))
    order = np.argsort(lengths, kind="stable")
    return Buckets(tuple(np.sort(bucket) for bucket in np.array_split(order, count)), batch_size)


def start_stream(buckets: Buckets | RowOrder, seed: int) -> BatchStream | OrderStream:
    """The data order of an episode, a function of its seed alone."""
    if isinstance(buckets, RowOrder):
        return OrderStream(seed, 0)
    empty = tuple(np.empty(0, dtype=np.int64) for _ in buckets.rows)
    return _next_epoch(buckets, BatchStream(np.empty((0, buckets.batch_size), np.int64), 0, empty, seed, -1))


def draw(
    buckets: Buckets | RowOrder, stream: BatchStream | OrderStream, count: int
) -> tuple[np.ndarray, BatchStream | OrderStream]:
    """The next ``count`` batches, ``[count, B]`` row numbers; every batch has B rows of one length bucket."""
    if isinstance(buckets, RowOrder):
        assert isinstance(stream, OrderStream)
        return buckets.draw(stream, count)
    assert isinstance(stream, BatchStream)
    batches = []
    for _ in range(count):
        if stream.cursor >= len(stream.order):
            stream = _next_epoch(buckets, stream)
        batches.append(stream.order[stream.cursor])
        stream = stream._replace(cursor=stream.cursor + 1)
    return np.stack(batches), stream


def _next_epoch(buckets: Buckets, stream: BatchStream) -> BatchStream:
    epoch = stream.epoch + 1
    generator = np.random.default_rng([stream.seed, epoch])
    full, carry = [], []
    for rows, leftover in zip(buckets.rows, stream.carry, strict=True):
        shuffled = generator.permutation(rows)
        repeated = np.isin(shuffled, leftover)
        # Rows that were left over come first, and again last: no batch holds one twice.
        order = np.concatenate([leftover, shuffled[~repeated], shuffled[repeated]])
        cut = len(order) // buckets.batch_size * buckets.batch_size
        full.append(order[:cut].reshape(-1, buckets.batch_size))
        carry.append(order[cut:])
    order = generator.permutation(np.concatenate(full), axis=0)
    for array in (order, *carry):
        array.flags.writeable = False
    return BatchStream(order, 0, tuple(carry), stream.seed, epoch)


def same_tokens(first: Any, second: Any, texts: Sequence[str]) -> bool:
    """Whether two tokenizers have one vocabulary and give the same tokens for some texts."""
    if first.get_vocab() != second.get_vocab():
        return False
    tokens = [tokenizer(list(texts), truncation=False, padding=False)["input_ids"] for tokenizer in (first, second)]
    return bool(tokens[0] == tokens[1])


def on_device(table: Table, device: torch.device) -> Table:
    """The table with its tensors on a device."""
    names = ("input_ids", "token_type_ids", "device_lengths", "label_tensor")
    return dataclasses.replace(table, **{name: getattr(table, name).to(device) for name in names})
