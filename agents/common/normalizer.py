"""Running mean and variance of observations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ObservationNormalizer:
    """Shifts and scales observations ``[..., O]`` by the moments of all seen so far, clipped to ``[-limit, limit]``.

    Moments are merged batch by batch in float64 (Chan, Golub & LeVeque 1983), so that the result does not depend on how
    the observations are cut into batches beyond rounding. Before the first update observations pass unchanged.
    """

    def __init__(self, size: int, limit: float = 10.0) -> None:
        self.mean: NDArray[np.float64] = np.zeros(size)
        self.variance: NDArray[np.float64] = np.ones(size)
        self.count = 0
        self.limit = limit

    def update(self, observations: NDArray[np.float32]) -> None:
        """Take observations ``[..., O]`` into the moments."""
        batch = observations.reshape(math.prod(observations.shape[:-1]), self.mean.shape[0]).astype(np.float64)
        n = batch.shape[0]
        mean, variance = batch.mean(axis=0), batch.var(axis=0)
        total = self.count + n
        shift = mean - self.mean
        old = self.variance * self.count
        self.variance = (old + variance * n + shift**2 * self.count * n / total) / total
        self.mean = self.mean + shift * n / total
        self.count = total

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised observations of the same shape, float32."""
        # A constant feature has variance 0; without the floor rounding noise in it would be blown up.
        scaled = (observations - self.mean) / np.sqrt(np.maximum(self.variance, 1e-8))
        return np.clip(scaled, -self.limit, self.limit).astype(np.float32)

    def state(self) -> dict[str, Tensor]:
        """The moments as tensors, exact."""
        return {
            "mean": torch.from_numpy(self.mean.copy()),
            "variance": torch.from_numpy(self.variance.copy()),
            "count": torch.tensor(self.count),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.mean = state["mean"].numpy().copy()
        self.variance = state["variance"].numpy().copy()
        self.count = int(state["count"])
