"""From an evaluation to what people read: a table, plain words, ``results.json`` and ``results.csv``."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.evaluation.judging.results import SELECTION, Evaluation, PolicyResult, TaughtBeside
from kd_env.evaluation.statistics.intervals import (
    MIN_SEEDS_FOR_CLAIM,
    MIN_UNITS_FOR_CLAIM,
    Difference,
    Interval,
    bootstrap_examples,
    holm,
    paired_difference,
    t_interval,
)
from kd_env.evaluation.statistics.verdicts import best_rule, detectable_words, headline, seeds_words, show, title_of
from kd_env.numerics import metrics

AUC_TITLE = "AUC of right rows"
ECE_TITLE = "expected calibration error"


@dataclass(frozen=True)
class Row:
    """One policy in one line. Intervals are t intervals over the evaluation seeds unless named otherwise."""

    policy: str
    learned: bool
    extra_labels: bool
    comparator: bool
    metrics: dict[str, dict[str, Interval]]
    """By split and metric."""
    loss: dict[str, Interval]
    """With ``gap=calibrated`` after each student's temperature."""
    gap_closed: dict[str, Interval]
    calibration_error: dict[str, Interval] | None
    """Of the students as they are; None in regression."""
    raw_loss: dict[str, Interval]
    """Against gold labels and without a temperature."""
    raw_gap_closed: dict[str, Interval]
    difference: dict[str, Difference | None]
    """By split: paired difference of the measure to the comparator; None for the comparator itself."""
    holm_p: dict[str, float | None]
    """By split: p-value of that difference, adjusted for all the differences shown (Holm 1979)."""
    examples: dict[str, Interval]
    """By dev split: this policy's students on this dev set, dev examples drawn again; of the first metric."""
    mean_weights: dict[str, float]
    followed: Interval | None
    """Where rows are weighed: share of rows on which the teacher that is best there has the largest weight."""
    teacher_metric: dict[str, Interval] | None
    """Where the teacher learns: by split, its first metric at the end of the episode."""
    right_rows_auc: Interval | None
    """Where rows are weighed and some labels are wrong: how often a right row has a larger weight than a wrong one."""
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
    to_best_rule: dict[str, dict[str, Difference]]
    """By learned policy and dev split: difference of the measure to that rule."""

    @property
    def title(self) -> str:
        """The measure in words."""
        return title_of(self.measure, self.evaluation.facts)

    @property
    def headline(self) -> str:
        """The first line; empty without rules or learned policies."""
        return headline(self.best_rule, self.to_best_rule, self.measure, self.title)

    @property
    def detectable(self) -> str:
        """The line under the table."""
        e = self.evaluation
        found = [
            (f"{row.policy}{'' if len(e.dev_splits) == 1 else f' ({split})'}", row.difference[split])
            for row in self.rows
            for split in e.dev_splits
        ]
        to = f"{self.title}, each to {e.comparator!r}"
        return detectable_words([(name, one) for name, one in found if one is not None], to)

    @property
    def shown(self) -> dict[str, str]:
        """Columns of one dev split after its metrics: title by field of :class:`Row`, in order."""
        facts, gaps = self.evaluation.facts, self.measure == "gap_closed"
        titles = {"loss": title_of("loss", facts)}
        titles |= {"gap_closed": title_of("gap_closed", facts)} if gaps else {}
        titles["difference"] = f"difference in {self.measure.replace('_', ' ')} to {self.evaluation.comparator or '-'}"
        titles |= {} if self.evaluation.regression else {"calibration_error": ECE_TITLE}
        if facts.get("gap") != "labels":  # else the raw ones are the same
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
        follows = ["best teacher followed"] if any(row.followed is not None for row in self.rows) else []
        follows += [AUC_TITLE] if any(row.right_rows_auc is not None for row in self.rows) else []
        if any(row.teacher_metric is not None for row in self.rows):
            follows += [f"its teacher's {e.metric_names[0]} ({split})" for split in e.dev_splits]
        return [*titles, *(f"w {name}" for name in e.term_names), *follows, "skipped"]

    def cells(self, row: Row) -> list[str]:
        """The row as texts, in the order of :attr:`header`."""
        marks = ("*" if row.learned else "") + ("+" if row.extra_labels else "")
        cells = [f"{row.policy}{' ' if marks else ''}{marks}"]
        for split in self.evaluation.dev_splits:
            cells += [show(row.metrics[split][name]) for name in self.evaluation.metric_names]
            cells += [_cell(row, field, split) for field in self.shown]
        follows = [show(found) for found in (row.followed, row.right_rows_auc) if found is not None]
        if row.teacher_metric is not None:
            follows += [show(row.teacher_metric[split]) for split in self.evaluation.dev_splits]
        return [*cells, *(f"{w:.2f}" for w in row.mean_weights.values()), *follows, f"{row.skipped:.0%}"]


def _cell(row: Row, field: str, split: str) -> str:
    if field == "difference":
        difference = row.difference[split]
        return "(comparator)" if row.comparator else "-" if difference is None else show(difference.interval, True)
    found = getattr(row, field)
    return "-" if found is None else show(found[split])


def summarize(evaluation: Evaluation, *, level: float = 0.95, replicates: int = 300, seed: int = 0) -> Report:
    """Intervals and paired differences of every policy.

    Args:
        evaluation: what :func:`kd_env.evaluation.judging.protocol.evaluate_policies` returned; one training of each agent.
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
    adjusted = {split: _adjust(found) for split, found in differences.items()}
    rows = [
        Row(
            policy=name,
            learned=result.learned,
            extra_labels=result.extra_labels,
            comparator=name == evaluation.comparator,
            metrics={
                s: {m: t_interval(values, level, metrics.BOUNDS[m]) for m, values in result.splits[s].metrics.items()}
                for s in splits
            },
            loss={s: t_interval(result.splits[s].loss, level) for s in splits},
            gap_closed={s: t_interval(result.splits[s].gap_closed, level) for s in splits},
            calibration_error=_calibration_error(result, splits, level),
            raw_loss={s: t_interval(result.splits[s].raw_loss, level) for s in splits},
            raw_gap_closed={s: t_interval(result.splits[s].raw_gap_closed, level) for s in splits},
            difference={s: differences[s][name] for s in splits},
            holm_p={s: adjusted[s][name] for s in splits},
            examples={s: _over_examples(evaluation, result, s, replicates, seed, level) for s in evaluation.dev_splits},
            mean_weights=dict(zip(evaluation.term_names, map(float, result.mean_weights), strict=True)),
            followed=None if result.followed is None else t_interval(result.followed, level, metrics.SHARE),
            teacher_metric=_teacher_metric(evaluation, result, level),
            right_rows_auc=None
            if result.right_rows_auc is None
            else t_interval(result.right_rows_auc, level, metrics.SHARE),
            mean_update_scale=float(np.nanmean(result.update_scale)),
            skipped=float(np.mean(result.update_scale[~np.isnan(result.update_scale)] == 0.0)),
            diverged=int(result.diverged.sum()),
        )
        for name, result in policies.items()
    ]
    rules = {n: float(getattr(r.splits[SELECTION], measure).mean()) for n, r in policies.items() if not r.learned}
    best = best_rule(rules, measure)
    to_best = {
        name: {split: _paired(evaluation, name, best, split, measure, level) for split in evaluation.dev_splits}
        for name, result in policies.items()
        if result.learned and best is not None
    }
    return Report(measure, tuple(rows), evaluation, trainings=1, best_rule=best, to_best_rule=to_best)


def print_report(report: Report) -> None:
    """The table and the plain words, on the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    table = RichTable(title=f"{report.evaluation.facts['task']}, official dev split", title_justify="left")
    for index, title in enumerate(report.header):
        table.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
    for row in report.rows:
        table.add_row(*report.cells(row), style="bold" if row.learned else None)
    # A pipe has no width: 80 columns would fold every number in two.
    wide = console if console.is_terminal else Console(width=max(console.width, 200))
    if report.headline:
        console.print(f"{report.headline}\n", highlight=False, markup=False)
    wide.print(table)
    console.print(
        "\n".join(part for part in (report.detectable, plain_words(report)) if part), highlight=False, markup=False
    )


def markdown_table(report: Report) -> str:
    """The headline, the table and what it can detect, for a document."""
    lines = [report.header, ["---"] * len(report.header), *(report.cells(row) for row in report.rows)]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return "\n\n".join(part for part in (report.headline, table.rstrip(), report.detectable) if part) + "\n"


def plain_words(report: Report) -> str:
    """What the table does and does not show."""
    e, facts = report.evaluation, report.evaluation.facts
    count = len(e.seeds)
    dev = ", ".join(f"{split} ({len(e.labels[split])} rows)" for split in e.dev_splits)
    words = [
        f"Each policy distilled {count} fresh student{'s' if count != 1 else ''} (the same seeds for all), judged on "
        f"the official dev split: {dev}; brackets are 95% intervals over these seeds."
    ]
    if any(row.learned for row in report.rows):
        words.append("* marks what was trained.")
    better = "below 0 is better" if report.measure == "loss" else "above 0 is better"
    if e.comparator is not None:
        words.append(
            f"The comparator {e.comparator!r} is the rule with the lowest loss on the selection split; differences "
            f"to it are paired by seed ({better})."
        )
    words += [_verdict(report, row, split) for row in report.rows if row.learned for split in e.dev_splits]
    if any(row.learned for row in report.rows):
        words.append(
            f"This is one training of the agent: it describes this policy and is no claim about the algorithm, for "
            f"which at least {MIN_UNITS_FOR_CLAIM} independent trainings on {MIN_SEEDS_FOR_CLAIM} seeds are needed."
        )
    words += seeds_words(count)
    words.append("The intervals do not cover another draw of dev rows; results.json has one over dev examples.")
    words += facts_in_words(facts, report.measure)
    if any(row.extra_labels for row in report.rows):
        words.append("+ marks rules trained on train and feedback rows: what the clean labels give without an agent.")
    words += [f"{row.diverged} of {count} students diverged under {row.policy}." for row in report.rows if row.diverged]
    return " ".join(words)


def facts_in_words(facts: Mapping[str, Any], measure: str) -> list[str]:
    """What about the problem has to be known beside any number of it.

    Args:
        facts: of an evaluation.
        measure: ``gap_closed``, or ``loss`` where the floor of the gap was active or the teacher learned.
    """
    words = []
    if facts.get("gap") == "calibrated":
        words.append(
            "Calibrated losses and gaps are read after one temperature per student, fitted on feedback rows; raw ones "
            "and calibration errors are those of the students as they are."
        )
    if "teacher_updates" in facts:
        words.append(
            "The teacher learned beside each student, so that there is no fixed gap to close; losses are shown."
        )
    elif measure == "loss":
        words.append(
            "The teacher's calibrated loss is hardly below that of a fresh student (the floor of the gap is active), "
            "so losses are shown in place of the gap closed."
        )
    if facts["saw_feedback"] != "no":
        words.append(
            "It is unknown whether the teacher saw rows of the feedback split; rewards, and what agents learned from "
            "them, may be too good."
        )
    shuffled = facts.get("feedback_labels") == "shuffled"
    if facts.get("label_noise") and not shuffled:
        words.append(
            f"{facts['label_noise']:.0%} of the train labels were replaced by wrong ones; feedback, selection and dev "
            "are clean, so agents see a little clean supervision that plain rules do not."
        )
    elif facts.get("label_noise"):
        words.append(f"{facts['label_noise']:.0%} of the train labels were replaced by wrong ones.")
    if shuffled:
        words.append(
            "The labels of the evaluated feedback rows were shuffled, as a control: no reward, observation or "
            "influence sees a truth."
        )
    return words


def _verdict(report: Report, row: Row, split: str) -> str:
    difference = row.difference[split]
    if difference is None:
        return f"{row.policy}: {report.title} on {split} {show(getattr(row, report.measure)[split])}."
    reading = difference.reading
    if math.isfinite(difference.interval.low) and not difference.tie:
        reading = "the interval excludes 0 for this one policy"
    return (
        f"{row.policy} minus the comparator, {report.title} on {split}: {show(difference.interval, True)}; {reading}."
    )


def write_report(folder: Path, report: Report, history: Iterable[Mapping[str, float]] = ()) -> None:
    """``results.json``, ``results.csv``, ``results.md``, ``weights.png``; with a history, ``learning_curve.png``."""
    from kd_env.evaluation.reports.plots import learning_curve, weights_over_time

    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "results.json", json.dumps(to_json(report), indent=2) + "\n")
    atomic_write(folder / "results.csv", to_csv(report))
    atomic_write(folder / "results.md", f"{markdown_table(report)}\n{plain_words(report)}\n")
    atomic_write(folder / "weights.png", weights_over_time(report.evaluation))
    points = list(history)
    if any("return_mean" in point for point in points):
        atomic_write(folder / "learning_curve.png", learning_curve(points))


def to_json(report: Report) -> dict[str, Any]:
    """The whole report as plain JSON values: intervals, and the number of every seed."""
    e = report.evaluation
    raw = {
        name: {
            "splits": {
                split: {
                    "metrics": {metric: values.tolist() for metric, values in scores.metrics.items()},
                    "loss": scores.loss.tolist(),
                    "gap_closed": scores.gap_closed.tolist(),
                    "raw_loss": scores.raw_loss.tolist(),
                    "raw_gap_closed": scores.raw_gap_closed.tolist(),
                    **(
                        {}
                        if scores.calibration_error is None
                        else {"calibration_error": scores.calibration_error.tolist()}
                    ),
                }
                for split, scores in result.splits.items()
            },
            "temperature": result.temperature.tolist(),
            "return": result.returns.tolist(),
            "diverged": result.diverged.tolist(),
            **({} if result.followed is None else {"followed": result.followed.tolist()}),
            **({} if result.taught is None else {"teacher_over_time": _over_time(result.taught)}),
            **({} if result.right_rows_auc is None else {"right_rows_auc": result.right_rows_auc.tolist()}),
            "action_view": result.action_view,
            "mean_weights": _by_term(e, np.nanmean(result.weights, axis=0)),
            "chosen": _by_term(e, _share_above_zero(result.weights)),
            "weights_over_time": result.weights_over_time.tolist(),
            "update_scale_over_time": np.nanmean(result.update_scale, axis=1).tolist(),
        }
        for name, result in e.policies.items()
    }
    plain = {
        "facts": e.facts,
        "seeds": list(e.seeds),
        "dev_splits": list(e.dev_splits),
        "term_names": list(e.term_names),
        "measure": report.measure,
        "comparator": e.comparator,
        "trainings": report.trainings,
        "teacher": e.teacher,
        "policies": [{**asdict(row), "seeds": raw[row.policy]} for row in report.rows],
        "best_rule": report.best_rule,
        "headline": report.headline,
        "detectable": report.detectable,
        "words": plain_words(report),
    }
    return without_infinities(plain)  # type: ignore[no-any-return]


def _by_term(evaluation: Evaluation, values: NDArray[np.float64]) -> dict[str, list[float]]:
    """``[N, K]`` as the values of every seed by term."""
    return {name: values[:, index].tolist() for index, name in enumerate(evaluation.term_names)}


def _over_time(taught: TaughtBeside) -> dict[str, list[float]]:
    """Means over the replicas that are still running, of every step."""
    return {name: np.nanmean(values, axis=1).tolist() for name, values in taught.over_time.items()}


def _teacher_metric(evaluation: Evaluation, result: PolicyResult, level: float) -> dict[str, Interval] | None:
    if result.taught is None:
        return None
    first = evaluation.metric_names[0]
    bounds = metrics.BOUNDS[first]
    return {split: t_interval(found[first], level, bounds) for split, found in result.taught.metrics.items()}


def _share_above_zero(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a student's steps in which a term was applied at all, ``[N, K]``."""
    return np.asarray(np.nanmean(np.where(np.isnan(weights), np.nan, weights > 0), axis=0))


def to_csv(report: Report) -> str:
    """One line per policy, split and measure, with the interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["policy", "learned", "split", "measure", "mean", "low", "high", "units", "unit"])
    for row in report.rows:
        for split in (SELECTION, *report.evaluation.dev_splits):
            found = {**row.metrics[split], "loss": row.loss[split], "gap_closed": row.gap_closed[split]}
            found |= {} if row.calibration_error is None else {"calibration_error": row.calibration_error[split]}
            found |= {"raw_loss": row.raw_loss[split], "raw_gap_closed": row.raw_gap_closed[split]}
            for name, interval in found.items():
                writer.writerow([row.policy, row.learned, split, name, *_numbers(interval), "evaluation seed"])
            difference = row.difference[split]
            if difference is not None:
                name = f"difference_{report.measure}"
                writer.writerow([row.policy, row.learned, split, name, *_numbers(difference.interval), difference.unit])
            if split in row.examples:
                name = f"{report.evaluation.metric_names[0]}_over_examples"
                writer.writerow([row.policy, row.learned, split, name, *_numbers(row.examples[split]), "dev example"])
        if row.right_rows_auc is not None:
            found_apart = _numbers(row.right_rows_auc)
            writer.writerow([row.policy, row.learned, "", "right_rows_auc", *found_apart, "evaluation seed"])
    return text.getvalue()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, then rename: readers see the old file or the whole new one."""
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _difference(evaluation: Evaluation, name: str, split: str, measure: str, level: float) -> Difference | None:
    if evaluation.comparator is None or name == evaluation.comparator:
        return None
    return _paired(evaluation, name, evaluation.comparator, split, measure, level)


def _paired(evaluation: Evaluation, name: str, other: str, split: str, measure: str, level: float) -> Difference:
    mine, theirs = (getattr(evaluation.policies[one].splits[split], measure) for one in (name, other))
    return paired_difference(mine, theirs, level)


def _calibration_error(result: PolicyResult, splits: Sequence[str], level: float) -> dict[str, Interval] | None:
    errors = {split: result.splits[split].calibration_error for split in splits}
    found = {split: t_interval(values, level, metrics.SHARE) for split, values in errors.items() if values is not None}
    return found or None


def _adjust(differences: Mapping[str, Difference | None]) -> dict[str, float | None]:
    shown = {name: found.p_value for name, found in differences.items() if found is not None}
    adjusted = dict(zip(shown, holm(list(shown.values())), strict=True))
    return {name: adjusted.get(name) for name in differences}


def _over_examples(
    evaluation: Evaluation, result: PolicyResult, split: str, replicates: int, seed: int, level: float
) -> Interval:
    first = evaluation.metric_names[0]
    predictions, labels = result.splits[split].predictions, evaluation.labels[split]

    def score(rows: NDArray[np.int64]) -> float:
        return float(np.mean([metrics.compute([first], guess[rows], labels[rows])[first] for guess in predictions]))

    return bootstrap_examples(score, len(labels), seed=seed, replicates=replicates, level=level)


def _numbers(interval: Interval) -> list[str]:
    return [
        *(f"{v:.6g}" if math.isfinite(v) else "" for v in (interval.mean, interval.low, interval.high)),
        str(interval.units),
    ]


def without_infinities(value: Any) -> Any:
    """JSON has no infinity and no NaN: None stands for "unknown"."""
    if isinstance(value, dict):
        return {str(key): without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(item) for item in value]
    if isinstance(value, np.generic):
        return without_infinities(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
