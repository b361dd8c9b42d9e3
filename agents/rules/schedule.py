"""Stages of an episode: what rules with a timetable share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, episode_steps


class Schedule:
    """Stages of an episode, one after another, each for its share of the budget.

    Args:
        count: number of stages, at least 1.
        shares: of the budget, one a stage, above 0, in any unit (``[2, 1]``: two thirds and one); None: equal ones.

    Raises:
        ValueError: no stage, or shares that are not positive numbers, one a stage.
    """

    def __init__(self, count: int, shares: Sequence[float] | None = None) -> None:
        given = [1.0] * count if shares is None else shares
        numbers = isinstance(given, Sequence) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
            for value in given
        )
        if not count or not numbers or len(given) != count:
            raise ValueError(
                f"shares={shares!r} must be {count} finite numbers above 0, one for each of the {count} stages (at "
                "least 1 stage), or None for equal ones."
            )
        ends = np.cumsum(np.asarray(given, dtype=np.float64))
        self.ends = ends / ends[-1]

    def stage(self, progress: NDArray[Any]) -> NDArray[np.int64]:
        """Index of the stage ``[N]`` in which a step falls that begins at a share ``[N]`` of the budget, in [0, 1]."""
        # A step that begins where a stage ends belongs to the next one, however its progress was rounded (float32).
        return np.asarray(np.searchsorted(self.ends[:-1], np.asarray(progress) + 1e-6, side="right"), dtype=np.int64)

    def check(self, name: str, env: AnyEnv) -> None:
        """Refuse stages in which no step of an episode begins.

        Raises:
            ValueError: with the number of steps.
        """
        steps = episode_steps(env)
        if steps is None:
            return
        missing = sorted(set(range(len(self.ends))) - set(self.stage(np.arange(steps) / steps).tolist()))
        if missing:
            raise ValueError(
                f"The rule {name!r} has {len(self.ends)} stages, but an episode of {steps} steps has none in stage "
                f"{missing[0] + 1}; raise budget, lower updates_per_step, or give other shares."
            )
