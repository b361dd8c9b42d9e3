"""The rows that students are judged on. Only this package reads dev rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.config.environment import EnvConfig
from kd_env.data.corpora import load_texts, task_folder
from kd_env.data.loading import load_dev
from kd_env.data.shards.corpus import HELD_ROWS, Corpus
from kd_env.data.shards.held import shuffled_rows
from kd_env.data.shards.packing import DEV, Packer, content_hashes
from kd_env.data.shards.segments import hub_stream, stream_texts
from kd_env.data.shards.sources import Source
from kd_env.data.shards.work import shard_path
from kd_env.data.tables import Table
from kd_env.data.tasks import TASKS, Rows
from kd_env.data.text import tokenize_texts
from kd_env.envs.text import evaluated_texts
from kd_env.envs.texts.rows import cut, fitting_table, held_table, look_at_sources, packed_corpus, text_sources
from kd_env.evaluation.judging.dev import check_lengths
from kd_env.evaluation.judging.results import SELECTION
from kd_env.mdp.problem import Problem
from kd_files.reading import read_json
from kd_files.writing import write_json

TEXT_ROWS = 512
"""Dev and selection texts that students of masked text are judged on, at most."""
_LONGEST_TOKEN = 16  # characters, on average


class JudgedTables(NamedTuple):
    """The selection split and every dev split, by name."""

    tables: Mapping[str, Table]
    teacher_logits: Mapping[str, NDArray[Any]]  # of the reference teacher
    dev_splits: tuple[str, ...]


def judged_tables(problem: Problem, text_rows: int = TEXT_ROWS) -> JudgedTables:
    """The selection split and the official dev splits of a problem.

    Args:
        problem: the problem.
        text_rows: dev and selection texts, at most; rows of a task are all taken.

    Raises:
        ValueError: no dev rows, dev rows that are longer than the encoders' positions, or texts of too few tokens.
    """
    return _texts(problem, text_rows) if problem.config.objective == "text" else _rows(problem)


def selection_table(problem: Problem) -> JudgedTables:
    """The selection split alone; no dev row is read, so that what it tells may have a say in what goes on.

    Raises:
        ValueError: texts of too few tokens.
    """
    if problem.config.objective != "text":
        return JudgedTables({SELECTION: problem.selection}, {SELECTION: problem.reference.selection_logits}, ())
    config = problem.config
    if config.packing:
        [table] = _packed(problem, (SELECTION,), TEXT_ROWS).values()
    else:
        loaded = load_texts(text_sources(config), data_dir=config.data_dir, column=config.column)
        table = _evaluated(problem, cut(config, loaded).selection[:TEXT_ROWS])
    return JudgedTables({SELECTION: table}, {SELECTION: np.zeros((len(table), 0))}, ())


def check_texts(config: EnvConfig) -> None:
    """Check that there are dev texts before an agent is trained; raises ``ValueError``.

    Of packed texts that there are texts at all: dev texts are held back of them where they have no such split.
    """
    if config.packing:
        look_at_sources(config)
        return
    load_texts(text_sources(config), data_dir=config.data_dir, column=config.column, dev=True)


def _rows(problem: Problem) -> JudgedTables:
    dev = load_dev(problem.task, problem.config.data_dir)
    tables = {SELECTION: problem.selection, **{split: problem.tokenize(rows) for split, rows in dev.items()}}
    check_lengths("student", problem.student, tables)
    teacher_logits = {split: _teacher_logits(problem, split, rows) for split, rows in dev.items()}
    teacher_logits[SELECTION] = problem.reference.selection_logits
    return JudgedTables(tables, teacher_logits, tuple(dev))


def _teacher_logits(problem: Problem, split: str, rows: Rows) -> NDArray[Any]:
    """What the reference teacher says about the rows of a dev split, ``[R, C]``."""
    answers = problem.reference.answers
    if answers is not None:
        return answers.logits(rows, split, np.arange(len(rows.labels)))
    table = problem.tokenize(rows, for_teacher=True)
    check_lengths("teacher", problem.reference.encoder, {split: table})
    return problem.teacher_logits(table)


def _texts(problem: Problem, text_rows: int) -> JudgedTables:
    """Texts in which samples of the reader stand, as in those of feedback."""
    config = problem.config
    [dev] = problem.task.dev_splits
    if config.packing:
        tables = _packed(problem, (SELECTION, dev), text_rows)
    else:
        loaded = load_texts(text_sources(config), data_dir=config.data_dir, column=config.column, dev=True)
        texts = cut(config, loaded)
        both = ((SELECTION, texts.selection), (dev, texts.dev))
        tables = {split: _evaluated(problem, rows[:text_rows]) for split, rows in both}
    nothing = {split: np.zeros((len(table), 0)) for split, table in tables.items()}
    return JudgedTables(tables, nothing, (dev,))


def _packed(problem: Problem, splits: Sequence[str], count: int) -> dict[str, Table]:
    """Packed rows of selection or dev in which samples of the reader stand."""
    config, reader, tables = problem.config, problem.reader, {}
    corpus = packed_corpus(config, problem.assets.tokenizer, reader.tokens)
    for split in splits:
        if split == SELECTION:
            table = held_table(config, corpus, split, _least(problem))
        else:
            table = fitting_table(corpus, _dev_rows(corpus, count), _least(problem))
        table = table.take(np.arange(min(count, len(table))))
        tables[split] = evaluated_texts(config, reader.model, reader.tokens, table, reader.slots, problem.device)
    return tables


def _dev_rows(corpus: Corpus, rows: int) -> np.ndarray:
    """At most ``rows`` dev rows ``[R, S]`` in random order.

    Where a source has a dev split they are of that, without texts that stand in another split as well; of other sources
    they are of the texts that were held back by their content.

    Raises:
        ValueError: the dev texts fill no row.
    """
    packer = Packer(corpus.plan.packing)
    streams = [corpus.held(DEV)]
    for source in corpus.sources:
        if source.dev is not None:
            texts = _outside(corpus, _dev_texts(corpus, source))
            streams.append(np.concatenate(packer.streams(texts, np.zeros(len(texts), dtype=int))))
    found = packer.rows(np.concatenate(streams))
    if not len(found):
        raise ValueError(
            f"The dev texts of {', '.join(source.name for source in corpus.sources)} do not fill a row of max_length="
            f"{packer.packing.max_length} tokens; lower max_length, or give more text."
        )
    return shuffled_rows(found, 0)[:rows]


def _dev_texts(corpus: Corpus, source: Source) -> list[str]:
    """Texts of the dev split of a source, without blank ones; of the hub no more than are needed, which are kept."""
    plan = corpus.plan
    if source.kind == "task":
        tables = load_dev(TASKS[source.name], task_folder(source.name, plan.data_dir))
        everything = (text for table in tables.values() for text in [*table.first, *(table.second or ())])
        return [text.strip() for text in everything if text.strip()]
    assert source.dev is not None
    kept = corpus.folder / f"dev-{hashlib.sha256(source.name.encode()).hexdigest()[:16]}.json"
    if kept.is_file():
        return list(read_json(kept, "delete it; it is streamed again", {"texts": list})["texts"])
    texts: list[str] = []
    left = HELD_ROWS * plan.packing.width * _LONGEST_TOKEN
    for batch in stream_texts(hub_stream(source.name, source.dev), plan.column, source.name):
        texts += [text.strip() for text in batch if text.strip()]
        left -= sum(map(len, batch))
        if left <= 0:
            break
    write_json(kept, {"texts": texts})
    return texts


def _outside(corpus: Corpus, texts: list[str]) -> list[str]:
    """Texts whose content stands in no other split, each once."""
    hashes, firsts = np.unique(content_hashes(texts), return_index=True)
    kept = np.ones(len(hashes), dtype=bool)
    for path in (shard_path(corpus.folder, part, "hashes") for part in range(len(corpus.parts))):
        kept &= ~np.isin(hashes, np.load(path, allow_pickle=False), assume_unique=True)
    return [texts[place] for place in np.sort(firsts[kept]).tolist()]


def _evaluated(problem: Problem, texts: Sequence[str]) -> Table:
    config, reader, tokenizer = problem.config, problem.reader, problem.assets.tokenizer
    held = tokenize_texts(texts, tokenizer, reader.tokens, config.max_length, at_least=_least(problem))
    return evaluated_texts(config, reader.model, reader.tokens, held.table, reader.slots, problem.device)


def _least(problem: Problem) -> int:
    """Ordinary tokens that a row needs."""
    return problem.reader.slots if problem.config.masking == "fixed" else 1
