"""What reports show of how soft labels were compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.decisions.base import Measure
from kd_env.numerics.traces import Trace


class MeanGiven(Measure):
    """The mean of a number that actions give, over the steps of an episode (and their rows).

    Args:
        name: of the number in ``info``.
        title: of the column.
        bounds: of the number.
    """

    def __init__(self, name: str, title: str, bounds: tuple[float, float]) -> None:
        self.name, self.title, self.bounds, self.trace = f"mean_{name}", title, bounds, title
        self._key = name
        self._course = Trace()

    def add(self, info: Mapping[str, NDArray[Any]], running: NDArray[np.bool_]) -> None:
        """Take one step."""
        values = info[self._key]
        self._course.append(np.where(running, values if values.ndim == 1 else values.mean(-1), np.nan))

    def values(self) -> Floats:
        """The mean of every student, ``[N]``."""
        return np.asarray(np.nanmean(self._course.array(), axis=0))

    def over_time(self) -> Floats:
        """The mean over the rows of each step, ``[steps, N]``."""
        return self._course.array()
