"""From texts to full rows of tokens: each text goes to one split by its content, those of a split are put end to end.

A row has ``[CLS]`` and ``[SEP]`` at its ends and tokens in between that go on where those of the row before ended;
texts are parted by ``[SEP]``. No place is padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from kd_env.data.forms import normalize
from kd_env.data.shards.order import keys_of, mixed
from kd_env.data.text import TokenFacts

TRAIN, FEEDBACK, SELECTION, DEV = SPLITS = ("train", "feedback", "selection", "dev")
LONGEST = 1 << 20
"""Characters that are tokenised at once; a longer text is cut at spaces, and its pieces are put together again."""


class Shares(NamedTuple):
    """Shares of different texts that are held out, each by a hash of its own."""

    feedback: float
    selection: float
    dev: float  # 0 where every source has a dev split
    seed: int  # of feedback and selection; dev texts do not depend on it


class Packing(NamedTuple):
    """How texts become rows; plain values, which another process can read."""

    tokenizer: str  # as JSON
    prefix: tuple[int, ...]  # tokens at the begin of every row
    suffix: tuple[int, ...]  # at its end
    separator: int
    special: tuple[int, ...]  # tokens that are never masked
    vocabulary: int  # ids are below
    max_length: int
    shares: Shares

    @property
    def width(self) -> int:
        """Tokens of texts in a row."""
        return self.max_length - len(self.prefix) - len(self.suffix)

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """Of stored tokens."""
        return np.uint16 if self.vocabulary <= 1 << 16 else np.uint32


def packing_of(tokenizer: Any, facts: TokenFacts, max_length: int, shares: Shares) -> Packing:
    """How a tokenizer's rows are packed.

    Raises:
        ValueError: no fast tokenizer, rows that do not begin with a special token, no separator, or rows too short.
    """
    source = tokenizer.name_or_path
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"The tokenizer of {source!r} has no tokenizer.json, with which corpora are tokenised fast enough to be "
            "packed; give an encoder with one, or set packing=false."
        )
    text = tokenizer.convert_ids_to_tokens(int(facts.candidates[len(facts.candidates) // 2]))
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = tokenizer(text)["input_ids"]
    begins = next(at for at in range(len(row) + 1) if row[at : at + len(plain)] == plain)
    prefix, suffix = tuple(row[:begins]), tuple(row[begins + len(plain) :])
    separator = next((token for token in (tokenizer.sep_token_id, *suffix) if token is not None), None)
    if not prefix or prefix[0] not in facts.special_ids:
        raise ValueError(
            f"The tokenizer of {source!r} begins rows without a special token, and slots that are not used point "
            "there; use an encoder such as BERT, whose rows begin with [CLS]."
        )
    if separator is None:
        raise ValueError(
            f"The tokenizer of {source!r} has no separator, which parts texts in a packed row; set packing=false."
        )
    if max_length <= len(prefix) + len(suffix):
        raise ValueError(
            f"max_length={max_length} leaves no room beside the {len(prefix) + len(suffix)} special tokens of a packed "
            f"row; it must be at least {len(prefix) + len(suffix) + 1}."
        )
    return Packing(
        _plain(tokenizer.backend_tokenizer.to_str()).to_str(),
        tuple(map(int, prefix)),
        tuple(map(int, suffix)),
        int(separator),
        tuple(facts.special_ids.tolist()),
        max(tokenizer.get_vocab().values()) + 1,
        max_length,
        shares,
    )


class Packer:
    """Tokenises and packs."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self._tokenizer = _plain(packing.tokenizer)

    @cached_property
    def ordinary(self) -> np.ndarray:
        """Which tokens may be masked, ``[V]`` bool."""
        allowed = np.ones(self.packing.vocabulary, dtype=bool)
        allowed[list(self.packing.special)] = False
        return allowed

    def streams(self, texts: Sequence[str], splits: np.ndarray) -> list[np.ndarray]:
        """Tokens of the texts of each split, in the order of :data:`SPLITS`: end to end, a separator after each.

        Args:
            texts: some texts.
            splits: of each, as a place in :data:`SPLITS`.
        """
        pieces = [_pieces(text) if len(text) > LONGEST else (text,) for text in texts]
        ids = self._encode(list(chain.from_iterable(pieces)))
        counts = np.array([len(each) for each in pieces], dtype=np.int64)
        lengths = np.add.reduceat([len(row) for row in ids], np.cumsum(counts) - counts) if texts else counts
        sizes = lengths + (lengths > 0)  # a text without tokens leaves nothing
        is_separator = np.zeros(int(sizes.sum()), dtype=bool)
        is_separator[(np.cumsum(sizes) - 1)[sizes > 0]] = True
        stream = np.full(len(is_separator), self.packing.separator, self.packing.dtype)
        stream[~is_separator] = np.fromiter(chain.from_iterable(ids), self.packing.dtype, int(lengths.sum()))
        owners = np.repeat(splits, sizes)
        return [stream[owners == place] for place in range(len(SPLITS))]

    def rows(self, stream: np.ndarray) -> np.ndarray:
        """Full rows ``[R, S]`` of a stream of tokens; less than a row at its end is left out."""
        prefix, suffix, width = self.packing.prefix, self.packing.suffix, self.packing.width
        count = len(stream) // width
        rows = np.empty((count, self.packing.max_length), self.packing.dtype)
        rows[:, : len(prefix)] = prefix
        rows[:, len(prefix) : len(prefix) + width] = stream[: count * width].reshape(count, width)
        rows[:, len(prefix) + width :] = suffix
        return rows

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of each row that may be masked, ``[R]``."""
        return np.asarray(self.ordinary[rows].sum(axis=1))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
            whole = [text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for text in texts]
            found = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        return [encoding.ids for encoding in found]


def content_hashes(texts: Sequence[str]) -> np.ndarray:
    """A number of 64 bits for the content of each text, ``[*]`` uint64: equal where normal forms are."""
    digests = (
        hashlib.blake2b(normalize(text).encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def splits_of(hashes: np.ndarray, shares: Shares) -> np.ndarray:
    """The split of each text by its content, as a place in :data:`SPLITS`."""
    drawn = _uniform(mixed(hashes, keys_of(shares.seed, count=1)[0]))
    held = np.where(drawn < shares.feedback, 1, np.where(drawn < shares.feedback + shares.selection, 2, 0))
    return np.where(_uniform(hashes) < shares.dev, 3, held)


def _plain(tokenizer: str) -> Any:
    """A tokenizer that leaves texts as long as they are, whatever its last call asked of the one it comes from."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(tokenizer)
    made.no_truncation()
    made.no_padding()
    return made


def _uniform(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _pieces(text: str) -> list[str]:
    """A text, or pieces of a long one, cut at spaces where it has any."""
    pieces = []
    while len(text) > LONGEST:
        cut = text.rfind(" ", 1, LONGEST)
        cut = LONGEST if cut < 0 else cut
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]
