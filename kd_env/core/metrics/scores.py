"""Metrics of scores: correlations."""

from __future__ import annotations

import numpy as np

from kd_env.core.metrics.base import CORRELATION, METRICS, Metric, ratio
from kd_env.core.metrics.ranks import ranks


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation, in [-1, 1]."""
    p = predictions.astype(np.float64) - predictions.mean(dtype=np.float64)
    y = labels.astype(np.float64) - labels.mean(dtype=np.float64)
    return ratio(float((p * y).sum()), float((p * p).sum()), float((y * y).sum()))


def spearmanr(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation with average ranks for ties, in [-1, 1]."""
    return pearson(ranks(predictions), ranks(labels))


METRICS.register("pearson")(Metric(pearson, CORRELATION, of_scores=True))
METRICS.register("spearmanr")(Metric(spearmanr, CORRELATION, of_scores=True))
