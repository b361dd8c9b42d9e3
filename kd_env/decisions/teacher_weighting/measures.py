"""What reports measure where teachers are weighed for single rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core import metrics
from kd_env.core.types import Floats
from kd_env.decisions.base import Measure


class BestTeacherFollowed(Measure):
    """Share of rows on which the teacher that is best there (lowest loss on the train label) has the largest weight.

    Ties share, so that equal weights of T teachers have 1 / T.

    Args:
        losses: ``[T, R]`` of the teachers on the train rows.
        count: N students.
    """

    name = "followed"
    title = "best teacher followed"
    bounds = metrics.SHARE

    def __init__(self, losses: NDArray[Any], count: int) -> None:
        self._losses, self._count = losses, count
        self._shares: list[Floats] = []

    def add(self, info: Mapping[str, NDArray[Any]], running: NDArray[np.bool_]) -> None:
        """Take one step."""
        shares = follows_best(self._losses, info["rows"], info["row_weights"])
        self._shares.append(np.where(running, shares, np.nan))

    def values(self) -> Floats:
        """The mean over the steps, ``[N]``."""
        return np.asarray(np.nanmean(np.stack(self._shares), axis=0))


def follows_best(losses: NDArray[Any], rows: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Share ``[N]`` of rows ``[N, B]`` whose best teacher by losses ``[T, R]`` has the largest weight ``[N, T, B]``."""
    best = losses[:, rows].argmin(axis=0)  # [N, B]
    largest = weights == weights.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(largest, best[:, None], axis=1)[:, 0]
    return np.asarray((chosen / largest.sum(axis=1)).mean(axis=-1))
