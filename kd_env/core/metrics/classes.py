"""Metrics of classes, of all of them together and of each alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_env.core.metrics.base import CORRELATION, METRICS, Metric, ratio


class ClassCounts(NamedTuple):
    """What was found of C classes, each ``[C]``."""

    hits: np.ndarray  # rows of the class that are predicted as it
    predicted: np.ndarray  # rows that are predicted as it
    rows: np.ndarray  # rows of the class

    def scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 of each class, ``[C]``; 0 where nothing is predicted or nothing is there."""
        parts = (self.predicted, self.rows, (self.predicted + self.rows) / 2.0)
        precision, recall, f1_scores = (self.hits / np.maximum(part, 0.5) for part in parts)
        return precision, recall, f1_scores


def class_counts(predictions: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> ClassCounts:
    """Counts of the named class indices ``[C]`` in predictions and labels ``[R]``."""
    guessed, true = predictions[:, None] == classes, labels[:, None] == classes
    return ClassCounts((guessed & true).sum(0), guessed.sum(0), true.sum(0))


def per_class(predictions: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """``precision``, ``recall`` and ``f1`` of each of ``count`` classes, ``[count]``."""
    scores = class_counts(predictions, labels, np.arange(count)).scores()
    return dict(zip(("precision", "recall", "f1"), scores, strict=True))


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries of two ``[R]`` arrays, in [0, 1]."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Binary F1 of class 1, in [0, 1]; 0 where there is no true positive.

    Raises:
        ValueError: a third class, of which it would say nothing.
    """
    if max(predictions.max(), labels.max()) > 1:
        raise ValueError("The metric 'f1' is that of class 1 of two, and here are more: use f1_macro or f1_micro.")
    return float(class_counts(predictions, labels, np.array([1])).scores()[2][0])


def f1_macro(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the F1 of every class that is there or predicted, in [0, 1]."""
    return float(class_counts(predictions, labels, np.union1d(predictions, labels)).scores()[2].mean())


def f1_micro(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the hits of all classes together, in [0, 1]; where every row has one class, the accuracy."""
    counts = class_counts(predictions, labels, np.union1d(predictions, labels))
    return float(2.0 * counts.hits.sum() / (counts.predicted.sum() + counts.rows.sum()))


def balanced_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall of the classes that are there, in [0, 1]: as if each had as many rows."""
    return float(class_counts(predictions, labels, np.unique(labels)).scores()[1].mean())


def matthews_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of class indices, in [-1, 1] (Gorodkin 2004 for several classes)."""
    classes = np.union1d(predictions, labels)
    p = (predictions[:, None] == classes).astype(np.float64)
    y = (labels[:, None] == classes).astype(np.float64)
    p, y = p - p.mean(0), y - y.mean(0)
    return ratio(float((p * y).sum()), float((p * p).sum()), float((y * y).sum()))


METRICS.register("accuracy")(Metric(accuracy))
METRICS.register("f1")(Metric(f1, two_classes=True, instead=("f1_macro", "f1_micro")))
METRICS.register("f1_macro")(Metric(f1_macro))
METRICS.register("f1_micro")(Metric(f1_micro))
METRICS.register("balanced_accuracy")(Metric(balanced_accuracy))
METRICS.register("token_accuracy")(Metric(accuracy, of_tokens=True))
METRICS.register("matthews_correlation")(Metric(matthews_correlation, CORRELATION))
