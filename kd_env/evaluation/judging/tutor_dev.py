"""The rows on which tutored students are judged. Like :mod:`kd_env.evaluation.judging.protocol`, this alone reads dev
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kd_env.core import metrics
from kd_env.data import splits
from kd_env.data.corpora import load_texts
from kd_env.data.loading import get_task, load_dev, load_train
from kd_env.data.tables import on_device
from kd_env.data.tasks import Rows, Task
from kd_env.data.text import TextSplits, cut_texts, tokenize_texts
from kd_env.decisions.tutor_token.corpus.task import task_table, teacher_loss
from kd_env.decisions.tutor_token.corpus.text import evaluated_rows
from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.decisions.tutor_token.process import make_tutor_problem
from kd_env.mdp import passes
from kd_env.numerics import losses


class Judged(NamedTuple):
    """A problem twice, with other evaluated rows: students are judged on both, and learn from neither."""

    dev: TutorProblem
    """On dev texts, or the official dev split of its task."""
    selection: TutorProblem
    """On the selection split, on which the best rule is chosen."""


def judged_problems(problem: TutorProblem, rows: int) -> Judged:
    """The problem on dev and on selection rows.

    Args:
        problem: of training.
        rows: texts of each, at most; rows of a task are all taken.

    Raises:
        ValueError: the source has no dev texts of enough tokens.
    """
    return Judged(with_dev_rows(problem, rows), with_selection_rows(problem, rows))


def dev_split(problem: TutorProblem) -> str:
    """Name of the dev rows in reports."""
    config = problem.config
    return "dev" if config.task is None else _task(problem).dev_splits[0]


def with_dev_rows(problem: TutorProblem, rows: int) -> TutorProblem:
    """The problem whose evaluated rows are dev texts, up to ``rows``, or the official dev split of its task.

    MNLI is judged on its matched split.

    Raises:
        ValueError: the source has no dev texts of enough tokens.
    """
    config = problem.config
    if config.task is None:
        return _with_texts(problem, _texts(problem, dev=True).dev[:rows])
    data = next(iter(load_dev(_task(problem), config.data_dir).values()))
    return _with_rows(problem, data, np.arange(len(data.labels)))


def with_selection_rows(problem: TutorProblem, rows: int) -> TutorProblem:
    """The problem whose evaluated rows are those of the selection split, of texts up to ``rows``."""
    config = problem.config
    if config.task is None:
        return _with_texts(problem, _texts(problem, dev=False).selection[:rows])
    data = load_train(_task(problem), config.data_dir)
    cut = splits.cut(
        data,
        seed=config.split_seed,
        feedback_rows=config.feedback_rows,
        selection_rows=config.selection_rows,
        max_train_rows=config.max_train_rows,
    )
    return _with_rows(problem, data, cut.selection)


def _task(problem: TutorProblem) -> Task:
    config = problem.config
    assert config.task is not None
    return get_task(config.task, config.columns, config.data_dir)


def _texts(problem: TutorProblem, dev: bool) -> TextSplits:
    config = problem.config
    texts = load_texts(config.text, data_dir=config.data_dir, column=config.column, dev=dev)
    return cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)


def _with_texts(problem: TutorProblem, texts: Sequence[str]) -> TutorProblem:
    config, assets = problem.config, problem.assets
    least = assets.slots if config.masking == "fixed" else 1
    held = tokenize_texts(list(texts), assets.tokenizer, assets.tokens, config.max_length, at_least=least)
    table, labels, floor = evaluated_rows(config, assets.teacher, assets.tokens, held, assets.slots, assets.device)
    return make_tutor_problem(assets._replace(feedback=table, feedback_labels=labels, loss_floor=floor), config)


def _with_rows(problem: TutorProblem, data: Rows, rows: np.ndarray) -> TutorProblem:
    config, assets = problem.config, problem.assets
    assert assets.classifier is not None
    table = on_device(task_table(data, rows, assets.tokenizer, config.max_length), assets.device)
    floor = teacher_loss(assets.classifier, table, config.precision, assets.temperature)
    return make_tutor_problem(assets._replace(feedback=table, loss_floor=floor), config)


def official_metrics(judged: TutorProblem, params: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The task's metrics of N students on the evaluated rows, each ``[N]``; nothing without a task."""
    if judged.config.task is None:
        return {}
    task = _task(judged)
    guesses = losses.predictions(passes.predict(judged, params, judged.feedback), regression=False)
    scores = [metrics.compute(task.metrics, own, judged.feedback.labels) for own in guesses]
    return {name: np.array([each[name] for each in scores]) for name in task.metrics}
