"""What a study of another size would find, from the values of a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kd_env.evaluation.statistics.crossed import Parts, error_of, parts_of
from kd_env.evaluation.statistics.distributions import detectable_shift
from kd_env.evaluation.statistics.intervals import POWER, Floats, finite


class Components(NamedTuple):
    """Variances of the difference of two policies, from mean squares; those that come out below 0 are 0."""

    trainings: tuple[float, ...]
    """Of the trainings of each agent."""
    interactions: tuple[float, ...]
    """Of a training on a seed, beside both."""
    seeds: float
    """Of the seeds' effect on the difference."""


def components(first: ArrayLike, second: ArrayLike, paired: bool = False) -> Components:
    """Variance components of ``first [R, S]`` minus a rule ``[S]`` or another agent ``[R2, S]``.

    Raises:
        ValueError: fewer than two trainings or seeds, other shapes, or values that are not finite.
    """
    a = finite("first", first, 2)
    b = finite("second", second, min(max(np.ndim(second), 1), 2))
    if b.shape[-1] != a.shape[1] or (paired and b.shape != a.shape):
        raise ValueError(f"values of shapes {a.shape} and {b.shape} are not of the same seeds and trainings.")
    groups = [a - b] if paired or b.ndim == 1 else [a, b]
    seeds = a.shape[1]
    if min(seeds, *map(len, groups)) < 2:
        raise ValueError(
            f"A pilot needs at least 2 trainings of each agent and 2 evaluation seeds, got {a.shape} and {b.shape}: "
            "one alone has no spread. Train once more, or judge on more seeds."
        )
    parts = [parts_of(group) for group in groups]
    squares = [
        (float(part.training) * group.size, float(part.interaction) * group.size)
        for part, group in zip(parts, groups, strict=True)
    ]
    effects = a.mean(axis=0) - (b if b.ndim == 1 else b.mean(axis=0))
    noise = sum(interaction / len(group) for (_, interaction), group in zip(squares, groups, strict=True))
    return Components(
        tuple(max(training - interaction, 0.0) / seeds for training, interaction in squares),
        tuple(interaction for _, interaction in squares),
        max(float(effects.var(ddof=1)) - noise, 0.0),
    )


def detectable(
    values_first: ArrayLike,
    values_second: ArrayLike,
    trainings: int,
    seeds: int,
    level: float = 0.95,
    power: float = POWER,
    paired: bool = False,
) -> float:
    """The smallest true difference that a study of this size finds with this power, at the spreads of a pilot.

    The standard error and degrees of freedom are those that
    :func:`kd_env.evaluation.statistics.crossed.crossed_difference` would have if its mean squares were as expected of
    the pilot's variance components. A small pilot knows these badly: of 3 trainings the variance between trainings has
    a 95% interval from a quarter to forty times the estimate, and one that came out as 0 may be none.

    Args:
        values_first: of the pilot, ``[R0, S0]``.
        values_second: of a rule ``[S0]``, or of another agent ``[R2, S0]``.
        trainings: of each agent in the study, at least 2.
        seeds: evaluation seeds in the study, at least 2.
        level: of its intervals.
        power: wished probability of an interval without 0.
        paired: whether training r of the first belongs to training r of the second.

    Raises:
        ValueError: a pilot or a study with fewer than two trainings or seeds.
    """
    return _detectable(components(values_first, values_second, paired), trainings, seeds, level, power)


def planned_difference(
    first: ArrayLike, second: ArrayLike, trainings: Sequence[int], seeds: int, level: float = 0.95, power: float = POWER
) -> dict[int, float]:
    """:func:`detectable` of a pilot for several numbers of trainings, by that number."""
    found = components(first, second)
    return {count: _detectable(found, count, seeds, level, power) for count in trainings}


def _detectable(found: Components, trainings: int, seeds: int, level: float, power: float) -> float:
    if trainings < 2 or seeds < 2:
        raise ValueError(f"A study needs at least 2 trainings and 2 evaluation seeds, got {trainings} x {seeds}.")
    parts = []
    for training, interaction in zip(found.trainings, found.interactions, strict=True):
        noise = _number(interaction / (trainings * seeds))
        parts.append(Parts(_number(training / trainings) + noise, noise, trainings))
    spread = _number(found.seeds / seeds) + sum(part.interaction for part in parts)
    error, dof = error_of(parts, spread, seeds)
    return detectable_shift(float(dof), power, level) * float(error)


def _number(value: float) -> Floats:
    return np.asarray(value, dtype=np.float64)
