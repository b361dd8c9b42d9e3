"""What became of the hypotheses of a study: the difference each is about, by problem and over all of them.

Pure: results of runs in, numbers and words out. A hypothesis says that an agent is above a policy, or above the rule
that is best on the selection split of each problem. It holds where the pooled difference allows a claim and its p,
adjusted for all hypotheses of the study (Holm 1979), is below 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kd_env.core.registry import unknown_name
from kd_env.core.types import Floats
from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.comparing.runs import Run, group_name, seed_values
from kd_env.evaluation.statistics.crossed import policy_difference
from kd_env.evaluation.statistics.intervals import Difference, holm
from kd_env.evaluation.statistics.pooled import PooledDifference, pooled_difference
from kd_env.evaluation.statistics.verdicts import show

BEST_RULE = "best_rule"
"""What an agent is set against where a hypothesis names no policy."""
LEVEL = 0.05


@dataclass(frozen=True)
class Hypothesis:
    """That an agent is above another policy."""

    name: str
    says: str
    agent: str
    above: str
    """A policy, or :data:`BEST_RULE`."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One problem of a hypothesis."""

    problem: str
    above: str
    """The policy that it is set against there."""
    difference: Difference


@dataclass(frozen=True)
class Outcome:
    """What became of a hypothesis."""

    hypothesis: Hypothesis
    parts: tuple[Part, ...]
    pooled: PooledDifference | None
    """None where no problem has results of both."""
    missing: tuple[str, ...]
    """Problems without results of the agent or the policy."""
    holm_p: float

    @property
    def holds(self) -> bool:
        """Whether the data support it."""
        if self.pooled is None or self.missing:
            return False
        return self.pooled.claim and self.pooled.interval.mean > 0 and self.holm_p < LEVEL

    @property
    def verdict(self) -> str:
        """In words."""
        if self.pooled is None:
            return "no results"
        interval = self.pooled.interval
        if self.missing:
            return f"unfinished: without {', '.join(self.missing)}"
        if self.holds:
            return "supported"
        if self.pooled.claim and interval.mean < 0:
            return "refuted: below"
        if self.pooled.claim:
            return f"not supported (Holm's p {self.holm_p:.3f})"
        return self.pooled.reading


def outcomes(
    hypotheses: Sequence[Hypothesis], runs: Mapping[str, Sequence[Run]], comparisons: Mapping[str, Comparison]
) -> list[Outcome]:
    """The outcome of every hypothesis, in gap closed on the first dev split, larger is better.

    Args:
        hypotheses: of the study.
        runs: finished ones, by problem.
        comparisons: of these runs, by problem.

    Raises:
        ValueError: a policy that no run of a problem judged, where the agent has results there.
    """
    found = [_outcome(hypothesis, runs, comparisons) for hypothesis in hypotheses]
    tested = [place for place, outcome in enumerate(found) if outcome.pooled is not None]
    adjusted = holm([found[place].pooled.p_value for place in tested])  # type: ignore[union-attr]
    for place, p in zip(tested, adjusted, strict=True):
        found[place] = replace(found[place], holm_p=p)
    return found


def _outcome(
    hypothesis: Hypothesis, runs: Mapping[str, Sequence[Run]], comparisons: Mapping[str, Comparison]
) -> Outcome:
    parts, values, missing = list[Part](), dict[str, tuple[Floats, Floats]](), list[str]()
    for problem in hypothesis.problems:
        judged = runs.get(problem, ())
        if all(group_name(run) != hypothesis.agent for run in judged):
            missing.append(problem)
            continue
        comparison = comparisons[problem]
        above = comparison.best_rule if hypothesis.above == BEST_RULE else hypothesis.above
        if above is None:
            missing.append(problem)
            continue
        split = comparison.dev_splits[0]
        pair = values_of(judged, hypothesis.agent, split), values_of(judged, above, split)
        values[problem] = pair
        parts.append(Part(problem, above, policy_difference(*pair)))
    pooled = pooled_difference(values) if values else None
    return Outcome(hypothesis, tuple(parts), pooled, tuple(missing), 1.0)


def values_of(runs: Sequence[Run], policy: str, split: str) -> Floats:
    """Gap closed of every student of a policy: ``[R, S]`` of an agent, or an intervention on one, that was trained R
    times, ``[S]`` of a rule.

    Raises:
        ValueError: no run judged it, with those that were judged.
    """
    keys, rows, known = ("splits", split, "gap_closed"), list[tuple[Run, Mapping[str, Any]]](), dict[str, None]()
    for run in runs:
        for row in run.results["policies"]:
            name = group_name(run) if row["learned"] else str(row["policy"])
            known[name] = None
            if name == policy:
                rows.append((run, row))
    if rows and not rows[0][1]["learned"] and not rows[0][1].get("intervention"):
        return seed_values(*rows[0], keys)  # rules are deterministic given the seeds
    if rows:
        return np.stack([seed_values(run, row, keys) for run, row in rows])
    raise ValueError(unknown_name("policy", policy, known))


def verdict(outcomes: Sequence[Outcome]) -> str:
    """The first sentence of a study."""
    held = [outcome.hypothesis.name for outcome in outcomes if outcome.holds]
    if held:
        return f"{len(held)} of {len(outcomes)} hypotheses hold: {', '.join(held)}."
    count = "The hypothesis does not hold" if len(outcomes) == 1 else f"None of the {len(outcomes)} hypotheses holds"
    return f"{count}: nothing learned is shown to be above what it was set against."


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line for each hypothesis and each of its problems."""
    lines = [
        "| hypothesis | problem | agent minus | calibrated gap closed | reading |",
        "| --- | --- | --- | --- | --- |",
    ]
    for outcome in outcomes:
        one = outcome.hypothesis
        pooled = "no results" if outcome.pooled is None else show(outcome.pooled.interval, True)
        over = f"all {len(outcome.parts)}, equal weights"
        lines.append(f"| **{one.name}** {one.agent} | {over} | {one.above} | {pooled} | {outcome.verdict} |")
        lines += [
            f"| | {part.problem} | {part.above} | {show(part.difference.interval, True)} | {part.difference.reading} |"
            for part in outcome.parts
        ]
        lines += [f"| | {problem} | {one.above} | | no results |" for problem in outcome.missing]
    return "\n".join(lines) + "\n"
