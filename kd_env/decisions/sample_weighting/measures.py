"""How well the weights of rows tell wrong labels from right ones.

Reports alone know which train labels were replaced, and the rule that is a bound for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core import metrics
from kd_env.core.types import Floats
from kd_env.data.label_noise import noise_seed, replaced_rows
from kd_env.decisions.base import Measure
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState
from kd_env.numerics.traces import Trace


def wrong_rows(problem: Problem) -> NDArray[np.bool_] | None:
    """Which rows of the train table carry a replaced label, ``[R]``; None where none is noisy."""
    config = problem.config
    if config.label_noise == 0:
        return None
    cut = problem.splits
    rows = cut.train if config.train_on == "train" else np.concatenate([cut.train, cut.feedback])
    return np.isin(rows, replaced_rows(cut.train, config.label_noise, noise_seed(config)))


def right_rows(problem: Problem, state: Callable[[], DistillState]) -> Callable[[], NDArray[np.bool_]] | None:
    """What tells of each row of the next batch whether its label is the true one, ``[N, B]``, in the present state.

    In no observation; for bounds. None where no label was replaced.
    """
    wrong = wrong_rows(problem)
    return None if wrong is None else lambda: ~wrong[state().next_rows[:, 0]]


class RightRows(Measure):
    """How well the weights that the rows get in an episode tell right labels from wrong ones.

    Args:
        wrong: ``[R]``, which rows of the train table are wrong.
        count: N students.
    """

    name = "right_rows_auc"
    title = "AUC of right rows"
    bounds = metrics.SHARE
    trace = "weight of right minus wrong rows"

    def __init__(self, wrong: NDArray[np.bool_], count: int) -> None:
        self._wrong = wrong
        self._weights: list[list[Floats]] = [[] for _ in range(count)]
        self._are_wrong: list[list[NDArray[np.bool_]]] = [[] for _ in range(count)]
        self._between = Trace()

    def add(self, info: Mapping[str, NDArray[Any]], running: NDArray[np.bool_]) -> None:
        """Take one step of the students that were updated."""
        rows, weights = info["rows"], info["row_weights"][:, 0]
        for student in np.flatnonzero(running & ~info["skipped"]):
            self._weights[student].append(weights[student].astype(np.float64))
            self._are_wrong[student].append(self._wrong[rows[student]])
        differences = [_between(one, self._wrong[batch]) for one, batch in zip(weights, rows, strict=True)]
        self._between.append(np.where(running, np.where(info["skipped"], 0.0, differences), np.nan))

    def values(self) -> Floats:
        """The probability that a right row had a larger weight than a wrong one, of every student ``[N]``.

        Over all pairs of the episode, ties one half; 0.5 for a student that was never updated, or met one kind alone.
        """
        areas = []
        for weights, wrong in zip(self._weights, self._are_wrong, strict=True):
            w = np.concatenate([*weights, np.zeros(0)])
            bad = np.concatenate([*wrong, np.zeros(0, dtype=np.bool_)])
            areas.append(metrics.auc(w[~bad], w[bad]))
        return np.array(areas)

    def over_time(self) -> Floats:
        """How much more weight right rows had than wrong ones, ``[updates, N]``; 0 in batches of one kind alone."""
        return self._between.array()


def _between(weights: NDArray[Any], wrong: NDArray[np.bool_]) -> float:
    """Mean weight of right rows minus that of wrong ones."""
    return float(weights[~wrong].mean() - weights[wrong].mean()) if wrong.any() and not wrong.all() else 0.0
