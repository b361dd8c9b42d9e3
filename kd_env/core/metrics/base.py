"""What a metric is, which there are, and for which tasks they have a meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kd_env.core.registry import Registry, unknown_name
from kd_files.plugins import check_loads, instance_of

SHARE = (0.0, 1.0)
"""Bounds of a share or probability."""
CORRELATION = (-1.0, 1.0)
"""Bounds of a correlation."""


@dataclass(frozen=True)
class Metric:
    """A number about the predictions of a split.

    Attributes:
        compute: of predictions and labels ``[R]``, class indices or scores.
        bounds: smallest and largest value: no interval of one reaches beyond.
        of_scores: whether it is for regression; else it is for classes.
        two_classes: whether it has a meaning for exactly two classes alone.
        of_tokens: whether it is for the tokens of masked text, and for no task.
        instead: metrics that say it of more classes.
    """

    compute: Callable[[np.ndarray, np.ndarray], float]
    bounds: tuple[float, float] = SHARE
    of_scores: bool = False
    two_classes: bool = False
    of_tokens: bool = False
    instead: tuple[str, ...] = ()


METRICS: Registry[Metric] = Registry("metric", "kd_env.metrics", instance_of(Metric))


def fitting(regression: bool, classes: int | None) -> tuple[str, ...]:
    """Names of the metrics with a meaning for scores, or for so many classes (None: however many there will be)."""
    return tuple(
        name
        for name in METRICS
        if not METRICS[name].of_tokens
        and METRICS[name].of_scores == regression
        and not (METRICS[name].two_classes and classes not in (2, None))
    )


def check_metrics(names: Sequence[str], regression: bool, classes: int | None) -> None:
    """Refuse metrics without a meaning for a task.

    Args:
        names: of metrics.
        regression: whether the task is one of scores.
        classes: their number; None where it is not known yet.

    Raises:
        ValueError: an unknown metric (with near matches), or one for other tasks, with those that are valid.
    """
    valid = fitting(regression, classes)
    for name in names:
        if name in valid:
            continue
        if name not in METRICS:
            check_loads(METRICS.group, METRICS.kind, name)
            raise ValueError(unknown_name(f"metric for {'scores' if regression else 'classes'}:", name, valid))
        metric, here = METRICS[name], "scores" if regression else f"{classes} classes" if classes else "classes"
        meant = "scores" if metric.of_scores else "two classes" if metric.two_classes else "classes"
        remedy = f" Use {' or '.join(metric.instead)}." if not regression and metric.instead else ""
        raise ValueError(
            f"The metric {name!r} is for {meant}, and the task has {here}.{remedy} Valid: {', '.join(valid)}."
        )


def bounds_of(name: str) -> tuple[float, float] | None:
    """Smallest and largest value; None of a metric that is not installed (any more)."""
    return METRICS[name].bounds if name in METRICS else None


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
    return {name: METRICS[name].compute(predictions, labels) for name in names}


def ratio(covariance: float, first: float, second: float) -> float:
    """A covariance over the root of two variances, in [-1, 1]; 0 where one of them is 0."""
    scale = np.sqrt(first * second)
    return float(np.clip(covariance / scale, -1.0, 1.0)) if scale > 1e-12 else 0.0
