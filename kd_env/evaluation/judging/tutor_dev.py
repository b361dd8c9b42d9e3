"""The dev rows on which tutored students are judged. Like :mod:`kd_env.evaluation.judging.protocol`, this alone reads
them.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from kd_env.data.corpora import load_texts
from kd_env.data.loading import get_task, load_dev
from kd_env.data.tables import on_device
from kd_env.data.text import cut_texts, tokenize_texts
from kd_env.decisions.tutor_token.corpus import evaluated_rows
from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.decisions.tutor_token.process import make_tutor_problem
from kd_env.decisions.tutor_token.task_corpus import task_table, teacher_loss
from kd_env.mdp import passes
from kd_env.numerics import losses, metrics


def with_dev_rows(problem: TutorProblem, rows: int) -> TutorProblem:
    """The problem whose evaluated rows are dev texts, up to ``rows``, or the official dev split of its task.

    MNLI is judged on its matched split.

    Raises:
        ValueError: the source has no dev texts of enough tokens.
    """
    config, assets = problem.config, problem.assets
    if config.task is not None:
        task = get_task(config.task, config.columns, config.data_dir)
        assert assets.classifier is not None
        data = next(iter(load_dev(task, config.data_dir).values()))
        whole = task_table(data, np.arange(len(data.labels)), assets.tokenizer, config.max_length)
        table = on_device(whole, assets.device)
        floor = teacher_loss(assets.classifier, table, config.precision, assets.temperature)
        return make_tutor_problem(assets._replace(feedback=table, loss_floor=floor), config)
    texts = load_texts(config.text, data_dir=config.data_dir, column=config.column, dev=True)
    cut = cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)
    least = assets.slots if config.masking == "fixed" else 1
    held = tokenize_texts(cut.dev[:rows], assets.tokenizer, assets.tokens, config.max_length, at_least=least)
    table, labels, floor = evaluated_rows(config, assets.teacher, assets.tokens, held, assets.slots, assets.device)
    return make_tutor_problem(assets._replace(feedback=table, feedback_labels=labels, loss_floor=floor), config)


def official_metrics(judged: TutorProblem, params: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The task's metrics of N students on the evaluated rows, each ``[N]``; nothing without a task."""
    config = judged.config
    if config.task is None:
        return {}
    task = get_task(config.task, config.columns, config.data_dir)
    guesses = losses.predictions(passes.predict(judged, params, judged.feedback), regression=False)
    found = [metrics.compute(task.metrics, own, judged.feedback.labels) for own in guesses]
    return {name: np.array([each[name] for each in found]) for name in task.metrics}
