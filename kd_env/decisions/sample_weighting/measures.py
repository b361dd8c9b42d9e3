"""How well the weights of rows tell wrong labels from right ones.

Reports alone know which train labels were replaced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.data import splits
from kd_env.mdp.problem import Problem
from kd_env.numerics import metrics

Floats = NDArray[np.float64]


def wrong_rows(problem: Problem) -> NDArray[np.bool_] | None:
    """Which rows of the train table carry a replaced label, ``[R]``; None where no row is weighed, or none is noisy."""
    config = problem.config
    if config.decision != "sample_weighting" or config.label_noise == 0:
        return None
    cut = problem.splits
    rows = cut.train if config.train_on == "train" else np.concatenate([cut.train, cut.feedback])
    return np.isin(rows, splits.replaced_rows(cut.train, config.label_noise, config.split_seed))


class RightRows:
    """Collects the weights that the rows of N students get in an episode.

    Args:
        wrong: ``[R]``, which rows of the train table are wrong.
        count: N.
    """

    def __init__(self, wrong: NDArray[np.bool_], count: int) -> None:
        self._wrong = wrong
        self._weights: list[list[Floats]] = [[] for _ in range(count)]
        self._are_wrong: list[list[NDArray[np.bool_]]] = [[] for _ in range(count)]

    def add(self, rows: NDArray[Any], weights: NDArray[Any], moved: NDArray[np.bool_]) -> None:
        """Take one step: rows ``[N, B]``, their weights alike, and the students ``[N]`` that were updated."""
        for student in np.flatnonzero(moved):
            self._weights[student].append(weights[student].astype(np.float64))
            self._are_wrong[student].append(self._wrong[rows[student]])

    def auc(self) -> Floats:
        """Of every student ``[N]``: the probability that a right row had a larger weight than a wrong one.

        Over all pairs of the episode, ties one half; 0.5 for a student that was never updated, or met one kind alone.
        """
        found = []
        for weights, wrong in zip(self._weights, self._are_wrong, strict=True):
            w = np.concatenate([*weights, np.zeros(0)])
            bad = np.concatenate([*wrong, np.zeros(0, dtype=np.bool_)])
            found.append(metrics.auc(w[~bad], w[bad]))
        return np.array(found)
