"""Multinomial logistic regression with a ridge: few rows, few features, one optimum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Logistic(NamedTuple):
    """A fitted regression on standardised features."""

    mean: Floats  # [F]
    scale: Floats  # [F]
    weights: Floats  # [F, K]
    bias: Floats  # [K]

    def probabilities(self, features: Floats) -> Floats:
        """Of the K classes, ``[..., K]``, for features ``[..., F]``."""
        scores = (features - self.mean) / self.scale @ self.weights + self.bias
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        found: Floats = powers / powers.sum(axis=-1, keepdims=True)
        return found


def fit_logistic(features: Floats, classes: NDArray[np.int64], count: int, ridge: float) -> Logistic:
    """The least sum of cross-entropies plus ``ridge / 2`` times the squared weights; the bias is free.

    Args:
        features: ``[R, F]``; each is brought to mean 0 and standard deviation 1 first, a constant one to 0.
        classes: ``[R]`` in [0, K).
        count: K.
        ridge: above 0, so that there is one optimum.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    inputs, targets = torch.tensor((features - mean) / scale), torch.tensor(classes)
    weights = torch.zeros(inputs.shape[1], count, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS(
        [weights, bias], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        descent.zero_grad()
        fit = torch.nn.functional.cross_entropy(inputs @ weights + bias, targets, reduction="sum")
        value = (fit + ridge / 2.0 * weights.square().sum()) / len(inputs)  # a mean, so that steps do not grow with R
        value.backward()
        return value

    descent.step(loss)
    return Logistic(mean, scale, weights.detach().numpy(), bias.detach().numpy())
