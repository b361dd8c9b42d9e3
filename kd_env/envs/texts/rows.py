"""Which rows of text there are: a padded row for each text in memory, or packed rows in shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_env.config.environment import EnvConfig
from kd_env.data.corpora import Texts, load_texts
from kd_env.data.shards.corpus import Corpus, Request, look, look_at, sample_rows
from kd_env.data.shards.held import held_rows
from kd_env.data.shards.making import open_corpus
from kd_env.data.shards.packing import FEEDBACK, SELECTION, Packer
from kd_env.data.shards.table import PackedTable, RowPlaces, RowTokens, dense_table, ordinary_counts
from kd_env.data.splits import Splits
from kd_env.data.tables import Table, TrainTable, on_device, share_unknown, warn_unknown
from kd_env.data.text import TextSplits, TokenFacts, cut_texts, tokenize_texts
from kd_env.envs.reader import make_reader, ordinary_places, slots_for, slots_of
from kd_env.mdp.assets import Reader
from kd_env.models.masked_lm import MaskedLM
from kd_env.teachers.outputs import weights_hash


class ReadingModel(NamedTuple):
    """A masked language model and its tokens."""

    folder: str
    model: MaskedLM
    tokenizer: Any
    tokens: TokenFacts


class TextRows(NamedTuple):
    """The rows of a problem of masked text; feedback and selection as they are, on the host."""

    train: TrainTable
    feedback: Table
    selection: Table
    reader: Reader
    splits: Splits


CheckRows = Callable[[Sequence[str], Table], None]
"""Refuses models that cannot read some texts, or rows of them."""


def text_sources(config: EnvConfig) -> tuple[str, ...]:
    """Where the texts come from."""
    text = config.task if config.text is None else config.text
    return (text,) if isinstance(text, str) else tuple(text)


def cut(config: EnvConfig, texts: Texts) -> TextSplits:
    """The texts of the options, cut into splits."""
    return cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)


def rows_in_memory(config: EnvConfig, reads: ReadingModel, device: torch.device, check: CheckRows) -> TextRows:
    """A padded row for each text.

    Raises:
        ValueError: texts that are too short, or what ``check`` refuses.
    """
    tokenizer, tokens = reads.tokenizer, reads.tokens
    texts = cut(config, load_texts(text_sources(config), data_dir=config.data_dir, column=config.column))
    whole = tokenize_texts(texts.train, tokenizer, tokens, config.max_length)
    slots, least = slots_of(config, ordinary_places(whole.table, tokens))
    train = tokenize_texts(texts.train, tokenizer, tokens, config.max_length, at_least=least) if least > 1 else whole
    check(texts.train[:64], whole.table)
    feedback, selection = (
        tokenize_texts(rows[: config.evaluation_rows], tokenizer, tokens, config.max_length, at_least=least).table
        for rows in (texts.feedback, texts.selection)
    )
    splits = Splits(
        np.arange(len(texts.train)),
        np.arange(len(texts.feedback)),
        np.arange(len(texts.selection)),
        texts.dropped,
        "",  # of labelled rows alone
        texts.fingerprint,
    )
    reader = make_reader(reads.folder, reads.model, tokens, train.table, slots, len(texts.train) - len(train.kept))
    return TextRows(on_device(train.table, device), feedback, selection, reader, splits)


def packed_rows(config: EnvConfig, reads: ReadingModel, device: torch.device, check: CheckRows) -> TextRows:
    """Full rows in memory-mapped shards, which are made first where they are not there.

    Raises:
        ValueError: sources that cannot be packed, too little text, or what ``check`` refuses before any work.
    """
    outlook = look(_request(config), reads.tokenizer, reads.tokens, _cache(config))
    _check_slots(config, outlook.plan.packing.width)
    sample = dense_table(sample_rows(outlook))
    check([text for source in outlook.sources for text in source.sample[:64]], sample)
    warn_unknown(share_unknown(sample, reads.tokenizer), reads.tokenizer)
    corpus = open_corpus(outlook, _cache(config), progress=config.show_progress)
    counts, numbers = ordinary_counts(corpus)
    if not len(counts):
        raise ValueError(
            f"The texts of {', '.join(text_sources(config))} fill no row of max_length={config.max_length} tokens; "
            "lower max_length, give more text, or set packing=false."
        )
    slots, least = slots_for(config, int(counts.max()), float(counts @ numbers / numbers.sum()))
    train = PackedTable(corpus, least, device, config.max_train_rows, config.split_seed)
    feedback, selection = (held_table(config, corpus, split, least) for split in (FEEDBACK, SELECTION))
    # Train rows are counted by their table: numbers of all of them would take more memory than anything else.
    held = (np.arange(len(feedback)), np.arange(len(selection)))
    splits = Splits(np.arange(0), *held, 0, "", corpus.identity[:16])
    reader = Reader(
        reads.folder,
        weights_hash(reads.model.body),
        reads.model,
        reads.tokens,
        RowTokens(train),
        RowPlaces(train),
        slots,
        train.left_out,
    )
    return TextRows(train, _first(config, feedback), _first(config, selection), reader, splits)


def _first(config: EnvConfig, table: Table) -> Table:
    """The rows that are evaluated for reward and observation."""
    return table.take(np.arange(min(config.evaluation_rows, len(table))))


def look_at_sources(config: EnvConfig) -> None:
    """Refuse packed sources that are not there, or hold no texts, before any work."""
    look_at(_request(config), _cache(config))


def _request(config: EnvConfig) -> Request:
    """Which texts the options ask for."""
    return Request(
        text_sources(config),
        config.column,
        config.data_dir,
        config.max_length,
        config.split_seed,
        config.feedback_rows,
        config.selection_rows,
    )


def _cache(config: EnvConfig) -> Path:
    """The folder that holds packed corpora."""
    assert config.cache_dir is not None, "packing=True is refused without one"
    return Path(config.cache_dir).expanduser()


def packed_corpus(config: EnvConfig, tokenizer: Any, tokens: TokenFacts) -> Corpus:
    """The packed corpus of the options."""
    cache = _cache(config)
    return open_corpus(look(_request(config), tokenizer, tokens, cache), cache, progress=config.show_progress)


def held_table(config: EnvConfig, corpus: Corpus, split: str, least: int) -> Table:
    """Rows of feedback or selection that have ``least`` tokens which may be masked."""
    given = {FEEDBACK: config.feedback_rows, SELECTION: config.selection_rows or config.feedback_rows}[split]
    return fitting_table(corpus, held_rows(corpus, split, given), least)


def fitting_table(corpus: Corpus, rows: np.ndarray, least: int) -> Table:
    """Those of some rows ``[R, S]`` that have ``least`` tokens which may be masked, as a table on the host.

    Raises:
        ValueError: none has.
    """
    fitting = rows[Packer(corpus.plan.packing).counts(rows) >= least]
    if not len(fitting):
        raise ValueError(
            f"None of {len(rows)} packed rows that are held out has {least} ordinary tokens; lower slots, or use a "
            "tokenizer that knows the words of the texts."
        )
    return dense_table(fitting)


def _check_slots(config: EnvConfig, width: int) -> None:
    if isinstance(config.slots, int) and config.slots > width:
        raise ValueError(
            f"slots={config.slots} is more than the {width} tokens of text in a packed row of max_length="
            f"{config.max_length}; lower slots, or raise max_length."
        )
