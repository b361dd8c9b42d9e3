"""Intervals and comparisons that do not promise more than the runs can hold.

The unit of replication is one independent training of an agent; evaluation seeds of students and dev examples are
nested in it. Everything here is exact arithmetic on a few numbers: no global random state, no SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_UNITS_FOR_CLAIM = 5
"""Below this number of units a difference is shown, but nothing is claimed from it."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; infinite where one unit alone says nothing about the spread."""

    mean: float
    low: float
    high: float
    units: int
    level: float = 0.95

    @property
    def half_width(self) -> float:
        """Half the length of a symmetric interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, what its units are, and whether anything may be claimed from it."""

    interval: Interval
    p_value: float
    unit: str
    """What was counted: ``training`` or ``evaluation seed``."""
    claim: bool
    """True only with at least 5 trainings and an interval that excludes 0."""


def t_cdf(t: float, dof: int) -> float:
    """P(T <= t) of Student's t with a whole number of degrees of freedom (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    if dof < 1:
        raise ValueError(f"dof={dof} must be at least 1.")
    theta = math.atan2(abs(t), math.sqrt(dof))
    cosine, sine = math.cos(theta), math.sin(theta)
    if dof % 2:
        term = total = cosine if dof > 1 else 0.0
        for k in range(3, dof - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        inside = 2 / math.pi * (theta + sine * total)
    else:
        term = total = 1.0
        for k in range(2, dof - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        inside = sine * total
    return 0.5 + math.copysign(inside / 2, t)


def t_quantile(probability: float, dof: int) -> float:
    """The t with ``t_cdf(t, dof) == probability``, by bisection to full double precision."""
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability!r} must lie in (0, 1).")
    if probability < 0.5:
        return -t_quantile(1 - probability, dof)
    low, high = 0.0, 1.0
    while t_cdf(high, dof) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, dof) < probability else (low, middle)
    return high


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and two-sided t interval of independent values ``[n]``, n >= 1.

    Raises:
        ValueError: no value, a non-finite one, or a level outside (0, 1).
    """
    x = _finite("values", values, 1)
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must lie in (0, 1).")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, -math.inf, math.inf, 1, level)
    half = t_quantile((1 + level) / 2, x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Interval(mean, mean - half, mean + half, int(x.size), level)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95, trained: bool = False) -> Difference:
    """Difference ``first - second`` of values ``[n]`` that were measured on the same seeds or examples.

    ``trained`` says that the n units are independent trainings of an agent; without it no claim is made, however
    narrow the interval: seeds of students under one frozen policy do not speak about the algorithm.
    """
    a, b = _finite("first", first, 1), _finite("second", second, 1)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have the same length, got {a.size} and {b.size}.")
    interval = t_interval(a - b, level)
    unit = "training" if trained else "evaluation seed"
    excludes_zero = interval.low > 0 or interval.high < 0
    claim = trained and interval.units >= MIN_UNITS_FOR_CLAIM and excludes_zero
    return Difference(interval, _p_value(a - b), unit, claim)


def nested_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Interval over the training-run means of ``values[R, S]``: R independent trainings, S evaluation seeds in each.

    Seeds inside one training share its policy; counting all R x S values as independent would promise too much.
    """
    return t_interval(_finite("values", values, 2).mean(axis=1), level)


def nested_difference(values: ArrayLike, comparator: ArrayLike, level: float = 0.95) -> Difference:
    """Paired difference of an agent ``[R, S]`` to a comparator on the same S seeds (``[S]`` or ``[R, S]``).

    With R >= 2 the units are the R trainings. With one training the interval is over its S seeds, named so, and never a
    claim.
    """
    a = _finite("values", values, 2)
    b = np.asarray(comparator, dtype=np.float64)
    if b.shape not in (a.shape, a.shape[1:]):
        raise ValueError(f"the comparator must have shape {a.shape} or {a.shape[1:]}, got {b.shape}.")
    if a.shape[0] == 1:
        return paired_difference(a[0], np.broadcast_to(b, a.shape)[0], level)
    return paired_difference(a.mean(axis=1), np.broadcast_to(b, a.shape).mean(axis=1), level, trained=True)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several comparisons, in the given order (Holm 1979): reject those below the level."""
    p = _finite("p_values", p_values, 1) if len(p_values) else np.zeros(0)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}.")
    adjusted = np.empty_like(p)
    running = 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        running = max(running, min(1.0, (p.size - rank) * float(p[index])))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def minimum_detectable_difference(deviation: float, units: int, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest true difference that a two-sided paired t test finds with the given power.

    Args:
        deviation: standard deviation of the paired differences (of the units, not of their mean).
        units: number of pairs, at least 2.
        power: wished probability of an interval that excludes 0, in (1 - level, 1).
        level: level of the interval.
    """
    if units < 2:
        raise ValueError(f"units={units} must be at least 2: one unit has no spread.")
    if deviation < 0 or not math.isfinite(deviation):
        raise ValueError(f"deviation={deviation!r} must be finite and at least 0.")
    if not 1 - level < power < 1:
        raise ValueError(f"power={power!r} must lie in ({1 - level:.3g}, 1).")
    low, high = 0.0, 1.0
    while t_test_power(high, units, level) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_test_power(middle, units, level) < power else (low, middle)
    return high * deviation


def t_test_power(effect: float, units: int, level: float = 0.95) -> float:
    """Power of the two-sided one-sample t test at a true mean of ``effect`` standard deviations.

    T = (Z + effect sqrt(n)) / sqrt(V / v) with V chi-squared of v = n - 1 degrees: the normal part is closed, the
    average over V is a sum over a fine grid of s = sqrt(V).
    """
    dof = units - 1
    critical = t_quantile((1 + level) / 2, dof)
    shift = effect * math.sqrt(units)
    s = np.linspace(1e-9, math.sqrt(dof) + 10, 4001)
    log_density = (dof - 1) * np.log(s) - s**2 / 2
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    bound = critical * s / math.sqrt(dof)
    reach = _normal_cdf(shift - bound) + _normal_cdf(-shift - bound)
    return float((weight * reach).sum())


def bootstrap_examples(
    score: Callable[[NDArray[np.int64]], float], rows: int, *, seed: int, replicates: int = 1000, level: float = 0.95
) -> Interval:
    """Percentile interval of "this policy on this dev set": dev examples are drawn again, the students stay.

    Args:
        score: score of the examples with the given row numbers ``[rows]`` (with repeats).
        rows: number of dev examples.
        seed: seed of the draws.
        replicates: number of draws.
        level: level of the interval.
    """
    if rows < 1 or replicates < 1:
        raise ValueError(f"rows={rows} and replicates={replicates} must be at least 1.")
    generator = np.random.default_rng(seed)
    scores = [score(generator.integers(0, rows, size=rows)) for _ in range(replicates)]
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(score(np.arange(rows))), float(low), float(high), rows, level)


def _p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of the t test against a mean of 0; 1 where nothing can be said."""
    if differences.size < 2:
        return 1.0
    deviation = float(differences.std(ddof=1))
    mean = float(differences.mean())
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    t = mean / (deviation / math.sqrt(differences.size))
    return 2 * (1 - t_cdf(abs(t), differences.size - 1))


def _finite(name: str, values: Any, ndim: int) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"{name} must have {ndim} axes and at least one value, got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds a non-finite value: {x.tolist()}.")
    return x


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.5 * math.erfc(-float(value) / math.sqrt(2)) for value in x])
