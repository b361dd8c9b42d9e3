"""Several runs beside each other: groups of independent trainings, the rules, and the differences between them.

Pure: the contents of ``results.json`` in, numbers out. Letters: R trainings of a group, S evaluation seeds, the same
for every policy. Both are random and crossed (:mod:`kd_env.evaluation.statistics.crossed`); a rule has seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.statistics.crossed import policy_difference, policy_interval
from kd_env.evaluation.statistics.intervals import Bounds, Difference, Interval, holm
from kd_env.evaluation.statistics.verdicts import best_rule, headline, title_of
from kd_env.numerics.metrics import BOUNDS, SHARE

Floats = NDArray[np.float64]
TOLERANCE = 1e-5
"""Relative tolerance within which runs must agree: on the facts of the problem, and on the losses of a common rule."""
_AGREE = ("seeds", "dev_splits", "term_names", "measure", "facts", "teacher")


@dataclass(frozen=True)
class Run:
    """The results of one run, and the group that it belongs to."""

    place: str
    """Its folder, for messages."""
    agent: str
    """Name of the agent's configuration: runs of one name differ in seed and control alone."""
    control: str
    """``none``, or the negative control under which it was trained."""
    train_seeds: range
    """Seeds of the students that the agent was trained on; the first is the agent's own."""
    results: Mapping[str, Any]
    """Content of ``results.json``."""
    searched: bool = False
    """Whether the agent is ``rule/searched``, a constant action: trained, and yet a rule that agents have to beat."""


@dataclass(frozen=True)
class Entry:
    """One agent group, or one rule. Intervals are over trainings and seeds; of one training or a rule over seeds."""

    policy: str
    agent: str
    control: str
    learned: bool
    searched: bool
    """Whether it is the constant action of a search: a rule with trainings."""
    extra_labels: bool
    """Whether it trained on feedback rows too."""
    action_view: str
    runs: tuple[str, ...]
    unit: str
    """``training`` or ``evaluation seed``."""
    units: int
    values: dict[str, tuple[float, ...]]
    """By dev split: the measure of every unit; of a training its mean over the seeds."""
    metrics: dict[str, dict[str, Interval]]
    """By dev split and metric."""
    loss: dict[str, Interval]
    gap_closed: dict[str, Interval]
    calibration_error: dict[str, Interval] | None
    """None in regression, and for results of earlier versions."""
    raw_loss: dict[str, Interval] | None
    """None for results of earlier versions, whose loss is the raw one."""
    raw_gap_closed: dict[str, Interval] | None
    mean_weights: dict[str, Interval]
    """By term: applied weight, a mean over the steps."""
    chosen: dict[str, Interval]
    """By term: share of steps in which its applied weight was above 0."""
    measures: dict[str, Interval]
    """What the decision measures beside, by name."""
    diverged: int
    """Of all its students."""


@dataclass(frozen=True)
class Contrast:
    """``first`` minus ``second`` in the measure, on one dev split."""

    first: str
    second: str
    split: str
    difference: Difference
    holm_p: float
    """Adjusted for all contrasts of the same list (Holm 1979)."""


@dataclass(frozen=True)
class Comparison:
    """Everything that is printed or written about several runs."""

    facts: Mapping[str, Any]
    seeds: tuple[int, ...]
    dev_splits: tuple[str, ...]
    term_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    measures: dict[str, str]
    """Titles of what the decision measures beside, by name."""
    measure: str
    """``gap_closed``, or ``loss`` where the floor of the gap was active."""
    entries: tuple[Entry, ...]
    """Agent groups first, then rules, those with extra labels last."""
    to_rules: tuple[Contrast, ...]
    """Every agent group to every rule, paired by evaluation seed."""
    between_controls: tuple[Contrast, ...]
    """Groups of one agent under different controls: trainings are independent, seeds shared."""
    between_agents: tuple[Contrast, ...]
    """Groups of different agents, none under a control, likewise."""
    best_rule: str | None
    """The best on the selection split of all rules, those with feedback labels and searched ones included; None without
    rules."""
    overlapping: tuple[tuple[str, str], ...]
    """Pairs of runs of one group that share seeds of students."""

    @property
    def title(self) -> str:
        """The measure in words."""
        return title_of(self.measure, self.facts)

    @property
    def headline(self) -> str:
        """The first line: whether an agent (its controls only where there is no other) is above the best rule."""
        agents = [entry for entry in self.entries if entry.learned and not entry.searched]
        named = {entry.policy for entry in agents if entry.control == "none"} or {entry.policy for entry in agents}
        found: dict[str, dict[str, Difference]] = {}
        for one in (*self.to_rules, *self.between_agents):  # in these a searched rule is second
            if one.second == self.best_rule and one.first in named:
                found.setdefault(one.first, {})[one.split] = one.difference
        return headline(self.best_rule, found, self.measure, self.title)

    def entry(self, policy: str) -> Entry:
        """The entry of a policy."""
        return next(entry for entry in self.entries if entry.policy == policy)


def compare(runs: Sequence[Run], level: float = 0.95) -> Comparison:
    """Group the runs and compare every group with every rule, every other agent, and the same one under other controls.

    Args:
        runs: at least one.
        level: level of every interval.

    Raises:
        ValueError: no run, runs that disagree on the problem or on a rule, one training given twice, or results that
            lack values of single seeds.
    """
    if not runs:
        raise ValueError("There is no run to compare.")
    _check_agreement(runs)
    groups: dict[str, list[Run]] = {}
    rules: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        for row in run.results["policies"]:
            if row["learned"]:
                groups.setdefault(_group_name(run), []).append(run)
            else:
                rules.setdefault(row["policy"], []).append((run, row))
    agents = [_Measured(name, members, [_agent_row(run) for run in members]) for name, members in groups.items()]
    plain, extra = list[_Measured](), list[_Measured]()
    for name, found in rules.items():
        _check_equal(name, found)
        run, row = found[0]
        (extra if row["extra_labels"] else plain).append(_Measured(name, [run], [row]))
    first = runs[0].results
    measure, dev = first["measure"], tuple(first["dev_splits"])
    rivals = (*plain, *extra, *(one for one in agents if one.runs[0].searched and one.runs[0].control == "none"))
    selection = {rule.name: float(rule.values("splits", SELECTION, measure).mean()) for rule in rivals}
    return Comparison(
        facts=first["facts"],
        seeds=tuple(first["seeds"]),
        dev_splits=dev,
        term_names=tuple(first["term_names"]),
        metric_names=tuple(first["policies"][0]["metrics"][dev[0]]),
        measures={name: title for name, (title, _) in measures_of(first).items()},
        measure=measure,
        entries=tuple(_entry(one, measure, level) for one in (*agents, *plain, *extra)),
        to_rules=_to_rules(agents, [*plain, *extra], dev, measure, level),
        between_controls=_between(agents, dev, measure, level, controls=True),
        between_agents=_between(agents, dev, measure, level, controls=False),
        best_rule=best_rule(selection, measure),
        overlapping=tuple(pair for members in groups.values() for pair in _overlapping(members)),
    )


class _Measured:
    """The rows of a policy in its runs, ``[R, S]``; a rule has one run."""

    def __init__(self, name: str, runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> None:
        self.name, self.runs, self.rows = name, list(runs), list(rows)
        self.learned = bool(rows[0]["learned"])

    def values(self, *keys: str) -> Floats:
        return np.stack([seed_values(run, row, keys) for run, row in zip(self.runs, self.rows, strict=True)])

    def interval(self, level: float, *keys: str, bounds: Bounds | None = None) -> Interval:
        return policy_interval(self.values(*keys), level, bounds)


def seed_values(run: Run, row: Mapping[str, Any], keys: Sequence[str]) -> Floats:
    """What ``results.json`` holds for every evaluation seed of one policy, ``[S]``.

    Raises:
        ValueError: it is missing, of another length, or not finite.
    """
    found: Any = row.get("seeds")
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    count = len(run.results["seeds"])
    if not isinstance(found, list) or len(found) != count or any(not _is_finite(value) for value in found):
        raise ValueError(
            f"The results of {run.place} lack {'.'.join(keys)} of {row['policy']!r} for each of the {count} evaluation "
            "seeds: they are incomplete or of an older version. Judge the run again, by the command in its command.txt "
            "with resume=true."
        )
    return np.array(found, dtype=np.float64)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _group_name(run: Run) -> str:
    return run.agent if run.control == "none" else f"{run.agent} ({run.control})"


def _agent_row(run: Run) -> Mapping[str, Any]:
    row: Mapping[str, Any] = next(row for row in run.results["policies"] if row["learned"])
    return row


def _entry(one: _Measured, measure: str, level: float) -> Entry:
    row, run = one.rows[0], one.runs[0]
    dev, terms = run.results["dev_splits"], run.results["term_names"]
    # Facts name the gap since results hold raw values beside those of the gap.
    new = "gap" in run.results["facts"]
    errors = new and "calibration_error" in row["seeds"]["splits"][dev[0]]

    def of_splits(key: str, bounds: Bounds | None = None) -> dict[str, Interval]:
        return {split: one.interval(level, "splits", split, key, bounds=bounds) for split in dev}

    shown = {split: one.values("splits", split, measure) for split in dev}
    return Entry(
        policy=one.name,
        agent=run.agent if one.learned else one.name,
        control=run.control if one.learned else "none",
        learned=one.learned,
        searched=one.learned and run.searched,
        extra_labels=bool(row["extra_labels"]),
        action_view=row["seeds"]["action_view"],
        runs=tuple(run.place for run in one.runs),
        unit="training" if one.learned else "evaluation seed",
        units=len(one.runs) if one.learned else len(run.results["seeds"]),
        values={s: tuple(map(float, v.mean(axis=1) if one.learned else v[0])) for s, v in shown.items()},
        metrics={
            s: {m: one.interval(level, "splits", s, "metrics", m, bounds=BOUNDS.get(m)) for m in row["metrics"][s]}
            for s in dev
        },
        loss=of_splits("loss"),
        gap_closed=of_splits("gap_closed"),
        calibration_error=of_splits("calibration_error", SHARE) if errors else None,
        raw_loss=of_splits("raw_loss") if new else None,
        raw_gap_closed=of_splits("raw_gap_closed") if new else None,
        mean_weights={term: _weight_interval(one, level, term) for term in terms},
        chosen={term: one.interval(level, "chosen", term, bounds=SHARE) for term in terms},
        measures={
            name: one.interval(level, name, bounds=bounds)
            for name, (_, bounds) in measures_of(run.results).items()
            if name in row["seeds"]
        },
        diverged=sum(int(row["diverged"]) for row in one.rows),
    )


def measures_of(results: Mapping[str, Any]) -> dict[str, tuple[str, Bounds]]:
    """Title and bounds of what decisions measured, by name."""
    # Results of earlier versions do not say what they hold.
    former = {"followed": "best teacher followed", "right_rows_auc": "AUC of right rows"}
    saved = results.get("measures", {name: {"title": title, "bounds": SHARE} for name, title in former.items()})
    return {name: (one["title"], (one["bounds"][0], one["bounds"][1])) for name, one in saved.items()}


def _weight_interval(one: _Measured, level: float, term: str) -> Interval:
    """Inside [0, 1] where every weight is: most views know no other."""
    values = one.values("mean_weights", term)
    return policy_interval(values, level, SHARE if ((values >= 0) & (values <= 1)).all() else None)


def _to_rules(
    agents: Sequence[_Measured], rules: Sequence[_Measured], splits: Sequence[str], measure: str, level: float
) -> tuple[Contrast, ...]:
    found = []
    for split in splits:
        keys = ("splits", split, measure)
        for agent in agents:
            for rule in rules:
                difference = policy_difference(agent.values(*keys), rule.values(*keys)[0], level)
                found.append(Contrast(agent.name, rule.name, split, difference, math.nan))
    return _adjusted(found)


def _between(
    agents: Sequence[_Measured], splits: Sequence[str], measure: str, level: float, *, controls: bool
) -> tuple[Contrast, ...]:
    found = []
    # "none" before the controls and searched rules last, whatever the order of the runs: signs say what agents gain.
    ordered = sorted(agents, key=lambda one: (one.runs[0].control != "none", one.runs[0].control, one.runs[0].searched))
    for split in splits:
        for first, second in combinations(ordered, 2):
            a, b = first.runs[0], second.runs[0]
            if (a.agent == b.agent) if controls else (a.agent != b.agent and a.control == b.control == "none"):
                mine, theirs = (one.values("splits", split, measure) for one in (first, second))
                found.append(Contrast(first.name, second.name, split, policy_difference(mine, theirs, level), math.nan))
    return _adjusted(found)


def _adjusted(found: Sequence[Contrast]) -> tuple[Contrast, ...]:
    adjusted = holm([one.difference.p_value for one in found])
    return tuple(replace(one, holm_p=p) for one, p in zip(found, adjusted, strict=True))


def _check_agreement(runs: Sequence[Run]) -> None:
    first = runs[0]
    for other in runs:
        for key in ("policies", *_AGREE):
            if key not in other.results:
                raise ValueError(f"The results of {other.place} lack {key!r}: no job of kd-env wrote them.")
        for key in _AGREE:
            for where, a, b in _disagreements(first.results[key], other.results[key], key):
                raise ValueError(
                    f"{first.place} and {other.place} cannot be compared: {where} is {a!r} in the first and {b!r} in "
                    "the second. Compare runs of one problem and the same evaluation seeds."
                )


def _disagreements(first: Any, second: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield from _disagreements(first.get(key), second.get(key), f"{where}.{key}")
    elif isinstance(first, float) and isinstance(second, float):
        if not math.isclose(first, second, rel_tol=TOLERANCE):
            yield where, first, second
    elif first != second:
        yield where, first, second


def _check_equal(rule: str, found: Sequence[tuple[Run, Mapping[str, Any]]]) -> None:
    """Rules are deterministic given the seeds: two results of one rule are the same, or something else differed."""
    (run, row), *others = found
    for other, again in others:
        for split in (*run.results["dev_splits"], "selection"):
            a, b = (seed_values(r, line, ("splits", split, "loss")) for r, line in ((run, row), (other, again)))
            if not np.allclose(a, b, rtol=TOLERANCE, atol=0.0):
                worst = int(np.argmax(np.abs(a - b)))
                views = {line["seeds"]["action_view"] for line in (row, again)}
                hint = f" It acted in the action views {' and '.join(sorted(views))}." if len(views) > 1 else ""
                raise ValueError(
                    f"The rule {rule!r} ended differently in {run.place} and {other.place}: its {split} loss at seed "
                    f"{run.results['seeds'][worst]} is {a[worst]:.8g} and {b[worst]:.8g}.{hint} Judge both runs with "
                    "the same options, threads and versions, or leave the rule out of one with evaluation.rules=[...]."
                )


def _overlapping(members: Sequence[Run]) -> Iterator[tuple[str, str]]:
    ordered = sorted(members, key=lambda run: run.train_seeds.start)
    for first, second in pairwise(ordered):
        if first.train_seeds.start == second.train_seeds.start:
            raise ValueError(
                f"{first.place} and {second.place} are one training of {_group_name(first)} (seed "
                f"{first.train_seeds.start}) and no independent ones; leave one of them out."
            )
        if second.train_seeds.start < first.train_seeds.stop:
            yield first.place, second.place
