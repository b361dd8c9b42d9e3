"""The rows that students are judged on. Only this package reads dev rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.config.environment import EnvConfig
from kd_env.data.corpora import load_texts
from kd_env.data.loading import load_dev
from kd_env.data.tables import Table
from kd_env.data.text import tokenize_texts
from kd_env.envs.text import cut, evaluated_texts, text_sources
from kd_env.evaluation.judging.dev import check_lengths
from kd_env.evaluation.judging.results import SELECTION
from kd_env.mdp.problem import Problem

TEXT_ROWS = 512
"""Dev and selection texts that students of masked text are judged on, at most."""


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
    loaded = load_texts(text_sources(config), data_dir=config.data_dir, column=config.column)
    table = _evaluated(problem, cut(config, loaded).selection[:TEXT_ROWS])
    return JudgedTables({SELECTION: table}, {SELECTION: np.zeros((len(table), 0))}, ())


def check_texts(config: EnvConfig) -> None:
    """Check that there are dev texts before an agent is trained; raises ``ValueError``."""
    load_texts(text_sources(config), data_dir=config.data_dir, column=config.column, dev=True)


def _rows(problem: Problem) -> JudgedTables:
    dev = load_dev(problem.task, problem.config.data_dir)
    tables = {SELECTION: problem.selection, **{split: problem.tokenize(rows) for split, rows in dev.items()}}
    teacher_tables = {split: problem.tokenize(rows, for_teacher=True) for split, rows in dev.items()}
    check_lengths("student", problem.student, tables)
    check_lengths("teacher", problem.reference.encoder, teacher_tables)
    teacher_logits = {split: problem.teacher_logits(table) for split, table in teacher_tables.items()}
    teacher_logits[SELECTION] = problem.reference.selection_logits
    return JudgedTables(tables, teacher_logits, tuple(dev))


def _texts(problem: Problem, text_rows: int) -> JudgedTables:
    """Texts in which samples of the reader stand, as in those of feedback."""
    config = problem.config
    loaded = load_texts(text_sources(config), data_dir=config.data_dir, column=config.column, dev=True)
    texts = cut(config, loaded)
    [dev] = problem.task.dev_splits
    tables = {
        split: _evaluated(problem, rows[:text_rows]) for split, rows in ((SELECTION, texts.selection), (dev, texts.dev))
    }
    nothing = {split: np.zeros((len(table), 0)) for split, table in tables.items()}
    return JudgedTables(tables, nothing, (dev,))


def _evaluated(problem: Problem, texts: Sequence[str]) -> Table:
    config, reader = problem.config, problem.reader
    least = reader.slots if config.masking == "fixed" else 1
    held = tokenize_texts(texts, problem.assets.tokenizer, reader.tokens, config.max_length, at_least=least)
    return evaluated_texts(config, reader.model, reader.tokens, held, reader.slots, problem.device)
