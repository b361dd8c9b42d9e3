"""Intervals and comparisons that do not promise more than the runs can hold.

The unit of replication is one independent training of an agent; evaluation seeds of students and dev examples are
nested in it. Everything here is exact arithmetic on a few numbers: no global random state, no SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

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


def t_cdf(t: float, dof: float) -> float:
    """P(T <= t) of Student's t with ``dof`` >= 1 degrees of freedom, not only whole ones."""
    if not dof >= 1:
        raise ValueError(f"dof={dof} must be at least 1.")
    tail = _two_sided(t, dof) / 2
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=1024)
def t_quantile(probability: float, dof: float) -> float:
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


def welch_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Difference of the means of two groups of independent trainings, ``first [n]`` minus ``second [m]``.

    Unpaired, and the spreads of the groups may differ (Welch 1947, with Satterthwaite's degrees of freedom). The units
    of the interval are all n + m trainings; a claim needs 5 in each group, and one training in a group has no spread.
    """
    a, b = _finite("first", first, 1), _finite("second", second, 1)
    mean = float(a.mean() - b.mean())
    units, smaller = int(a.size + b.size), min(a.size, b.size)
    if smaller < 2:
        return Difference(Interval(mean, -math.inf, math.inf, units, level), 1.0, "training", False)
    error, dof = _welch(float(a.std(ddof=1)), int(a.size), float(b.std(ddof=1)), int(b.size))
    half = t_quantile((1 + level) / 2, dof) * error
    interval = Interval(mean, mean - half, mean + half, units, level)
    excludes_zero = interval.low > 0 or interval.high < 0
    return Difference(interval, _p_of(mean, error, dof), "training", smaller >= MIN_UNITS_FOR_CLAIM and excludes_zero)


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


def welch_detectable_difference(
    deviations: tuple[float, float], units: tuple[int, int], power: float = 0.8, level: float = 0.95
) -> float:
    """Smallest true difference of two groups' means that Welch's two-sided test finds with the given power.

    Args:
        deviations: standard deviation of the units in each group.
        units: number of units in each group, at least 2.
        power: wished probability of an interval that excludes 0, in (1 - level, 1).
        level: level of the interval.
    """
    for deviation, count in zip(deviations, units, strict=True):
        _check_design(deviation, count)
    error, _ = _welch(deviations[0], units[0], deviations[1], units[1])
    return _detectable(*_two_samples(deviations, units, level), power, level) * error if error else 0.0


def _two_samples(deviations: tuple[float, float], units: tuple[int, int], level: float) -> tuple[Floats, Floats]:
    """Bounds that |Z + shift| has to exceed, Z standard normal, and the weight of each; ``[G]``.

    Welch's statistic given both groups' observed deviations, averaged over a grid of them; the normal part is closed.
    Its degrees of freedom follow the observed deviations; taken as those of the true ones, the power came out 0.02 too
    large for 5 against 5 units.
    """
    (n, m), (a, b) = units, deviations
    (s, left), (t, right) = _chi(n - 1, 80), _chi(m - 1, 80)
    u, v = (a**2 * s**2 / (n - 1) / n)[:, None], (b**2 * t**2 / (m - 1) / m)[None, :]
    inverse = ((u / (u + v)) ** 2 / (n - 1) + (v / (u + v)) ** 2 / (m - 1)).ravel()
    nodes = np.linspace(1 / (n + m - 2), 1 / (min(n, m) - 1), 33)
    critical = np.interp(inverse, nodes, [t_quantile((1 + level) / 2, 1 / node) for node in nodes])
    bound = critical * np.sqrt(u + v).ravel() / _welch(a, n, b, m)[0]
    return bound, np.outer(left, right).ravel()


def _chi(dof: int, points: int) -> tuple[Floats, Floats]:
    """Values of a chi variable at the midpoints of a grid, and their probabilities."""
    low, high = max(0.0, math.sqrt(dof) - 6), math.sqrt(dof) + 6
    s = low + (np.arange(points) + 0.5) * (high - low) / points
    log_density = (dof - 1) * np.log(s) - s**2 / 2
    weight = np.exp(log_density - log_density.max())
    return s, weight / weight.sum()


def _power(shift: float, bound: Floats, weight: Floats) -> float:
    return float((weight * (_normal_cdf(shift - bound) + _normal_cdf(-shift - bound))).sum())


def _detectable(bound: Floats, weight: Floats, power: float, level: float) -> float:
    """The shift at which the power is reached, by bisection."""
    if not 1 - level < power < 1:
        raise ValueError(f"power={power!r} must lie in ({1 - level:.3g}, 1).")
    low, high = 0.0, 1.0
    while _power(high, bound, weight) < power:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, bound, weight) < power else (low, middle)
    return high


def _check_design(deviation: float, units: int) -> None:
    if units < 2:
        raise ValueError(f"units={units} must be at least 2: one unit has no spread.")
    if deviation < 0 or not math.isfinite(deviation):
        raise ValueError(f"deviation={deviation!r} must be finite and at least 0.")


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
    error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    return _p_of(float(differences.mean()), error, differences.size - 1)


def _p_of(mean: float, error: float, dof: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return _two_sided(mean / error, dof)


def _welch(first: float, n: int, second: float, m: int) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom (Satterthwaite 1946)."""
    u, v = first**2 / n, second**2 / m
    if u + v == 0:
        return 0.0, float(n + m - 2)
    share = u / (u + v)
    return math.sqrt(u + v), 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (m - 1))


def _two_sided(t: float, dof: float) -> float:
    """P(|T| >= |t|) = I_x(dof / 2, 1 / 2) at x = dof / (dof + t^2) (Abramowitz & Stegun, 26.7.1 and 26.5.27)."""
    root = math.sqrt(dof)
    length = math.hypot(t, root)
    return _incomplete_beta(dof / 2, 0.5, (root / length) ** 2, (t / length) ** 2)


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF, 8.17.22; Lentz's method).

    ``y = 1 - x`` is given apart: computed here, it would lose its digits near x = 1.
    """
    if x == 0 or y == 0:
        return 0.0 if x == 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on this side alone
        return 1 - _incomplete_beta(b, a, y, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / (1 + step * d)
            c = 1 + step / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def _finite(name: str, values: Any, ndim: int) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"{name} must have {ndim} axes and at least one value, got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds a non-finite value: {x.tolist()}.")
    return x


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.5 * math.erfc(-float(value) / math.sqrt(2)) for value in x])
