"""A metric: the accuracy on the class that has the lowest one."""

from __future__ import annotations

import numpy as np

from kd_env.core.metrics import Metric


def worst_class(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Of classes ``[R]``, those of the labels alone."""
    return min(float((predictions[labels == label] == label).mean()) for label in np.unique(labels))


WORST_CLASS = Metric(worst_class, bounds=(0.0, 1.0))
