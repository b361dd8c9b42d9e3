"""Reports as files: JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.files import without_infinities
from kd_env.evaluation.judging.results import SELECTION, Evaluation
from kd_env.evaluation.reports.classes import class_scores, class_table
from kd_env.evaluation.reports.report import Report, Row
from kd_env.evaluation.reports.words import plain_words
from kd_env.evaluation.statistics.intervals import Interval
from kd_files.writing import atomic_write, write_json


def print_report(report: Report) -> None:
    """The table and the plain words, on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console()
    table = RichTable(title=f"{report.evaluation.facts['task']}, official dev split", title_justify="left")
    for index, title in enumerate(report.header):
        table.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
    for row in report.rows:
        cells = map(escape, report.cells(row))  # names in square brackets are no styles
        table.add_row(*cells, style="bold" if row.learned else None)
    # A pipe has no width: 80 columns would fold every number in two.
    wide = console if console.is_terminal else Console(width=max(console.width, 200))
    if report.headline:
        console.print(f"{report.headline}\n", highlight=False, markup=False)
    wide.print(table)
    console.print(
        "\n".join(text for text in (report.detectable, plain_words(report)) if text), highlight=False, markup=False
    )


def markdown_table(report: Report) -> str:
    """The headline, the table and what it can detect, for a document."""
    lines = [report.header, ["---"] * len(report.header), *(report.cells(row) for row in report.rows)]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return "\n\n".join(text for text in (report.headline, table.rstrip(), report.detectable) if text) + "\n"


def write_report(
    folder: Path,
    report: Report,
    history: Iterable[Mapping[str, float]] = (),
    appendix: str = "",
    origin: Mapping[str, Any] | None = None,
) -> None:
    """``results.json``, ``results.csv``, ``results.md`` and pictures.

    ``weights.png`` shows the weights of terms where there are any, ``traces.png`` what else was followed, and with a
    history ``learning_curve.png`` the training.

    Args:
        folder: made where it is missing.
        report: what is written.
        history: of the training.
        appendix: Markdown that ``results.md`` ends with.
        origin: what ``results.json`` says of the run beside, as plain values.
    """
    from kd_env.evaluation.reports.plots import learning_curve, traces_over_time, weights_over_time

    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "results.csv", to_csv(report))
    table = class_table(report.evaluation)
    ending = "".join(f"\n{text}\n" for text in (table, appendix.rstrip("\n")) if text)
    atomic_write(folder / "results.md", f"{markdown_table(report)}\n{plain_words(report)}\n{ending}")
    if report.evaluation.term_names:
        atomic_write(folder / "weights.png", weights_over_time(report.evaluation))
    if any(result.traces for result in report.evaluation.policies.values()):
        atomic_write(folder / "traces.png", traces_over_time(report.evaluation))
    points = list(history)
    if any(name in point for point in points for name in ("return_mean", "reward")):
        atomic_write(folder / "learning_curve.png", learning_curve(points))
    write_json(
        folder / "results.json", {**to_json(report), **(origin or {})}
    )  # last: who finds it takes the evaluation to be finished


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
                    **({"classes": classes[split]} if split in classes else {}),
                    **({} if scores.reliability is None else {"reliability": _bins(scores.reliability)}),
                    **{
                        key: values.tolist()
                        for key in ("gap_size", "raw_loss", "raw_gap_closed", "calibration_error")
                        if (values := getattr(scores, key)) is not None
                    },
                }
                for split, scores in result.splits.items()
            },
            "temperature": result.temperature.tolist(),
            "return": result.returns.tolist(),
            "diverged": result.diverged.tolist(),
            **({} if result.taught is None else {"teacher_over_time": _over_time(result.taught.over_time)}),
            **{measured.name: measured.values.tolist() for measured in result.measures},
            **({"traces": _over_time(result.traces)} if result.traces else {}),
            "action_view": result.action_view,
            "mean_weights": _by_term(e, np.nanmean(result.weights, axis=0)),
            "chosen": _by_term(e, _share_above_zero(result.weights)),
            "weights_over_time": result.weights_over_time.tolist(),
            **({} if result.term_losses is None else {"term_losses_over_time": _where_any(result.term_losses)}),
            "update_scale_over_time": np.nanmean(result.update_scale, axis=1).tolist(),
        }
        for name, result in e.policies.items()
        for classes in [class_scores(e, result)]
    }
    plain = {
        "facts": e.facts,
        "seeds": list(e.seeds),
        "dev_splits": list(e.dev_splits),
        "term_names": list(e.term_names),
        "measure": report.measure,
        "comparator": e.comparator,
        "trainings": report.trainings,
        "joint": e.joint,
        "teacher": e.teacher,
        "measures": {name: {"title": title, "bounds": bounds} for name, (title, bounds) in e.measures.items()},
        "policies": [_plain_row(row, raw[row.policy]) for row in report.rows],
        "best_rule": report.best_rule,
        "headline": report.headline,
        "detectable": report.detectable,
        "words": plain_words(report),
    }
    return without_infinities(plain)  # type: ignore[no-any-return]


def _plain_row(row: Row, seeds: dict[str, Any]) -> dict[str, Any]:
    """A row with its measures among its other numbers; that it is a bound or an intervention, where it is one."""
    values = asdict(row)
    measures = values.pop("measures")
    kind = {key: value for key in ("bound", "intervention", "of") if (value := values.pop(key))}
    return {**values, **kind, **measures, "seeds": seeds}


def _bins(reliability: NDArray[np.float64]) -> dict[str, list[float]]:
    """``[N, 3, 15]`` over all students."""
    return dict(zip(("rows", "confidence", "right"), reliability.sum(axis=0).tolist(), strict=True))


def _by_term(evaluation: Evaluation, values: NDArray[np.float64]) -> dict[str, list[float]]:
    """``[N, K]`` as the values of every seed by term."""
    return {name: values[:, index].tolist() for index, name in enumerate(evaluation.term_names)}


def _over_time(traces: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    """Means over the replicas that are still running, of every step."""
    return {name: np.nanmean(values, axis=1).tolist() for name, values in traces.items()}


def _where_any(values: NDArray[np.float64]) -> list[Any]:
    """Means ``[steps, K]`` over the students of a step ``[steps, N, K]`` that have a value; NaN where none has."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    found: list[Any] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist()
    return found


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
            intervals = {**row.metrics[split], "loss": row.loss[split], "gap_closed": row.gap_closed[split]}
            for name in ("calibration_error", "raw_loss", "raw_gap_closed"):
                by_split = getattr(row, name)
                intervals |= {} if by_split is None else {name: by_split[split]}
            for name, interval in intervals.items():
                writer.writerow([row.policy, row.learned, split, name, *_numbers(interval), "evaluation seed"])
            difference = row.difference[split]
            if difference is not None:
                name = f"difference_{report.measure}"
                writer.writerow([row.policy, row.learned, split, name, *_numbers(difference.interval), difference.unit])
            if split in row.examples:
                name = f"{report.evaluation.metric_names[0]}_over_examples"
                writer.writerow([row.policy, row.learned, split, name, *_numbers(row.examples[split]), "dev example"])
        for name, interval in row.measures.items():
            writer.writerow([row.policy, row.learned, "", name, *_numbers(interval), "evaluation seed"])
    return text.getvalue()


def _numbers(interval: Interval) -> list[str]:
    return [
        *(f"{v:.6g}" if math.isfinite(v) else "" for v in (interval.mean, interval.low, interval.high)),
        str(interval.units),
    ]
