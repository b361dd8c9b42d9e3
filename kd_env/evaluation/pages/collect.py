"""From results to the values of figures and tables: pure functions of run folders as they were read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_env.core.types import Floats
from kd_env.evaluation.comparing.comparison import Comparison, Contrast, Entry
from kd_env.evaluation.comparing.joint import together
from kd_env.evaluation.comparing.runs import PolicyRows, Run, group_name
from kd_env.evaluation.pages.contents import Problem, Source
from kd_env.evaluation.statistics.intervals import Interval

_FOLLOWED = {"gap_closed": "gap closed (feedback rows)", "return_mean": "return", "reward": "reward of an update"}
"""What a log may follow, best first."""


@dataclass(frozen=True)
class Cost:
    """What a policy costs before it distils its first student, a mean over its trainings, and what a student costs."""

    policy: str
    learned: bool
    updates: float
    """Student updates of one training; 0 for a rule, and where the judged students are those of the training."""
    seconds: float
    """Wall time of one training; NaN where a run did not record it."""
    distillation: int
    """Student updates of one student that is judged."""
    trainings: int
    score: Interval
    """The measure on the first dev split."""

    @property
    def total(self) -> float:
        """Student updates until the first student is there."""
        return self.updates + self.distillation


@dataclass(frozen=True)
class Curve:
    """A learning curve, over the trainings of an agent."""

    policy: str
    steps: Floats  # [n] environment steps
    mean: Floats  # [n]
    low: Floats  # [n] of the trainings
    high: Floats  # [n]
    trainings: int
    followed: str
    """What is followed, in words."""


@dataclass(frozen=True)
class Course:
    """What a policy chose over a distillation, a mean over its trainings and their students."""

    policy: str
    learned: bool
    names: tuple[str, ...]
    weights: Floats  # [steps, K]


@dataclass(frozen=True)
class Reliability:
    """How right a policy's students are by how sure they are, over all of them."""

    policy: str
    learned: bool
    rows: Floats  # [bins] share of the rows
    confidence: Floats  # [bins] mean; NaN in empty bins
    accuracy: Floats  # [bins]


def score(entry: Entry, comparison: Comparison, split: str) -> Interval:
    """The measure of a policy on a dev split."""
    by_split: Mapping[str, Interval] = getattr(entry, comparison.measure)
    return by_split[split]


def seed_matrices(problem: Problem) -> dict[str, Floats]:
    """The measure of every policy on the first dev split, by training and seed ``[R, S]``; of a rule ``[1, S]``."""
    runs = together([source.run for source in problem.sources])
    split, measure = problem.comparison.dev_splits[0], problem.comparison.measure
    grouped: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        for row in run.results["policies"]:
            if row.get("intervention"):  # what an agent is without a part of itself is no policy to choose
                continue
            name = group_name(run) if row["learned"] else row["policy"]
            known = grouped.setdefault(name, [])
            if row["learned"] or not known:  # rules are deterministic given the seeds
                known.append((run, row))
    return {
        name: PolicyRows(name, [run for run, _ in found], [row for _, row in found]).values("splits", split, measure)
        for name, found in grouped.items()
    }


def own_sources(problem: Problem, policy: str) -> list[Source]:
    """The trainings of an agent group."""
    return [source for source in problem.sources if group_name(source.run) == policy and _learned_row(source)]


def to_best(comparison: Comparison) -> list[Contrast]:
    """Agents minus the rule that is best on the selection split, searched ones included, on every dev split."""
    searched = {entry.policy for entry in comparison.entries if entry.searched}
    contrasts = (*comparison.to_rules, *comparison.between_agents)
    found = [one for one in contrasts if one.second == comparison.best_rule and one.first not in searched]
    return sorted(found, key=lambda one: comparison.dev_splits.index(one.split))


def training_cost(source: Source) -> tuple[float, float]:
    """Student updates and seconds of a training; both 0 of a rule, seconds NaN where they are not recorded."""
    if not source.history:
        return 0.0, 0.0
    last = source.history[-1]
    steps, updates = episode(source)
    return last["timesteps"] * updates / max(steps, 1), last.get("seconds", math.nan)


def episode(source: Source) -> tuple[int, int]:
    """Environment steps and student updates of one distillation under the run's agent."""
    row = _learned_row(source) or source.run.results["policies"][0]
    steps = len(row["seeds"].get("update_scale_over_time", ())) or (source.budget or 1) // source.updates_per_step
    updates = steps * source.updates_per_step
    return steps, updates if source.budget is None else min(source.budget, updates)


def costs(problem: Problem) -> list[Cost]:
    """Of every policy, in the order of the comparison."""
    c, found = problem.comparison, list[Cost]()
    for entry in c.entries:
        own = own_sources(problem, entry.policy) if entry.learned else []
        trained = [training_cost(source) for source in own]
        beside = c.joint or not trained
        found.append(
            Cost(
                entry.policy,
                entry.learned,
                0.0 if beside else float(np.mean([updates for updates, _ in trained])),
                float(np.mean([seconds for _, seconds in trained])) if trained else 0.0,
                episode(own[0] if own else problem.sources[0])[1],
                len(trained),
                score(entry, c, c.dev_splits[0]),
            )
        )
    return found


def learning_curves(problem: Problem) -> list[Curve]:
    """Of every agent whose trainings have a log; between two reports of a training its curve is straight."""
    curves = []
    for entry in problem.comparison.entries:
        logs = [source.history for source in own_sources(problem, entry.policy)] if entry.learned else []
        followed = next((key for key in _FOLLOWED if any(key in point for log in logs for point in log)), None)
        if followed is None:
            continue
        known = [[(p["timesteps"], p[followed]) for p in log if followed in p] for log in logs]
        series = [np.array(points, dtype=np.float64) for points in known if points]
        steps = np.unique(np.concatenate([one[:, 0] for one in series]))
        values = np.stack([np.interp(steps, one[:, 0], one[:, 1], np.nan, np.nan) for one in series])
        there = np.isfinite(values).any(axis=0)
        steps, values = steps[there], values[:, there]
        curves.append(
            Curve(
                entry.policy,
                steps,
                np.nanmean(values, axis=0),
                np.nanmin(values, axis=0),
                np.nanmax(values, axis=0),
                len(series),
                _FOLLOWED[followed],
            )
        )
    return curves


def courses(problem: Problem) -> list[Course]:
    """The weights of terms (of teachers, where they are chosen) over a distillation, of every policy that has some."""
    names = problem.comparison.term_names
    found = []
    for entry in problem.comparison.entries if names else ():
        weights = [row["seeds"].get("weights_over_time") for row in _rows(problem, entry)]
        arrays = [np.array(one, dtype=np.float64) for one in weights if one]
        if arrays:
            steps = min(len(one) for one in arrays)
            mean = np.mean([one[:steps] for one in arrays], axis=0)
            found.append(Course(entry.policy, entry.learned, names, mean))
    return found


def term_losses(problem: Problem) -> dict[str, dict[str, Floats]]:
    """The loss of every term over a distillation, whether or not a policy weighs it: by term and policy ``[steps]``."""
    found: dict[str, dict[str, Floats]] = {}
    for entry in problem.comparison.entries:
        losses = [row["seeds"].get("term_losses_over_time") for row in _rows(problem, entry)]
        arrays = [np.array(one, dtype=np.float64) for one in losses if one and one[0]]
        if arrays:
            steps = min(len(one) for one in arrays)
            mean = np.mean([one[:steps] for one in arrays], axis=0)
            for place, term in enumerate(problem.comparison.term_names):
                found.setdefault(term, {})[entry.policy] = mean[:, place]
    return found


def traces(problem: Problem) -> dict[str, dict[str, Floats]]:
    """What else was followed over the updates of a distillation: by its title and policy ``[updates]``."""
    found: dict[str, dict[str, Floats]] = {}
    for entry in problem.comparison.entries:
        rows = [row["seeds"].get("traces", {}) for row in _rows(problem, entry)]
        for title in dict.fromkeys(title for row in rows for title in row):
            series = [np.array(row[title], dtype=np.float64) for row in rows if row.get(title)]
            if series:
                length = min(len(one) for one in series)
                mean = np.mean([one[:length] for one in series], axis=0)
                found.setdefault(title, {})[entry.policy] = mean
    return found


def reliabilities(problem: Problem) -> list[Reliability]:
    """On the first dev split, of every policy whose results have bins; trainings are added up."""
    split, found = problem.comparison.dev_splits[0], list[Reliability]()
    for entry in problem.comparison.entries:
        bins = [row["seeds"]["splits"][split].get("reliability") for row in _rows(problem, entry)]
        known = [[one["rows"], one["confidence"], one["right"]] for one in bins if one]
        if known:
            rows, confidence, right = np.sum(np.array(known, dtype=np.float64), axis=0)
            none = np.full(len(rows), np.nan)
            means = [np.divide(sums, rows, out=none.copy(), where=rows > 0) for sums in (confidence, right)]
            found.append(Reliability(entry.policy, entry.learned, rows / rows.sum(), *means))
    return found


def _rows(problem: Problem, entry: Entry) -> Sequence[Mapping[str, Any]]:
    """The rows of a policy in the results: of an agent one for each training, of a rule the first."""
    if entry.learned:
        return [row for source in own_sources(problem, entry.policy) if (row := _learned_row(source))]
    rows = (row for source in problem.sources for row in source.run.results["policies"])
    return [next(row for row in rows if not row["learned"] and row["policy"] == entry.policy)]


def _learned_row(source: Source) -> Mapping[str, Any] | None:
    return next((row for row in source.run.results["policies"] if row["learned"]), None)
