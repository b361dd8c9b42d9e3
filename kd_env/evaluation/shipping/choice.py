"""Which student of finished runs is shipped: the best on the selection split. Dev rows have no say in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kd_env.evaluation.comparing.runs import PolicyRows, Run, is_bound, seed_values
from kd_env.evaluation.judging.results import SELECTION


class Candidate(NamedTuple):
    """One student that was judged."""

    run: int
    """Index of its run."""
    part: int
    """Index of the run among those of its policy (:class:`kd_env.evaluation.comparing.runs.PolicyRows`)."""
    policy: str
    """Name of what taught it; of an agent with its options where the runs have several kinds of it."""
    label: str
    """The same as its run calls it."""
    seed: int
    place: int
    """Index of the seed in the results."""
    value: float
    """The metric on the selection split."""
    loss: float
    """``e`` on the selection split; among equal metrics the lower one is better."""


@dataclass(frozen=True)
class Standings:
    """What the selection split says."""

    metric: str
    rows: Mapping[str, PolicyRows]
    """What the results hold of every policy that may ship a student."""
    best: Mapping[str, Candidate]
    """The best student of each policy; one whose students all diverged has none."""

    @property
    def chosen(self) -> Candidate:
        """The student that is shipped, the first of equals."""
        return max(self.best.values(), key=_merit)

    @property
    def means(self) -> dict[str, float]:
        """Mean of the metric over trainings and seeds of each policy."""
        return {name: float(rows.values(*self.keys).mean()) for name, rows in self.rows.items()}

    @property
    def keys(self) -> tuple[str, ...]:
        """Where results hold the metric of every seed."""
        return ("splits", SELECTION, "metrics", self.metric)

    @property
    def best_rule(self) -> str | None:
        """The rule of the largest mean that saw no more labels than agents do; None without rules."""
        rules = [name for name, rows in self.rows.items() if not (rows.learned or rows.rows[0].get("extra_labels"))]
        return max(rules, key=lambda name: self.means[name]) if rules else None

    @property
    def not_better(self) -> tuple[str, ...]:
        """Policies that learned and whose mean is not above that of the best rule."""
        rule, means = self.best_rule, self.means
        learned = [name for name, rows in self.rows.items() if rows.learned]
        return tuple(name for name in learned if rule is not None and means[name] <= means[rule])


def standings(runs: Sequence[Run], metric: str | None = None) -> Standings:
    """The students of every policy on the selection split.

    Left out are students that diverged, those of bounds (which see what no policy can know) and those of interventions
    (on a policy that stands for itself).

    Args:
        runs: of one problem.
        metric: name of one of the task's metrics; None: the first.

    Raises:
        ValueError: another metric, results that lack the value of a seed, or no student that did not diverge.
    """
    groups: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for index, run in enumerate(runs):
        for row in run.results["policies"]:
            name = run.agent if row["learned"] else str(row["policy"])
            if is_bound(row) or row.get("intervention") or (not row["learned"] and name in groups):
                continue  # the students of a rule are the same in every run
            groups.setdefault(name, []).append((index, row))
    chosen = _metric(runs, groups, metric)
    rows = {
        name: PolicyRows(name, [runs[index] for index, _ in found], [row for _, row in found])
        for name, found in groups.items()
    }
    best: dict[str, Candidate] = {}
    for name, found in groups.items():
        candidates = [
            Candidate(index, part, name, str(row["policy"]), *student)
            for part, (index, row) in enumerate(found)
            for student in _students(runs[index], row, chosen)
        ]
        if candidates:
            best[name] = max(candidates, key=_merit)
    if not best:
        raise ValueError("There is no student to ship: all of them diverged.")
    return Standings(chosen, rows, best)


def _merit(one: Candidate) -> tuple[float, float]:
    return one.value, -one.loss


def _metric(
    runs: Sequence[Run], groups: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]], metric: str | None
) -> str:
    if not groups:
        raise ValueError("There is no student to ship: only bounds and interventions were judged.")
    first = next(row for found in groups.values() for _, row in found)
    known = list(first["seeds"]["splits"].get(SELECTION, {}).get("metrics", {}))
    if not known:
        raise ValueError(f"The results of {runs[0].place} say nothing of the selection split; judge the run again.")
    if metric is not None and metric not in known:
        raise ValueError(f"by={metric!r} is no metric of the task; valid: {', '.join(known)}.")
    return metric or known[0]


def _students(run: Run, row: Mapping[str, Any], metric: str) -> list[tuple[int, int, float, float]]:
    """Seed, its index, value and loss of the students of one row that did not diverge, in the order of their seeds."""
    values = seed_values(run, row, ("splits", SELECTION, "metrics", metric))
    losses = seed_values(run, row, ("splits", SELECTION, "loss"))
    lost = row["seeds"].get("diverged") or [False] * len(values)
    seeds = run.results["seeds"]
    return [
        (int(seed), place, float(values[place]), float(losses[place]))
        for place, seed in enumerate(seeds)
        if not lost[place]
    ]
