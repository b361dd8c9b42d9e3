"""Ranks, and what is told by them alone."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 of ``values [R]``, equal ones with their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[inverse])


def auc(larger: np.ndarray, smaller: np.ndarray) -> float:
    """Area under the ROC curve: the probability that one of ``larger`` is above one of ``smaller``, ties one half.

    By ranks (Mann and Whitney 1947), in [0, 1]; 0.5 where one of the two is empty, so that nothing was told apart.
    """
    if not len(larger) or not len(smaller):
        return 0.5
    above = ranks(np.concatenate([larger, smaller]))[: len(larger)]
    wins = float(above.sum()) - len(larger) * (len(larger) + 1) / 2.0
    return wins / (len(larger) * len(smaller))
