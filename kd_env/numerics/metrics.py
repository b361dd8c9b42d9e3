"""GLUE's official metrics over a whole split, never averaged over mini-batches; constant predictions give 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kd_env.core.registry import unknown_name


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries of two ``[R]`` arrays, in [0, 1]."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Binary F1 of class 1, in [0, 1]; 0 where there is no true positive."""
    hits = float(np.sum((predictions == 1) & (labels == 1)))
    total = float(np.sum(predictions == 1) + np.sum(labels == 1))
    return 2.0 * hits / total if total else 0.0


def matthews_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of class indices, in [-1, 1] (Gorodkin 2004 for several classes)."""
    classes = np.union1d(predictions, labels)
    p = (predictions[:, None] == classes).astype(np.float64)
    y = (labels[:, None] == classes).astype(np.float64)
    p, y = p - p.mean(0), y - y.mean(0)
    return _ratio(float((p * y).sum()), float((p * p).sum()), float((y * y).sum()))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation, in [-1, 1]."""
    p = predictions.astype(np.float64) - predictions.mean(dtype=np.float64)
    y = labels.astype(np.float64) - labels.mean(dtype=np.float64)
    return _ratio(float((p * y).sum()), float((p * p).sum()), float((y * y).sum()))


def spearmanr(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation with average ranks for ties, in [-1, 1]."""
    return pearson(_ranks(predictions), _ranks(labels))


def auc(larger: np.ndarray, smaller: np.ndarray) -> float:
    """Area under the ROC curve: the probability that one of ``larger`` is above one of ``smaller``, ties one half.

    By ranks (Mann and Whitney 1947), in [0, 1]; 0.5 where one of the two is empty, so that nothing was told apart.
    """
    if not len(larger) or not len(smaller):
        return 0.5
    ranks = _ranks(np.concatenate([larger, smaller]))[: len(larger)]
    wins = float(ranks.sum()) - len(larger) * (len(larger) + 1) / 2.0
    return wins / (len(larger) * len(smaller))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
}

SHARE = (0.0, 1.0)
"""Bounds of a share or probability."""
BOUNDS: dict[str, tuple[float, float]] = {
    "accuracy": SHARE,
    "f1": SHARE,
    "matthews_correlation": (-1.0, 1.0),
    "pearson": (-1.0, 1.0),
    "spearmanr": (-1.0, 1.0),
    "token_accuracy": SHARE,  # of masked text (kd_env.mdp.objectives.text)
}
"""Smallest and largest value of each metric: no interval of one reaches beyond."""


def compute(names: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics by name for predictions and labels ``[R]`` (class indices or scores).

    Raises:
        ValueError: an unknown metric, or arrays of different or no length.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(
            f"Predictions {predictions.shape} and labels {labels.shape} must be equally long, [R] with R > 0."
        )
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown_name("metric", name, METRICS))
    return {name: METRICS[name](predictions, labels) for name in names}


def _ratio(covariance: float, first: float, second: float) -> float:
    scale = np.sqrt(first * second)
    return float(np.clip(covariance / scale, -1.0, 1.0)) if scale > 1e-12 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[inverse])
