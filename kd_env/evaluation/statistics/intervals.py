"""Intervals and comparisons that do not promise more than the runs can hold.

Two things vary, and both are random: the independent training of an agent and the evaluation seed of its students.
Here are the statistics over one of them; :mod:`kd_env.evaluation.statistics.crossed` has those over both. Everything is
arithmetic on a few numbers: no global random state, no SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_env.evaluation.statistics.distributions import detectable_shift, t_quantile, two_sided_p

Floats = NDArray[np.float64]
Bounds = tuple[float, float]

MIN_UNITS_FOR_CLAIM = 5
"""Below this number of trainings a difference is shown, but nothing is claimed from it."""
MIN_SEEDS_FOR_CLAIM = 30
"""Below this number of evaluation seeds a difference is shown, but nothing is claimed from it."""
POWER = 0.8
"""With this probability a true difference as large as the detectable one gives an interval without 0."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; infinite where one unit alone says nothing about the spread."""

    mean: float
    low: float
    high: float
    units: int
    """Trainings, or evaluation seeds or examples where they alone vary."""
    level: float = 0.95
    seeds: int | None = None
    """Evaluation seeds that the units are crossed with; None where the seeds are the units."""

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    @property
    def contains_zero(self) -> bool:
        """Whether 0 lies inside."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Difference:
    """A mean difference, what its units are, and whether anything may be claimed from it."""

    interval: Interval
    p_value: float
    unit: str
    """What was counted: ``training`` (crossed with evaluation seeds) or ``evaluation seed``."""
    claim: bool
    """True only with at least 5 trainings of each agent, 30 evaluation seeds and an interval that excludes 0."""
    detectable: float
    """Minimum detectable difference: the smallest true one that such a design finds with a power of 0.8, at the spreads
    observed; infinite where there is no interval."""
    groups: tuple[int, ...] = ()
    """Trainings of each of two agents; empty where one of the two is a rule."""

    @property
    def tie(self) -> bool:
        """Whether there is an interval and it contains 0: the difference is smaller than what the design detects."""
        return math.isfinite(self.interval.low) and self.interval.contains_zero

    @property
    def design(self) -> str:
        """``5 trainings x 30 seeds``, ``10 seeds``, or ``5 trainings, a seed each``."""
        if self.unit == "training" and self.interval.seeds is None:
            return f"{self.interval.units} training{'' if self.interval.units == 1 else 's'}, a seed each"
        words = design_in_words(self.interval.units, self.interval.seeds)
        if len(self.groups) < 2 or self.interval.seeds is None:
            return words
        return f"{' + '.join(map(str, self.groups))} trainings x{words.split(' x', 1)[1]}"

    @property
    def reading(self) -> str:
        """What may be said about the difference, in words."""
        if math.isinf(self.interval.low):
            return "no interval can be given: one unit says nothing about the spread"
        if self.tie:
            return f"tie: smaller than what {self.design} can detect ({self.detectable:.3f})"
        if self.claim:
            return f"the interval excludes 0 ({self.design})"
        return f"{self.design}: shown, no claim"


def design_in_words(units: int, seeds: int | None) -> str:
    """``5 trainings x 30 seeds``, or with ``seeds=None`` ``10 seeds``."""
    count = units if seeds is None else seeds
    words = f"{count} seed{'' if count == 1 else 's'}"
    return words if seeds is None else f"{units} training{'' if units == 1 else 's'} x {words}"


def t_interval(values: ArrayLike, level: float = 0.95, bounds: Bounds | None = None) -> Interval:
    """Mean and two-sided t interval of independent values ``[n]``, n >= 1.

    Args:
        values: the values.
        level: level of the interval.
        bounds: of values that cannot lie outside: see :func:`interval_of`.

    Raises:
        ValueError: no value, a non-finite one, or a level outside (0, 1).
    """
    x = finite("values", values, 1)
    if x.size == 1:
        _check_level(level)
        return Interval(float(x[0]), -math.inf, math.inf, 1, level)
    return interval_of(float(x.mean()), _error(x), x.size - 1, int(x.size), None, level, bounds)


def interval_of(
    mean: float, error: float, dof: float, units: int, seeds: int | None, level: float, bounds: Bounds | None = None
) -> Interval:
    """The t interval of a mean with its standard error.

    With ``bounds`` it has Wilson's form (1927): every mean m that is within t standard errors of the one seen, where
    the error at m is that seen times ``sqrt((m - low) (high - m))`` over the same at the mean, as for a share of that
    size. So it stays inside the bounds, is longer towards the far one, and is the t interval itself where the error is
    small against the distance to them. A mean at a bound says that every value lay there: no spread is seen, and the
    interval is that point, as for any constant values. By simulation (5 and 10 values of skewed beta distributions with
    means of 0.9) it covers 0.94 where the t interval covers 0.90 to 0.93.
    """
    _check_level(level)
    half = t_quantile((1 + level) / 2, dof) * error
    if bounds is None:
        return Interval(mean, mean - half, mean + half, units, level, seeds)
    low, high = bounds
    if not low - 1e-9 <= mean <= high + 1e-9:
        raise ValueError(f"the mean {mean} lies outside its bounds [{low}, {high}].")
    share = min(max((mean - low) / (high - low), 0.0), 1.0)
    spread = share * (1 - share) * (high - low)
    if half == 0 or spread <= 0:
        return Interval(mean, mean, mean, units, level, seeds)
    weight = half**2 / (spread * (high - low))
    centre = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    first, last = (low + (high - low) * min(max(end, 0.0), 1.0) for end in (centre - reach, centre + reach))
    return Interval(mean, min(first, mean), max(last, mean), units, level, seeds)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95, trained: bool = False) -> Difference:
    """Difference ``first - second`` of two policies' values ``[n]`` on the same n evaluation seeds.

    Never a claim, however narrow the interval: seeds of students under one frozen policy do not speak about the
    algorithm that trained it. ``trained`` says that each value is that of another training, judged on its own seed
    alone: the n units are both, and 30 of them make a claim.
    """
    a, b = finite("first", first, 1), finite("second", second, 1)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have the same length, got {a.size} and {b.size}.")
    interval = t_interval(a - b, level)
    unit = "training" if trained else "evaluation seed"
    if a.size == 1:
        return without_interval(interval.mean, unit, 1, None, level)
    error, dof = _error(a - b), a.size - 1
    detectable = detectable_shift(dof, POWER, level) * error
    claim = trained and a.size >= max(MIN_UNITS_FOR_CLAIM, MIN_SEEDS_FOR_CLAIM) and not interval.contains_zero
    return Difference(interval, p_of(interval.mean, error, dof), unit, claim, detectable)


def without_interval(mean: float, unit: str, units: int, seeds: int | None, level: float) -> Difference:
    """A difference of which one unit alone was seen."""
    return Difference(Interval(mean, -math.inf, math.inf, units, level, seeds), 1.0, unit, False, math.inf)


def p_of(mean: float, error: float, dof: float) -> float:
    """Two-sided p-value of the t test against a mean of 0."""
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return two_sided_p(mean / error, dof)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several comparisons, in the given order (Holm 1979): reject those below the level."""
    p = finite("p_values", p_values, 1) if len(p_values) else np.zeros(0)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}.")
    adjusted = np.empty_like(p)
    running = 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        running = max(running, min(1.0, (p.size - rank) * float(p[index])))
        adjusted[index] = running
    return [float(value) for value in adjusted]


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


def finite(name: str, values: Any, ndim: int) -> Floats:
    """``values`` as an array of ``ndim`` axes; a ValueError where it is another, empty or not finite."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"{name} must have {ndim} axes and at least one value, got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds a non-finite value: {x.tolist()}.")
    return x


def _error(x: Floats) -> float:
    return float(x.std(ddof=1)) / math.sqrt(x.size)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must lie in (0, 1).")
