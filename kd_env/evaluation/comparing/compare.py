"""Several runs beside each other: groups of independent trainings, the rules, and the differences between them.

Pure: the contents of ``results.json`` in, numbers out. Letters: R trainings of a group, S evaluation seeds, the same
for every policy. Both are random and crossed (:mod:`kd_env.evaluation.statistics.crossed`); a rule has seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from kd_env.core.metrics import SHARE, bounds_of
from kd_env.evaluation.comparing.agreement import check_agreement, check_equal, overlapping_trainings
from kd_env.evaluation.comparing.comparison import Comparison, Contrast, Entry
from kd_env.evaluation.comparing.joint import together
from kd_env.evaluation.comparing.runs import PolicyRows, Run, group_name, is_bound, measures_of
from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.reports.apart import is_apart
from kd_env.evaluation.statistics.crossed import policy_difference, policy_interval
from kd_env.evaluation.statistics.intervals import Bounds, Difference, Interval, holm, paired_difference
from kd_env.evaluation.statistics.verdicts import best_rule


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
    runs = together(runs)
    check_agreement(runs)
    groups: dict[str, list[Run]] = {}
    rules: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    acted: dict[tuple[str, str], list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        for row in run.results["policies"]:
            if row["learned"]:
                groups.setdefault(group_name(run), []).append(run)
            elif row.get("intervention"):
                acted.setdefault((group_name(run), row["intervention"]), []).append((run, row))
            else:
                rules.setdefault(row["policy"], []).append((run, row))
    agents = [PolicyRows(name, members, [_agent_row(run) for run in members]) for name, members in groups.items()]
    plain, extra, bounds = list[PolicyRows](), list[PolicyRows](), list[PolicyRows]()
    for name, results in rules.items():
        check_equal(name, results)
        run, row = results[0]
        kind = bounds if is_bound(row) else extra if row["extra_labels"] else plain
        kind.append(PolicyRows(name, [run], [row]))
    first = runs[0].results
    measure, dev = first["measure"], tuple(first["dev_splits"])
    rivals = (
        *plain,
        *extra,
        *(policy for policy in agents if policy.runs[0].searched and policy.runs[0].control == "none"),
    )
    selection = {rule.name: float(rule.values("splits", SELECTION, measure).mean()) for rule in rivals}
    return Comparison(
        facts=first["facts"],
        seeds=tuple(first["seeds"]),
        dev_splits=dev,
        term_names=tuple(first["term_names"]),
        metric_names=tuple(first["policies"][0]["metrics"][dev[0]]),
        measures={name: title for name, (title, _) in measures_of(first).items()},
        measure=measure,
        entries=tuple(_entry(policy, measure, level) for policy in (*agents, *plain, *extra, *bounds)),
        to_rules=_to_rules(agents, [*plain, *extra], dev, measure, level),
        to_bounds=_to_rules(agents, bounds, dev, measure, level),
        reactions=_reactions(acted, dev, measure, level),
        between_controls=_between(agents, dev, measure, level, controls=True),
        between_agents=_between(agents, dev, measure, level, controls=False),
        best_rule=best_rule(selection, measure),
        overlapping=tuple(pair for members in groups.values() for pair in overlapping_trainings(members)),
        joint=runs[0].joint,
    )


def _agent_row(run: Run) -> Mapping[str, Any]:
    row: Mapping[str, Any] = next(row for row in run.results["policies"] if row["learned"])
    return row


def _entry(policy: PolicyRows, measure: str, level: float) -> Entry:
    row, run = policy.rows[0], policy.runs[0]
    dev, terms = run.results["dev_splits"], run.results["term_names"]

    def of_splits(key: str, bounds: Bounds | None = None) -> dict[str, Interval]:
        return {split: policy.interval(level, "splits", split, key, bounds=bounds) for split in dev}

    def where_measured(key: str, bounds: Bounds | None = None) -> dict[str, Interval] | None:
        # A calibrated gap never stands alone: without raw values such results are incomplete, and refused below.
        needed = key != "calibration_error" and run.results["facts"].get("gap") == "calibrated"
        return of_splits(key, bounds) if needed or key in row["seeds"]["splits"][dev[0]] else None

    trained = policy.learned and not run.joint  # joint trainings are students

    shown = {split: policy.values("splits", split, measure) for split in dev}
    return Entry(
        policy=policy.name,
        agent=run.agent if policy.learned else policy.name,
        control=run.control if policy.learned else "none",
        learned=policy.learned,
        searched=policy.learned and run.searched,
        extra_labels=bool(row["extra_labels"]),
        bound=is_bound(row),
        action_view=row["seeds"]["action_view"],
        runs=(run.places if policy.learned else ()) or tuple(run.place for run in policy.runs),
        unit="training" if policy.learned else "evaluation seed",
        units=len(policy.runs) if trained else len(run.results["seeds"]),
        values={s: tuple(map(float, v.mean(axis=1) if trained else v[0])) for s, v in shown.items()},
        metrics={
            s: {m: policy.interval(level, "splits", s, "metrics", m, bounds=bounds_of(m)) for m in row["metrics"][s]}
            for s in dev
        },
        loss=of_splits("loss"),
        gap_closed=of_splits("gap_closed"),
        calibration_error=where_measured("calibration_error", SHARE),
        raw_loss=where_measured("raw_loss"),
        raw_gap_closed=where_measured("raw_gap_closed"),
        mean_weights={term: _weight_interval(policy, level, term) for term in terms},
        chosen={term: policy.interval(level, "chosen", term, bounds=SHARE) for term in terms},
        measures={
            name: policy.interval(level, name, bounds=bounds)
            for name, (_, bounds) in measures_of(run.results).items()
            if name in row["seeds"]
        },
        diverged=sum(int(row["diverged"]) for row in policy.rows),
        apart=sum(is_apart(run.results) for run in policy.runs) if policy.learned else 0,
    )


def _weight_interval(policy: PolicyRows, level: float, term: str) -> Interval:
    """Inside [0, 1] where every weight is: most views know no other."""
    values = policy.values("mean_weights", term)
    return policy_interval(values, level, SHARE if ((values >= 0) & (values <= 1)).all() else None)


def _to_rules(
    agents: Sequence[PolicyRows], rules: Sequence[PolicyRows], splits: Sequence[str], measure: str, level: float
) -> tuple[Contrast, ...]:
    contrasts = []
    for split in splits:
        keys = ("splits", split, measure)
        for agent in agents:
            for rule in rules:
                difference = _difference(agent, rule, keys, level)
                contrasts.append(Contrast(agent.name, rule.name, split, difference, math.nan))
    return _adjusted(contrasts)


def _between(
    agents: Sequence[PolicyRows], splits: Sequence[str], measure: str, level: float, *, controls: bool
) -> tuple[Contrast, ...]:
    contrasts = []
    # "none" before the controls and searched rules last, whatever the order of the runs: signs say what agents gain.
    ordered = sorted(
        agents, key=lambda policy: (policy.runs[0].control != "none", policy.runs[0].control, policy.runs[0].searched)
    )
    for split in splits:
        for first, second in combinations(ordered, 2):
            a, b = first.runs[0], second.runs[0]
            if (a.agent == b.agent) if controls else (a.agent != b.agent and a.control == b.control == "none"):
                difference = _difference(first, second, ("splits", split, measure), level)
                contrasts.append(Contrast(first.name, second.name, split, difference, math.nan))
    return _adjusted(contrasts)


def _reactions(
    acted: Mapping[tuple[str, str], Sequence[tuple[Run, Mapping[str, Any]]]],
    splits: Sequence[str],
    measure: str,
    level: float,
) -> tuple[Contrast, ...]:
    """Every agent group minus the interventions on it, of the trainings that have them: paired by training and seed."""
    contrasts = []
    for split in splits:
        for (group, intervention), found in acted.items():
            runs = [run for run, _ in found]
            policy = PolicyRows(group, runs, [_agent_row(run) for run in runs])
            other = PolicyRows(f"{group} [{intervention}]", runs, [row for _, row in found])
            a, b = (each.values("splits", split, measure) for each in (policy, other))
            difference = policy_difference(a, b, level, paired=True)
            contrasts.append(Contrast(group, other.name, split, difference, math.nan, intervention))
    return _adjusted(contrasts)


def _difference(first: PolicyRows, second: PolicyRows, keys: Sequence[str], level: float) -> Difference:
    """The first minus the second, a rule or other trainings."""
    values, other_values = first.values(*keys), second.values(*keys)
    if first.runs[0].joint:  # the students of one seed begin alike, and each is one training
        return paired_difference(values[0], other_values[0], level, trained=True)
    return policy_difference(values, other_values if second.learned else other_values[0], level)


def _adjusted(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    p_values = holm([contrast.difference.p_value for contrast in contrasts])
    return tuple(replace(contrast, holm_p=p) for contrast, p in zip(contrasts, p_values, strict=True))
