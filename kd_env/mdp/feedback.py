"""When students are evaluated on the feedback rows."""

from __future__ import annotations

import logging

import numpy as np

from kd_env.core import trees
from kd_env.mdp.episodes import terminal, truncated
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState

logger = logging.getLogger("kd_env")


def evaluated(problem: Problem, state: DistillState) -> DistillState:
    """Evaluate the replicas that are due; the others keep what they had."""
    every = problem.config.evaluate_every
    due = terminal(state) | truncated(problem.config.max_episode_steps, state)
    if every > 0:
        due |= state.updates % (every * problem.config.updates_per_step) == 0
    due &= ~state.diverged
    if not due.any():
        return state
    rows = np.flatnonzero(due)
    models = (state.params, state.teacher)
    if not due.all():
        models = trees.take(models, rows)
    measured = problem.objective.evaluate(problem, *models)
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
