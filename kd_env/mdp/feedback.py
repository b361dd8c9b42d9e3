"""Students on the feedback rows."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kd_env.core import trees
from kd_env.mdp import passes
from kd_env.mdp.episodes import terminal, truncated
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, TeacherState
from kd_env.numerics import losses
from kd_env.numerics.calibration import fit_temperatures

logger = logging.getLogger("kd_env")


class Evaluation(NamedTuple):
    """What N students score on the evaluated feedback rows, each ``[N]`` float64."""

    loss: np.ndarray  # e of the problem
    raw_loss: np.ndarray  # against gold labels, without a temperature
    temperature: np.ndarray  # 1 where the gap is not calibrated
    metric: np.ndarray
    entropy: np.ndarray
    agreement: np.ndarray


def evaluate(problem: Problem, params: dict[str, Tensor], teacher: TeacherState | None) -> Evaluation:
    """Feedback loss, headline metric, entropy and agreement with the teacher. Reads feedback rows only.

    The agreement with a teacher that learns is 0 where no feature asks for it: it costs a pass of the teacher.
    """
    logits = passes.predict(problem, params, problem.feedback)
    finite = np.isfinite(logits).all(axis=(1, 2))
    safe = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)
    count = len(logits)
    raw = losses.gold_loss(safe, problem.feedback.labels, problem.label_width)
    temperature = np.ones(count)
    if problem.task.regression:
        entropy, agreement = np.zeros(count), np.zeros(count)
    else:
        entropy = losses.entropy(safe).mean(-1)
        classes = safe.argmax(-1)
        self_taught = problem.config.teacher_source == "student"  # the control must not hear of the teacher
        agreement = (classes == (classes if self_taught else _teacher_classes(problem, teacher))).mean(-1)
    metric = np.array([problem.metric(row, problem.feedback.labels) for row in safe])
    if problem.calibrates:
        temperature = fit_temperatures(safe, problem.feedback.labels)
    loss = problem.loss(safe, problem.feedback, problem.reference.feedback_logits, temperature)
    return Evaluation(np.where(finite, loss, np.nan), raw, temperature, metric, entropy, agreement)


def _teacher_classes(problem: Problem, teacher: TeacherState | None) -> np.ndarray:
    """What the teachers choose on the feedback rows, ``[R]`` or ``[N, R]``; -1 where nobody asks."""
    if teacher is None:
        return np.asarray(problem.reference.feedback_logits.argmax(-1))
    if "agreement" not in problem.features:
        return np.full(len(problem.feedback), -1)
    logits = passes.predict(problem, teacher.params, problem.feedback, encoder=problem.reference.encoder)
    return np.asarray(logits.argmax(-1))


def evaluated(problem: Problem, state: DistillState) -> DistillState:
    """Evaluate the replicas that are due; the others keep what they had."""
    every = problem.config.evaluate_every
    due = terminal(state) | truncated(problem.config.max_episode_steps, state)
    if every > 0:
        due |= state.steps % every == 0
    due &= ~state.diverged
    if not due.any():
        return state
    rows = np.flatnonzero(due)
    models = (state.params, state.teacher)
    if not due.all():
        models = trees.take(models, rows)
    measured = evaluate(problem, *models)
    finite = np.isfinite(measured.loss)
    good = rows[finite]
    diverged = state.diverged.copy()
    diverged[rows[~finite]] = True
    for bad in rows[~finite]:
        logger.warning("Replica %d: the feedback loss is not finite after update %d.", bad, state.updates[bad])
    values = {}
    for name, measurements in measured._asdict().items():
        column = getattr(state, name).copy()
        column[good] = measurements[finite]
        values[name] = column
    return state._replace(diverged=diverged, **values)
