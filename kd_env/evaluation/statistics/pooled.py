"""The difference of two policies over several problems: tasks, regimes, students.

Problems are fixed: they were chosen, not drawn, each has the same weight, and nothing is said of others. What is random
is as in :mod:`kd_env.evaluation.statistics.crossed`, in every problem by itself. Problems are independent of one
another: each has trainings of its own, and an evaluation seed of the same number draws another student there, of
another task or on other rows. So the variance of the mean of P differences is the sum of theirs over P^2, with
Satterthwaite's degrees of freedom over the problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kd_env.evaluation.statistics.crossed import standard_error
from kd_env.evaluation.statistics.distributions import detectable_shift
from kd_env.evaluation.statistics.intervals import (
    MIN_SEEDS_FOR_CLAIM,
    MIN_UNITS_FOR_CLAIM,
    POWER,
    Difference,
    Floats,
    Interval,
    finite,
    interval_of,
    p_of,
)


@dataclass(frozen=True)
class PooledDifference(Difference):
    """The mean of the differences of several problems; counts are those of the problem that has the fewest.

    A claim needs 5 trainings of each agent and 30 evaluation seeds in every problem.
    """

    problems: int = 1
    """P, each with the same weight."""
    even: bool = True
    """Whether every problem has as many trainings and seeds."""

    @property
    def design(self) -> str:
        """``3 problems x 5 trainings x 30 seeds``, or of problems that differ ``3 problems x at least 5 ...``."""
        words = f"{'' if self.even else 'at least '}{super().design}"
        return f"{self.problems} problem{'' if self.problems == 1 else 's'} x {words}"


class _Part(NamedTuple):
    """The difference of one problem."""

    mean: float
    error: float
    dof: float
    counts: tuple[int, ...]  # trainings of each agent
    seeds: int


def pooled_difference(
    by_problem: Mapping[str, tuple[ArrayLike, ArrayLike]], level: float = 0.95, paired: bool = False
) -> PooledDifference:
    """The mean over problems of ``first [R, S]`` minus ``second``, a rule ``[S]`` or another agent ``[R2, S]``.

    Within a problem the two have the same evaluation seeds; R, R2 and S may differ between problems. One training
    stands for that one policy, as in :func:`kd_env.evaluation.statistics.crossed.policy_difference`: the problem adds
    the spread over its seeds alone, and nothing is claimed. Where a problem has one seed there is no interval.

    Coverage of the 95% interval by 4,000 draws of 3 or 8 problems with 5 or 10 trainings x 30 seeds, against a rule or
    as many trainings, over ratios of the three variances, also different ones in every problem: 0.943 to 0.970
    (``kd-env bench coverage``).

    Args:
        by_problem: values of the two by the problem's name.
        level: level of the interval.
        paired: whether training r of the first belongs to training r of the second.

    Raises:
        ValueError: no problem, or values of another shape or that are not finite, with the problem's name.
    """
    if not by_problem:
        raise ValueError("A pooled difference needs at least one problem, and there is none.")
    parts = [_part(name, *pair, paired) for name, pair in by_problem.items()]
    means, errors, dofs = (np.array(values) for values in list(zip(*parts, strict=True))[:3])
    mean = float(means.mean())
    designs = {(part.counts, part.seeds) for part in parts}
    seeds = min(part.seeds for part in parts)
    trained = any(max(part.counts) > 1 for part in parts)
    counts = _fewest([part.counts for part in parts])
    unit, units = ("training", sum(counts)) if trained else ("evaluation seed", seeds)
    groups = counts if len(counts) > 1 and trained else ()
    shape = groups, len(parts), len(designs) == 1
    crossed = seeds if trained else None
    if not np.isfinite(errors).all():
        nothing = Interval(mean, -math.inf, math.inf, units, level, crossed)
        return PooledDifference(nothing, 1.0, unit, False, math.inf, *shape)
    error, dof = map(float, pooled_error(errors, dofs))
    interval = interval_of(mean, error, dof, units, crossed, level)
    enough = min(counts) >= MIN_UNITS_FOR_CLAIM and seeds >= MIN_SEEDS_FOR_CLAIM
    claim = enough and not interval.contains_zero
    detectable = detectable_shift(dof, POWER, level) * error
    return PooledDifference(interval, p_of(mean, error, dof), unit, claim, detectable, *shape)


def pooled_error(errors: Floats, dofs: Floats) -> tuple[Floats, Floats]:
    """Standard error and degrees of freedom of the mean of P independent parts with ``errors [P, ...]`` and ``dofs``.

    Without any spread the degrees of freedom are those of the part that has the fewest.
    """
    squares = errors**2
    variance, below = squares.sum(axis=0), (squares**2 / dofs).sum(axis=0)
    dof = np.where(below > 0, variance**2 / np.where(below > 0, below, 1.0), dofs.min(axis=0))
    return np.sqrt(variance) / len(errors), np.maximum(dof, dofs.min(axis=0))


def same_problems(policies: Mapping[str, Mapping[str, ArrayLike]]) -> tuple[str, ...]:
    """The problems that all policies have, in the order of the first.

    Raises:
        ValueError: no policy or problem, or one that lacks problems of another, with the names of both.
    """
    problems = tuple(dict.fromkeys(name for values in policies.values() for name in values))
    if not problems:
        raise ValueError("Values of at least one policy in at least one problem are needed, and there are none.")
    for policy, values in policies.items():
        if missing := [name for name in problems if name not in values]:
            raise ValueError(
                f"{policy!r} has no values of the problems {missing}, which others have: policies are compared on the "
                f"same problems. Run these cells, or leave the problems out for all. It has: {list(values)}."
            )
    return problems


def _part(name: str, first: ArrayLike, second: ArrayLike, paired: bool) -> _Part:
    a = finite(f"first of the problem {name!r}", first, 2)
    b = finite(f"second of the problem {name!r}", second, min(max(np.ndim(second), 1), 2))
    if b.shape[-1] != a.shape[1] or (paired and b.shape != a.shape):
        raise ValueError(
            f"The problem {name!r} has values of {a.shape} and {b.shape}: not the same seeds or trainings."
        )
    rule, seeds = b.ndim == 1, a.shape[1]
    counts = (len(a),) if rule or paired else (len(a), len(b))
    mean = float(a.mean() - b.mean())
    if seeds == 1:
        return _Part(mean, math.inf, math.inf, counts, 1)
    # The spread of a difference does not ask for its sign.
    groups = [a - b] if rule or paired or len(b) == 1 else [b - a] if len(a) == 1 else [a, b]
    return _Part(mean, *_error(groups), counts, seeds)


def _error(groups: Sequence[Floats]) -> tuple[float, float]:
    if len(groups[0]) > 1:
        error, dof = standard_error(groups)
        return float(error), float(dof)
    seeds = groups[0].shape[1]
    return float(groups[0].std(ddof=1)) / math.sqrt(seeds), seeds - 1


def _fewest(counts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The fewest trainings of each agent; of the first alone where a problem sets it against a rule."""
    agents = min(map(len, counts))
    return tuple(min(count[index] for count in counts) for index in range(agents))
