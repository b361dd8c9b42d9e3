"""Performance profiles and the probability of improvement over several problems, with crossed bootstrap bands.

Both are those of Agarwal et al. (2021) and their library rliable, but for what is random. There runs are resampled
within each task; here a score belongs to a training and an evaluation seed, and both are resampled, for each problem
by itself (:mod:`kd_env.evaluation.statistics.resampling`): bands over runs alone take either the seeds or the trainings
as they are. Problems are fixed and have equal weights, as in :mod:`kd_env.evaluation.statistics.pooled`. Larger scores
are better: give losses with their sign turned round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_env.evaluation.statistics.intervals import Floats, Interval, finite
from kd_env.evaluation.statistics.pooled import same_problems
from kd_env.evaluation.statistics.resampling import Counts, Floats32, Stream, cells, chunks, drawn, ends

RESAMPLES = 50_000
_SEEDS, _TRAININGS, _OTHERS = 0, 1, 2
"""Streams of a problem; those of two policies' trainings are independent, the seeds are shared."""


@dataclass(frozen=True)
class Profile:
    """The share of runs that reach each threshold, ``[K]``, with a pointwise band; infinite ends are no band."""

    thresholds: Floats
    shares: Floats
    low: Floats
    high: Floats
    level: float
    problems: int
    units: int
    """Trainings of the problem with the fewest."""
    seeds: int
    """Evaluation seeds of the problem with the fewest."""


def performance_profile(
    values_by_problem: Mapping[str, ArrayLike],
    thresholds: ArrayLike,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Profile:
    """The profile of one policy (:func:`performance_profiles`)."""
    return performance_profiles({"policy": values_by_problem}, thresholds, level, resamples, seed)["policy"]


def performance_profiles(
    by_policy: Mapping[str, Mapping[str, ArrayLike]],
    thresholds: ArrayLike,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Profile]:
    """The mean over problems of the share of scores (training x evaluation seed) that are at least tau, by policy.

    Every band is that of its own policy; that all policies are drawn with the same numbers costs less and changes none.
    Where no score or every score of all problems reaches tau, none of its resamples differs, and the band is a point.
    With one training it speaks of that one policy; with one seed there is none.

    Args:
        by_policy: by policy and problem its scores ``[R, S]``, of a rule ``[S]``.
        thresholds: tau ``[K]``, rising.
        level: of the band at each threshold.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: scores that are not finite, problems that one policy lacks, or thresholds that do not rise.
    """
    problems = same_problems(by_policy)
    taus = finite("thresholds", thresholds, 1)
    if np.any(np.diff(taus) <= 0):
        raise ValueError(f"thresholds must rise, got {taus.tolist()}.")
    _check_resamples(resamples)
    scores = {policy: _scores(policy, values) for policy, values in by_policy.items()}
    means = {policy: np.zeros((len(taus), resamples), dtype=np.float32) for policy in scores}
    for index, problem in enumerate(problems):
        steps = {policy: _Steps.of(values[problem], taus) for policy, values in scores.items()}
        of_seeds = {step.seeds: Stream(step.seeds, (seed, index, _SEEDS)) for step in steps.values()}
        of_trainings = {step.trainings: Stream(step.trainings, (seed, index, _TRAININGS)) for step in steps.values()}
        shapes = {(step.trainings, step.seeds) for step in steps.values()}
        for chunk in chunks(resamples):
            count = chunk.stop - chunk.start
            seeds = {units: stream.take(count) for units, stream in of_seeds.items()}
            trainings = {units: stream.take(count) for units, stream in of_trainings.items()}
            for shape in shapes:
                weights = cells(trainings[shape[0]], seeds[shape[1]])
                for policy, step in steps.items():
                    if (step.trainings, step.seeds) == shape:
                        step.add(weights, means[policy][:, chunk], len(problems))
    return {policy: _profile(scores[policy], taus, means.pop(policy), level) for policy in by_policy}


def probability_of_improvement(
    first_by_problem: Mapping[str, ArrayLike],
    second_by_problem: Mapping[str, ArrayLike],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The probability of one policy's improvement on another (:func:`probabilities_of_improvement`)."""
    others = {"second": second_by_problem}
    return probabilities_of_improvement(first_by_problem, others, level, resamples, seed)["second"]


def probabilities_of_improvement(
    first_by_problem: Mapping[str, ArrayLike],
    others: Mapping[str, Mapping[str, ArrayLike]],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """The mean over problems of P(X > Y) + P(X = Y) / 2, of the first policy's scores X and each other's Y.

    Seeds are paired: X and Y are of the same evaluation seed, and of any training of the first and any of the other. So
    it is the probability that a new training of the first beats a new one of the other on the same new student; where
    every student is compared with every other one (as in rliable), the spread of the seeds draws it towards 0.5.

    Args:
        first_by_problem: scores ``[R, S]`` of the first, of a rule ``[S]``.
        others: scores ``[R2, S]`` or ``[S]`` of the others, on the same seeds.
        level: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: scores that are not finite or not of the same seeds, or problems that one policy lacks.
    """
    problems = same_problems({"first": first_by_problem, **others})
    _check_resamples(resamples)
    first = _scores("first", first_by_problem)
    scores = {policy: _scores(policy, values) for policy, values in others.items()}
    _check_seeds(first, scores)
    means = {policy: np.zeros(resamples, dtype=np.float32) for policy in scores}
    shares = dict.fromkeys(scores, 0.0)
    for index, problem in enumerate(problems):
        a = first[problem]
        trainings = Stream(len(a), (seed, index, _TRAININGS))
        alike: dict[int, list[str]] = {}  # one product for all that have as many trainings
        for policy, values in scores.items():
            alike.setdefault(len(values[problem]), []).append(policy)
        wins = {units: np.stack([_wins(a, scores[name][problem]) for name in names]) for units, names in alike.items()}
        others_trainings = {units: Stream(units, (seed, index, _OTHERS)) for units in alike}
        of_seeds = Stream(a.shape[1], (seed, index, _SEEDS))
        for units, names in alike.items():
            for policy, won in zip(names, wins[units], strict=True):
                shares[policy] += float(won.mean()) / len(problems)
        for chunk in chunks(resamples):
            count = chunk.stop - chunk.start
            mine, seeds = trainings.take(count), of_seeds.take(count)
            for units, names in alike.items():
                weights = cells(others_trainings[units].take(count), seeds).astype(np.float32)
                sums = wins[units].reshape(-1, len(weights)) @ weights
                scale = drawn(len(a)) * drawn(units) * drawn(a.shape[1]) * len(problems)
                for policy, won in zip(names, sums.reshape(len(names), len(a), count), strict=True):
                    means[policy][chunk] += (won * mine).sum(axis=0) / scale
    return {policy: _interval(first, scores[policy], shares[policy], means[policy], level) for policy in scores}


class _Steps(NamedTuple):
    """The scores of one problem from the largest to the smallest, as steps of the share that reaches a threshold."""

    order: NDArray[np.int64]  # of the R * S scores
    reached: NDArray[np.int64]  # [K], how many reach each threshold
    trainings: int
    seeds: int

    @classmethod
    def of(cls, values: Floats, thresholds: Floats) -> _Steps:
        flat = -values.ravel()
        order = np.argsort(flat, kind="stable")
        return cls(order, np.searchsorted(flat[order], -thresholds, side="right"), *values.shape)

    def add(self, weights: Counts | Floats32, means: Floats32, problems: int) -> None:
        """Add the shares of resamples with these weights of the scores to ``means [K, resamples]``.

        A score is added once, at the largest threshold that it reaches: with K thresholds a product with a matrix of
        who reaches what has K times as many operations.
        """
        running, scaled = np.zeros_like(weights[0]), np.empty(weights.shape[1], dtype=np.float32)
        scale = np.float32(1 / (drawn(self.trainings) * drawn(self.seeds) * problems))
        before = 0
        for place in reversed(range(len(self.reached))):
            now = int(self.reached[place])
            if now > before:
                running += np.add.reduce(weights[self.order[before:now]], axis=0, dtype=weights.dtype)
                np.multiply(running, scale, out=scaled)
                before = now
            if before:
                means[place] += scaled


def _profile(values: Mapping[str, Floats], taus: Floats, means: Floats32, level: float) -> Profile:
    shares = np.mean([(x[..., None] >= taus).mean(axis=(0, 1)) for x in values.values()], axis=0)
    units, seeds = (min(x.shape[axis] for x in values.values()) for axis in (0, 1))
    if seeds == 1:
        low, high = np.full(len(taus), -math.inf), np.full(len(taus), math.inf)
    else:
        low, high = _ends(means, level, [_dof(x) for x in values.values()], shares)
    return Profile(taus, shares, low, high, level, len(values), units, seeds)


def _interval(
    first: Mapping[str, Floats], second: Mapping[str, Floats], share: float, means: Floats32, level: float
) -> Interval:
    trained = [x.shape for values in (first, second) for x in values.values() if len(x) > 1]
    seeds = min(x.shape[1] for x in first.values())
    units = min((shape[0] for shape in trained), default=seeds)
    crossed = seeds if trained else None
    if seeds == 1:
        return Interval(share, -math.inf, math.inf, units, level, crossed)
    dofs = [min(_dof(first[problem]), _dof(second[problem])) for problem in first]
    low, high = _ends(means, level, dofs, np.array(share))
    return Interval(share, float(low), float(high), units, level, crossed)


def _ends(means: Floats32, level: float, dofs: Sequence[int], shares: Floats) -> tuple[Floats, Floats]:
    """Ends of the band inside [0, 1], with the share itself inside; float32 has rounded the resamples' shares."""
    low, high = ends(means, level, sum(dofs))
    return np.clip(np.minimum(low, shares), 0.0, 1.0), np.clip(np.maximum(high, shares), 0.0, 1.0)


def _dof(values: Floats) -> int:
    """One less than the trainings or the seeds, whichever are fewer; the seeds of one policy."""
    trainings, seeds = map(int, values.shape)
    return seeds - 1 if trainings == 1 else min(trainings, seeds) - 1


def _wins(first: Floats, second: Floats) -> Floats32:
    """1 where training r of the first is above training q of the second on seed s, 0.5 where equal: ``[R, R2, S]``."""
    above = first[:, None] - second
    return np.float32(0.5) * (np.sign(above).astype(np.float32) + 1)


def _scores(policy: str, by_problem: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    return {
        problem: finite(f"scores of {policy!r} in the problem {problem!r}", np.atleast_2d(np.asarray(values)), 2)
        for problem, values in by_problem.items()
    }


def _check_seeds(first: Mapping[str, Floats], others: Mapping[str, Mapping[str, Floats]]) -> None:
    for policy, values in others.items():
        for problem, x in values.items():
            if x.shape[1] != first[problem].shape[1]:
                raise ValueError(
                    f"The problem {problem!r} has {first[problem].shape[1]} evaluation seeds of the first policy and "
                    f"{x.shape[1]} of {policy!r}: seeds are paired, and both need the same."
                )


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1.")
