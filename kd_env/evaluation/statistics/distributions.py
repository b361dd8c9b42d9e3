"""Student's t, F and the power of a t test, from the incomplete beta function, without SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np


def t_cdf(t: float, dof: float) -> float:
    """P(T <= t) of Student's t with ``dof`` >= 1 degrees of freedom, not only whole ones."""
    if not dof >= 1:
        raise ValueError(f"dof={dof} must be at least 1.")
    tail = two_sided_p(t, dof) / 2
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=1024)
def t_quantile(probability: float, dof: float) -> float:
    """The t with ``t_cdf(t, dof) == probability``, to full double precision."""
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability!r} must lie in (0, 1).")
    if probability < 0.5:
        return -t_quantile(1 - probability, dof)
    return _root(lambda t: t_cdf(t, dof) - probability, 0.0, 1.0)


@lru_cache(maxsize=256)
def f_quantile(probability: float, first: float, second: float) -> float:
    """The f with P(F <= f) = ``probability`` for ``first`` and ``second`` degrees of freedom (DLMF, 8.17)."""
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability!r} must lie in (0, 1).")
    # The share first f / (first f + second) has a beta distribution.
    share = _root(lambda x: _incomplete_beta(first / 2, second / 2, x, 1 - x) - probability, 0.0, 1.0)
    return second * share / (first * (1 - share))


@lru_cache(maxsize=1024)
def detectable_shift(dof: float, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest shift, in standard errors, that a two-sided t test of this level finds with the given power.

    The noncentral t distribution, on a grid of the chi variable of the error: right to about 1e-4.

    Args:
        dof: degrees of freedom of the error, at least 1.
        power: wished probability of an interval that excludes 0, in (1 - level, 1).
        level: of the interval.
    """
    if not 1 - level < power < 1:
        raise ValueError(f"power={power!r} must lie in ({1 - level:.3g}, 1).")
    low, high = max(0.0, math.sqrt(dof) - 6), math.sqrt(dof) + 6
    chi = low + (np.arange(48) + 0.5) * (high - low) / 48
    log_density = (dof - 1) * np.log(chi) - chi**2 / 2
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    bounds = (t_quantile((1 + level) / 2, dof) / math.sqrt(dof) * chi).tolist()

    def excess(shift: float) -> float:
        tails = [math.erfc((b - shift) / math.sqrt(2)) + math.erfc((b + shift) / math.sqrt(2)) for b in bounds]
        return float(np.dot(weights, tails)) / 2 - power

    return _root(excess, 0.0, 4.0, 1e-5)


def _root(rising: Callable[[float], float], low: float, high: float, tolerance: float = 1e-15) -> float:
    """Where a rising function is 0, at or above ``low``, by the Illinois method; ``high`` is doubled until above."""
    below, above = rising(low), rising(high)
    while above < 0:
        low, below, high = high, above, 2 * high
        above = rising(high)
    kept = 0
    for step in range(200):
        if high - low <= tolerance * high or above == 0:
            break
        middle = high - above * (high - low) / (above - below)
        if step % 4 == 3 or not low < middle < high:  # far from linear: halve
            middle = (low + high) / 2
            if middle in (low, high):
                break
        value = rising(middle)
        if value < 0:
            low, below, above = middle, value, above / 2 if kept < 0 else above
            kept = -1
        else:
            high, above, below = middle, value, below / 2 if kept > 0 else below
            kept = 1
    return high


def two_sided_p(t: float, dof: float) -> float:
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
