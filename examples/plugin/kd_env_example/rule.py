"""A rule: a curriculum by length. Short rows count first, long ones later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, require
from agents.rules.sample_weighting import SampleRule


class ShortFirst(SampleRule):
    """The shorter ``start`` of every batch is kept at first, and all of it from the middle of the episode on."""

    name = "short_first"
    looks_at_feedback = False  # feedback rows have no say in it
    needs_features = ("progress", "row_length")

    def __init__(self, env: AnyEnv, *, seed: int = 0, start: float = 0.5) -> None:
        require(0.0 < start <= 1.0, "start", start, "in (0, 1]")
        super().__init__(env, seed=seed, start=start)

    def weights(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weights of the rows ``[N, B]``, of the observations ``[N, O]``."""
        start = self.options["start"]
        shares = start + (1.0 - start) * np.clip(2.0 * self.progress(observations), 0.0, 1.0)
        return self.keep(self.about(observations, "row_length", 0), shares[:, None])
