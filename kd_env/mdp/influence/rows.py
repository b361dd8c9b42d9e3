"""The influence of every row of the next batch, as features, scores and rules of an environment ask for it."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.config.influence import check_rows
from kd_env.mdp.influence.samples import sample_influence
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState
from kd_env.numerics.optim import learning_rate_factor

CLIP = 3.0
"""Standard deviations of a batch's influences at which :func:`scaled_influence` reaches 1."""
_STREAM = 2**31
"""Keeps the draws of feedback rows apart from an episode's other random streams, which have small numbers."""


class VirtualOptions(TypedDict):
    """How a virtual step is made."""

    learning_rates: np.ndarray
    optimizer: str
    clip: bool


def has_influence(problem: Problem) -> bool:
    """Whether rows have an influence: they are labelled, and stay as they are."""
    return problem.assets.reader is None


def row_influence(problem: Problem, state: DistillState) -> np.ndarray:
    """Drop of the raw feedback loss per unit of weight of each row of the next batch, ``[N, B]`` float64, finite.

    The weight multiplies all losses of its row, in the next update with the learning rate that it will have; the
    other weights are 1. The feedback rows are those of :func:`feedback_choice`. A broken student, one of whose
    influences is not finite, has 0 everywhere.

    Raises:
        ValueError: fewer evaluated feedback rows than ``influence.rows``.
    """
    if not has_influence(problem):
        raise ValueError(
            "The influence of rows is that of their labels on the loss of feedback labels, of rows as they are; there "
            "is none where text is masked (objective='text', decision='tutor_token')."
        )
    config = problem.config.optimizer_config
    rates = config.rate * learning_rate_factor(state.updates, state.budget, config.warmup)
    rows, feedback = state.next_rows[:, 0], feedback_choice(problem, state)
    influences = sample_influence(problem, state, rows, feedback, **virtual_options(problem.config, rates))
    values = influences.double().cpu().numpy()
    finite = np.isfinite(values).all(-1, keepdims=True)
    return np.where(finite, values, 0.0)


def virtual_options(config: EnvConfig, rates: np.ndarray) -> VirtualOptions:
    """Keywords of a look ahead (:func:`kd_env.mdp.influence.look_ahead.look_ahead`).

    Args:
        config: options of the environment.
        rates: ``[N]`` learning rates that the students' next update will have.
    """
    options = config.influence_config
    learning_rates = rates if options.learning_rate is None else np.full_like(rates, options.learning_rate)
    return {"learning_rates": learning_rates, "optimizer": options.optimizer, "clip": options.clip}


def feedback_choice(problem: Problem, state: DistillState) -> np.ndarray:
    """Rows ``[N, M]`` of the feedback table, none twice, by each replica's episode seed and number of updates alone.

    Raises:
        ValueError: M is more than the table has.
    """
    count = feedback_rows(problem.config, len(problem.feedback))
    chosen = [
        np.random.default_rng([int(seed), _STREAM, int(spent)]).permutation(len(problem.feedback))[:count]
        for seed, spent in zip(state.seeds, state.updates, strict=True)
    ]
    return np.stack(chosen)


def feedback_rows(config: EnvConfig, evaluated_rows: int) -> int:
    """M, feedback rows of a step of the influence, of ``evaluated_rows`` that are evaluated.

    Raises:
        ValueError: more than are evaluated, with both numbers.
    """
    rows = config.influence_config.rows
    count = config.batch_size if rows is None else rows
    check_rows(count, evaluated_rows, "the smaller of evaluation_rows and the feedback split")
    return count


def check_influence(config: EnvConfig, evaluated_rows: int, reads_influence: bool) -> None:
    """Refuse too few ``evaluated_rows`` of feedback where an option asks for influence, or a score or feature reads it.

    Raises:
        ValueError: with both numbers.
    """
    # Where the teacher learns, a policy may ask at any step.
    if reads_influence or config.teacher_learns or config.influence_config.rows is not None:
        feedback_rows(config, evaluated_rows)


def scaled_influence(values: np.ndarray) -> np.ndarray:
    """Influences ``[..., B]`` over three standard deviations of their batch, clipped to [-1, 1]; 0 where all are equal.

    The sign stays: rows below 0 raise the feedback loss.
    """
    spread = values.std(-1, keepdims=True)
    # Rounding alone leaves differences of this size between equal influences.
    flat = spread <= 1e-12 * np.abs(values).max(-1, keepdims=True)
    scaled = np.divide(values, CLIP * spread, out=np.zeros_like(values), where=~flat)
    return np.asarray(scaled.clip(-1.0, 1.0))
