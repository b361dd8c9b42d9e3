"""What a corpus in shards is: its sources, how they are cut, and the tokens that are held out of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_env.data.shards.packing import Packer, Shares, packing_of
from kd_env.data.shards.sources import DEFAULT_COLUMN, Source, cut_parts, find_sources
from kd_env.data.shards.work import Entry, Plan, shard_path
from kd_env.data.text import TokenFacts

FORMAT = 1
CORPORA, RECORDS = "corpora", "sources"
MOST_HELD = 0.1
"""Largest share of different texts that one split holds out."""
HELD_ROWS = 512
"""Rows that feedback, selection and dev are meant to fill, where nothing larger is asked for."""
_TOKEN_BYTES = 6  # bytes of text in a token; fewer make more rows than are needed
_MARGIN = 2  # times as much is held out as is needed
_LEAST_TEXTS = 64  # that a split is expected to hold


class Request(NamedTuple):
    """Which texts are asked for, and how they are cut."""

    text: str | Sequence[str]
    column: str | None = None
    data_dir: str | None = None
    max_length: int = 128
    split_seed: int = 0
    feedback_rows: int | None = None
    selection_rows: int | None = None


class Outlook(NamedTuple):
    """The sources of a corpus, and what is to be made of them."""

    sources: tuple[Source, ...]
    plan: Plan

    @property
    def identity(self) -> str:
        """Hash of all that the shards depend on: contents and the cut, not where files lie."""
        plan = self.plan
        cut = [[(s.kind, s.begin, s.end) for s in part] for part in plan.parts]
        contents = [source.identity for source in self.sources]
        about = [FORMAT, contents, cut, plan.column, plan.packing, plan.keeps_hashes]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


class Corpus(NamedTuple):
    """A corpus that is whole."""

    folder: Path
    identity: str
    sources: tuple[Source, ...]
    plan: Plan
    parts: tuple[Entry, ...]

    def held(self, split: str) -> np.ndarray:
        """Tokens of the texts that are held out for a split, end to end; of dev for reports alone."""
        paths = (shard_path(self.folder, part, split) for part in range(len(self.parts)))
        streams = [np.load(path, allow_pickle=False) for path in paths if path.is_file()]
        return np.concatenate([np.empty(0, self.plan.packing.dtype), *streams])


def look(request: Request, tokenizer: Any, facts: TokenFacts, cache: Path) -> Outlook:
    """The sources, and what would be made of them; nothing is tokenised yet.

    Args:
        request: which texts.
        tokenizer: a fast Hugging Face tokenizer.
        facts: of it.
        cache: folder that holds corpora.

    Raises:
        ValueError: sources or a tokenizer that cannot be packed, with the remedy.
    """
    packing_of(tokenizer, facts, request.max_length, Shares(0.0, 0.0, 0.0, request.split_seed))  # before files are read
    sources = look_at(request, cache)
    own_dev = [source.dev is not None for source in sources]
    packing = packing_of(tokenizer, facts, request.max_length, shares_of(request, sources, dev=not all(own_dev)))
    parts = cut_parts(sources)
    column = request.column or DEFAULT_COLUMN
    return Outlook(sources, Plan(tuple(parts), column, request.data_dir, packing, any(own_dev)))


def look_at(request: Request, cache: Path) -> tuple[Source, ...]:
    """The sources alone; raises ``ValueError`` as :func:`look`."""
    return tuple(find_sources(request.text, request.column, request.data_dir, cache / CORPORA / RECORDS))


def sample_rows(outlook: Outlook) -> np.ndarray:
    """Some rows ``[R, S]`` of the first texts of the sources; a short text is repeated to fill one."""
    sources, plan = outlook
    packer = Packer(plan.packing)
    texts = [text for source in sources for text in source.sample[:64]]
    stream = np.concatenate(packer.streams(texts, np.zeros(len(texts), dtype=int)))
    if not len(stream):
        raise ValueError(
            f"The tokenizer reads nothing in the first {len(texts)} texts of {', '.join(s.name for s in sources)}; use "
            "one that was made for their language."
        )
    return packer.rows(np.resize(stream, max(len(stream), plan.packing.width)))[:64]


def shares_of(request: Request, sources: Sequence[Source], dev: bool) -> Shares:
    """Shares that fill the rows of each split, by what the first texts say about the others."""
    size = sum(source.size for source in sources)
    seen = [text for source in sources for text in source.sample]
    mean = sum(map(len, seen)) / len(seen)

    def share(rows: int | None) -> float:
        wanted = HELD_ROWS * -(-max(rows or 0, HELD_ROWS) // HELD_ROWS)  # near sizes share a corpus
        text = max(_MARGIN * wanted * request.max_length * _TOKEN_BYTES, _LEAST_TEXTS * mean)
        return min(MOST_HELD, text / size)

    feedback, selection = request.feedback_rows, request.selection_rows
    return Shares(
        share(feedback),
        share(feedback if selection is None else selection),
        share(None) if dev else 0.0,
        request.split_seed,
    )
