"""Several problems together: what is known of policies that were judged on all of them, and where numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_env.core.types import Floats
from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.pages import collect
from kd_env.evaluation.pages.contents import Problem, Study
from kd_env.evaluation.statistics.intervals import Difference, Interval
from kd_env.evaluation.statistics.pooled import pooled_difference
from kd_env.evaluation.statistics.profiles import Profile, performance_profiles, probabilities_of_improvement

RESAMPLES = 10_000
_STEPS = 41
"""Thresholds of a profile."""
BEST = "the best rule of each problem"


@dataclass(frozen=True)
class Pool:
    """The measure of policies that all problems have: by policy and problem ``[R, S]``."""

    values: Mapping[str, Mapping[str, Floats]]
    best: Mapping[str, Floats]
    """By problem the rule that is best on its selection split; empty where a problem has none."""
    agents: tuple[str, ...]
    """Those that learned, without controls and searched rules."""
    measure: str
    title: str

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.measure == "loss" else 1


def pool(study: Study) -> Pool | None:
    """The policies that every problem has; None where problems are judged by different measures."""
    measures = {problem.comparison.measure for problem in study.problems}
    if len(measures) > 1:
        return None
    found = {problem.name: collect.seed_matrices(problem) for problem in study.problems}
    first = study.problems[0]
    common = [name for name in found[first.name] if all(name in values for values in found.values())]
    best = {p.name: found[p.name][p.comparison.best_rule] for p in study.problems if p.comparison.best_rule is not None}
    return Pool(
        values={name: {problem: values[name] for problem, values in found.items()} for name in common},
        best=best if len(best) == len(study.problems) else {},
        agents=tuple(name for name in common if _learns(first, name)),
        measure=measures.pop(),
        title=first.comparison.title,
    )


def each(study: Study) -> list[tuple[str, Problem]]:
    """Every problem, and what the names of its figures and tables begin with: nothing where there is one."""
    if len(study.problems) == 1:
        return [("", study.problems[0])]
    return [(f"p{place}-", problem) for place, problem in enumerate(study.problems, 1)]


def places_of(c: Comparison, *policies: str) -> tuple[str, ...]:
    """Run folders of policies; those of an intervention are its agent's, which is named beside it."""
    known = {entry.policy: entry.runs for entry in c.entries}
    return tuple(dict.fromkeys(place for policy in policies for place in known.get(policy, ())))


def all_places(study: Study, *policies: str) -> tuple[str, ...]:
    """Run folders of policies in all problems; of the best rule of each, too."""
    found: list[str] = []
    for problem in study.problems:
        names = [str(problem.comparison.best_rule) if name == BEST else name for name in policies]
        found += places_of(problem.comparison, *names)
    return tuple(dict.fromkeys(found))


def _learns(problem: Problem, name: str) -> bool:
    entry = problem.comparison.entry(name)
    return entry.learned and not entry.searched and entry.control == "none"


def differences(pooled: Pool) -> dict[str, dict[str, Difference]]:
    """By agent: minus the best rule of each problem, and minus every policy that all have."""
    found: dict[str, dict[str, Difference]] = {}
    for agent in pooled.agents:
        others = {**({BEST: pooled.best} if pooled.best else {}), **pooled.values}
        found[agent] = {
            other: pooled_difference({name: (pooled.values[agent][name], _rule(values[name])) for name in values})
            for other, values in others.items()
            if other != agent
        }
    return found


def profiles(pooled: Pool) -> dict[str, Profile]:
    """The share of trainings and students that reach a score, by policy; of losses their negatives are scores."""
    scores = {policy: _signed(pooled, values) for policy, values in pooled.values.items()}
    everything = np.concatenate([values.ravel() for by_problem in scores.values() for values in by_problem.values()])
    low, high = np.quantile(everything, [0.005, 0.995])
    reach = max(high - low, 1e-6)
    thresholds = np.linspace(low - 0.02 * reach, high + 0.02 * reach, _STEPS)
    return performance_profiles(scores, thresholds, resamples=RESAMPLES)


def improvements(pooled: Pool) -> dict[str, dict[str, Interval]]:
    """By agent and other policy: the probability that a student of the first is better."""
    scores = {policy: _signed(pooled, values) for policy, values in pooled.values.items()}
    return {
        agent: probabilities_of_improvement(
            scores[agent], {name: values for name, values in scores.items() if name != agent}, resamples=RESAMPLES
        )
        for agent in pooled.agents
        if len(scores) > 1
    }


def _signed(pooled: Pool, by_problem: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: pooled.sign * values for name, values in by_problem.items()}


def _rule(values: Floats) -> Floats:
    """A rule has seeds alone."""
    return values[0] if len(values) == 1 else values
