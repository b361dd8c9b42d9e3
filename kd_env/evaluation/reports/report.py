"""From an evaluation to what people read: a table, plain words, ``results.json`` and ``results.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.metrics import SHARE, bounds_of, compute
from kd_env.evaluation.judging.results import SELECTION, Evaluation, PolicyResult
from kd_env.evaluation.statistics.intervals import (
    Bounds,
    Difference,
    Interval,
    bootstrap_examples,
    holm,
    paired_difference,
    t_interval,
)
from kd_env.evaluation.statistics.verdicts import best_rule, detectable_words, headline, show, title_of

ECE_TITLE = "expected calibration error"
BOUND_MARK = "^"
ACTED_MARK = "~"
BOUND_WORDS = (
    f"{BOUND_MARK} marks a bound, which sees what no policy can know (which train labels are wrong): it says how much "
    "there is to gain, and is neither comparator nor rival."
)


@dataclass(frozen=True)
class Row:
    """One policy in one line. Intervals are t intervals over the evaluation seeds unless named otherwise."""

    policy: str
    learned: bool
    extra_labels: bool
    comparator: bool
    bound: bool
    """Whether it saw a truth that no policy can know: its difference is shown and no test is made of it."""
    intervention: str
    """What was done to a learned policy; likewise."""
    of: str
    """Name of that policy."""
    metrics: dict[str, dict[str, Interval]]
    """By split and metric."""
    loss: dict[str, Interval]
    """With ``gap=calibrated`` after each student's temperature."""
    gap_closed: dict[str, Interval]
    calibration_error: dict[str, Interval] | None
    """Expected calibration error of the students as they are; None in regression."""
    raw_loss: dict[str, Interval] | None
    """Against gold labels and without a temperature; None where it is not measured."""
    raw_gap_closed: dict[str, Interval] | None
    difference: dict[str, Difference | None]
    """By split: paired difference of the measure to the comparator; None for the comparator itself."""
    holm_p: dict[str, float | None]
    """By split: p-value of that difference, adjusted for all the differences shown (Holm 1979)."""
    examples: dict[str, Interval]
    """By dev split: this policy's students on this dev set, dev examples drawn again; of the first metric. Empty where
    predictions are not kept."""
    mean_weights: dict[str, float]
    teacher_metric: dict[str, Interval] | None
    """Where the teacher learns: by split, its first metric at the end of the episode."""
    measures: dict[str, Interval]
    """What the decision measures beside, by name."""
    mean_update_scale: float
    skipped: float
    """Share of steps without an update."""
    diverged: int


@dataclass(frozen=True)
class Report:
    """Everything that is printed or written about one evaluation."""

    measure: str
    """``gap_closed``, or ``loss`` where the floor of the gap was active or the teacher learned."""
    rows: tuple[Row, ...]
    evaluation: Evaluation
    trainings: int
    """Independent trainings behind the learned policies here: 1."""
    best_rule: str | None
    """The best on the selection split of all rules, those with feedback labels included; None without rules."""
    to_rules: dict[str, dict[str, dict[str, Difference]]]
    """By learned policy, rule and dev split: difference of the measure to that rule."""

    @property
    def title(self) -> str:
        """The measure in words."""
        return title_of(self.measure, self.evaluation.facts)

    @property
    def headline(self) -> str:
        """The first line; empty without rules or learned policies."""
        return headline(self.best_rule, self.to_rules, self.measure, self.title)

    @property
    def detectable(self) -> str:
        """The line under the table."""
        e = self.evaluation
        differences = [
            (f"{row.policy}{'' if len(e.dev_splits) == 1 else f' ({split})'}", row.difference[split])
            for row in self.rows
            if not (row.bound or row.intervention)
            for split in e.dev_splits
        ]
        to = f"{self.title}, each to {e.comparator!r}"
        return detectable_words([(name, difference) for name, difference in differences if difference is not None], to)

    @property
    def shown(self) -> dict[str, str]:
        """Columns of one dev split after its metrics: title by field of :class:`Row`, in order."""
        facts, gaps = self.evaluation.facts, self.measure == "gap_closed"
        titles = {"loss": title_of("loss", facts)}
        titles |= {"gap_closed": title_of("gap_closed", facts)} if gaps else {}
        titles["difference"] = f"difference in {self.measure.replace('_', ' ')} to {self.evaluation.comparator or '-'}"
        titles |= {"calibration_error": ECE_TITLE} if any(row.calibration_error for row in self.rows) else {}
        if facts.get("gap") != "labels" and any(row.raw_loss for row in self.rows):  # with labels the same
            titles |= {"raw_loss": "raw loss", **({"raw_gap_closed": "raw gap closed"} if gaps else {})}
        return titles

    @property
    def header(self) -> list[str]:
        """Column titles of the table."""
        e = self.evaluation
        titles = ["policy"]
        for split in e.dev_splits:
            mark = "" if len(e.dev_splits) == 1 else f" ({split.removeprefix('validation_')})"
            titles += [f"{name}{mark}" for name in e.metric_names]
            titles += [f"{title}{mark}" for title in self.shown.values()]
        follows = [title for title, _ in e.measures.values()]
        if any(row.teacher_metric is not None for row in self.rows):
            follows += [f"its teacher's {e.metric_names[0]} ({split})" for split in e.dev_splits]
        weights = [*(f"w {name}" for name in e.term_names), *follows, "skipped"]
        return [*titles, *(weights if e.term_names else follows)]

    def cells(self, row: Row) -> list[str]:
        """The row as texts, in the order of :attr:`header`."""
        marks = ("*" if row.learned else "") + ("+" if row.extra_labels else "") + (BOUND_MARK if row.bound else "")
        marks += ACTED_MARK if row.intervention else ""
        cells = [f"{row.policy}{' ' if marks else ''}{marks}"]
        for split in self.evaluation.dev_splits:
            cells += [show(row.metrics[split][name]) for name in self.evaluation.metric_names]
            cells += [_cell(row, field, split) for field in self.shown]
        follows = [show(row.measures[name]) if name in row.measures else "-" for name in self.evaluation.measures]
        if row.teacher_metric is not None:
            follows += [show(row.teacher_metric[split]) for split in self.evaluation.dev_splits]
        weights = [*(f"{w:.2f}" for w in row.mean_weights.values()), *follows, f"{row.skipped:.0%}"]
        return [*cells, *(weights if row.mean_weights else follows)]


def _cell(row: Row, field: str, split: str) -> str:
    if field == "difference":
        difference = row.difference[split]
        return "(comparator)" if row.comparator else "-" if difference is None else show(difference.interval, True)
    intervals = getattr(row, field)
    return "-" if intervals is None else show(intervals[split])


def summarize(evaluation: Evaluation, *, level: float = 0.95, replicates: int = 300, seed: int = 0) -> Report:
    """Intervals and paired differences of every policy.

    Args:
        evaluation: what :func:`kd_env.evaluation.judging.protocol.evaluate_policies` returned; one training of
            each agent.
        level: level of every interval.
        replicates: bootstrap draws of dev examples.
        seed: seed of those draws.
    """
    learns = "teacher_updates" in evaluation.facts
    measure = "loss" if evaluation.floored or learns else "gap_closed"
    splits = (SELECTION, *evaluation.dev_splits)
    policies = evaluation.policies
    differences: dict[str, dict[str, Difference | None]] = {
        split: {name: _difference(evaluation, name, split, measure, level) for name in policies} for split in splits
    }
    adjusted = {
        split: _adjust({name: d for name, d in by_policy.items() if policies[name].rule or policies[name].learned})
        for split, by_policy in differences.items()
    }
    rows = [
        Row(
            policy=name,
            learned=result.learned,
            extra_labels=result.extra_labels,
            comparator=name == evaluation.comparator,
            metrics={
                s: {m: t_interval(values, level, bounds_of(m)) for m, values in result.splits[s].metrics.items()}
                for s in splits
            },
            loss={s: t_interval(result.splits[s].loss, level) for s in splits},
            gap_closed={s: t_interval(result.splits[s].gap_closed, level) for s in splits},
            calibration_error=_where_measured(result, splits, "calibration_error", level, SHARE),
            raw_loss=_where_measured(result, splits, "raw_loss", level),
            raw_gap_closed=_where_measured(result, splits, "raw_gap_closed", level),
            difference={s: differences[s][name] for s in splits},
            bound=result.bound,
            intervention=result.intervention,
            of=result.of,
            holm_p={s: adjusted[s].get(name) for s in splits},
            examples={
                s: _over_examples(evaluation, s, guesses, replicates, seed, level)
                for s in evaluation.dev_splits
                if (guesses := result.splits[s].predictions) is not None
            },
            mean_weights=dict(zip(evaluation.term_names, map(float, result.mean_weights), strict=True)),
            teacher_metric=_teacher_metric(evaluation, result, level),
            measures={
                measured.name: t_interval(measured.values, level, measured.bounds) for measured in result.measures
            },
            mean_update_scale=float(np.nanmean(result.update_scale)),
            skipped=float(np.mean(result.update_scale[~np.isnan(result.update_scale)] == 0.0)),
            diverged=int(result.diverged.sum()),
        )
        for name, result in policies.items()
    ]
    rules = {
        name: float(getattr(result.splits[SELECTION], measure).mean())
        for name, result in policies.items()
        if result.rule
    }
    to_rules = {
        name: {
            rule: {split: _paired(evaluation, name, rule, split, measure, level) for split in evaluation.dev_splits}
            for rule in rules
        }
        for name, result in policies.items()
        if result.learned
    }
    return Report(measure, tuple(rows), evaluation, trainings=1, best_rule=best_rule(rules, measure), to_rules=to_rules)


def _teacher_metric(evaluation: Evaluation, result: PolicyResult, level: float) -> dict[str, Interval] | None:
    if result.taught is None:
        return None
    first = evaluation.metric_names[0]
    bounds = bounds_of(first)
    return {split: t_interval(values[first], level, bounds) for split, values in result.taught.metrics.items()}


def _difference(evaluation: Evaluation, name: str, split: str, measure: str, level: float) -> Difference | None:
    if evaluation.comparator is None or name == evaluation.comparator:
        return None
    return _paired(evaluation, name, evaluation.comparator, split, measure, level)


def _paired(evaluation: Evaluation, name: str, other: str, split: str, measure: str, level: float) -> Difference:
    values, other_values = (getattr(evaluation.policies[policy].splits[split], measure) for policy in (name, other))
    return paired_difference(values, other_values, level)


def _where_measured(
    result: PolicyResult, splits: Sequence[str], field: str, level: float, bounds: Bounds | None = None
) -> dict[str, Interval] | None:
    by_split = {split: getattr(result.splits[split], field) for split in splits}
    return {
        split: t_interval(values, level, bounds) for split, values in by_split.items() if values is not None
    } or None


def _adjust(differences: Mapping[str, Difference | None]) -> dict[str, float | None]:
    p_values = {name: difference.p_value for name, difference in differences.items() if difference is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {name: adjusted.get(name) for name in differences}


def _over_examples(
    evaluation: Evaluation, split: str, predictions: NDArray[Any], replicates: int, seed: int, level: float
) -> Interval:
    first, labels = evaluation.metric_names[0], evaluation.labels[split]

    def score(rows: NDArray[np.int64]) -> float:
        return float(np.mean([compute([first], guess[rows], labels[rows])[first] for guess in predictions]))

    return bootstrap_examples(score, len(labels), seed=seed, replicates=replicates, level=level)
