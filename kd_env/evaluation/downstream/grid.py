"""Points of a grid of fine-tunings, and which of them the selection split prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

DIVERGED = "diverged"
"""Key of what stopped a fine-tuning that came to no numbers."""


class Point(NamedTuple):
    """How a student is fine-tuned."""

    learning_rate: float
    epochs: int

    @property
    def name(self) -> str:
        """For files and messages."""
        return f"lr{self.learning_rate:g}-epochs{self.epochs}"

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:g}, {self.epochs} epoch{'' if self.epochs == 1 else 's'}"


def grid_of(learning_rates: Sequence[float], epochs: Sequence[int]) -> list[Point]:
    """Every learning rate with every number of epochs."""
    return [Point(float(rate), count) for rate, count in product(learning_rates, epochs)]


def choose(found: Mapping[Point, Mapping[str, Any]], headline: str) -> Point:
    """The point with the best headline metric on the selection split; of equal ones that of the lower loss.

    Args:
        found: by point what :func:`kd_env.evaluation.downstream.fine_tuning.fine_tune` returned with
            ``judged="selection"``, or a mapping with :data:`DIVERGED` alone.
        headline: the metric.

    Raises:
        ValueError: every point diverged.
    """
    judged = {point: one["selection"]["selection"] for point, one in found.items() if DIVERGED not in one}
    if not judged:
        raise ValueError("Every point of the grid diverged; give lower learning_rates=[...].")
    return max(judged, key=lambda point: (judged[point][headline], -judged[point]["loss"]))


def edges(point: Point, learning_rates: Sequence[float], epochs: Sequence[int]) -> list[str]:
    """Where a point lies at the end of what was tried, in words: a wider grid might have had a better one."""
    found = []
    for title, value, tried in (
        ("learning rate", point.learning_rate, sorted(learning_rates)),
        ("number of epochs", point.epochs, sorted(epochs)),
    ):
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            found.append(f"{'lowest' if value == tried[0] else 'highest'} {title}")
    return found
