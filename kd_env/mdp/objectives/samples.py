"""Which feedback rows are read within an episode where not all are (``evaluation_sample``), and what is made of them.

Every number is an estimate of what all evaluated rows would have said, and all of them are read at reset and at the end
of an episode: rewards that are differences of it add up to what they would with all rows at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.core import trees
from kd_env.data.tables import Table
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState

_STREAM = 2**31 + 1
"""Keeps the draws apart from an episode's other random streams."""


def check_sample(config: EnvConfig, feedback: Table, calibrates: bool) -> None:
    """Raise ``ValueError`` where the evaluated rows are too few for samples of them.

    Args:
        config: options of the environment.
        feedback: the evaluated rows.
        calibrates: whether a temperature is fitted on each sample.
    """
    count, total = config.evaluation_sample, len(feedback)
    if count is None:
        return
    if count >= total:
        raise ValueError(
            f"evaluation_sample={count} has to be less than the {total} rows of the feedback split; lower it, raise "
            "feedback_rows, or leave it out to read all of them."
        )
    if calibrates:
        second = int(np.sort(np.unique(feedback.labels, return_counts=True)[1])[-2])
        if second * count < total:
            raise ValueError(
                f"A sample of evaluation_sample={count} of {total} feedback rows may hold one class alone, since the "
                f"second class has {second} rows, and a temperature needs two; raise evaluation_sample to at least "
                f"{-(-total // second)}, or set gap='labels'."
            )


def drawn_rows(problem: Problem, state: DistillState, step: np.ndarray) -> np.ndarray:
    """Rows ``[N, R]`` of the feedback table that are read after ``step [N]`` of the episode, the longest first.

    A function of the episode's seed and of the step. Every row is as likely as every other; rows are spread evenly over
    those in the order of their labels (of their lengths, where tokens are labelled), so that each class has its share.
    """
    table, config = problem.feedback, problem.config
    assert config.evaluation_sample is not None
    order = table.lengths if table.labels.ndim > 1 else table.labels
    chosen = []
    for seed, number in zip(state.seeds, step // config.sample_steps, strict=True):
        generator = np.random.default_rng([int(seed), _STREAM, int(number)])
        ranked = np.lexsort((generator.random(len(table)), order))
        places = (generator.random() + np.arange(config.evaluation_sample)) * (len(table) / config.evaluation_sample)
        rows = ranked[places.astype(np.int64)]
        chosen.append(rows[np.argsort(-table.lengths[rows], kind="stable")])
    return np.stack(chosen)


def before_update(problem: Problem, state: DistillState) -> DistillState:
    """The state with what students score on the rows that are read after the update, before it, where those are new."""
    if state.sampled is None:
        return state
    step = state.updates // problem.config.updates_per_step
    new = np.flatnonzero((step % problem.config.sample_steps == 0) & ~state.diverged)
    if not len(new):
        return state
    part = evaluated_part(state, new)
    measured = problem.objective.evaluate(problem, part.params, part.teacher, rows=drawn_rows(problem, part, step[new]))
    return state._replace(sampled=trees.set_rows(trees.copy(state.sampled), new, measured))


def estimate(problem: Problem, state: DistillState) -> Mapping[str, Any]:
    """Fields of the state after an update, from a sample of the evaluated rows.

    Paired, the estimate moves by as much as the sample's did: what rows differ by is in both of its readings.
    """
    step = (state.updates - 1) // problem.config.updates_per_step
    measured = problem.objective.evaluate(problem, state.params, state.teacher, rows=drawn_rows(problem, state, step))
    before = state.sampled
    if before is None:
        return measured._asdict()
    moved = {
        name: getattr(state, name) + value - getattr(before, name)
        for name, value in measured._asdict().items()
        if name != "temperature"  # the sample's own: it is not compared with another one
    }
    return {**moved, "temperature": measured.temperature, "sampled": measured}


def evaluated_part(state: DistillState, rows: np.ndarray) -> DistillState:
    """The state of some replicas as far as an evaluation reads it; their optimisers are left out."""
    if len(rows) == len(state.seeds):
        return state
    return trees.take(state._replace(exp_avg={}, exp_avg_sq={}), rows)
