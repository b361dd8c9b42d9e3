"""Fine-tuned students side by side: intervals, paired differences to a baseline, a table and learning curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.core.files import without_infinities
from kd_env.core.metrics import bounds_of
from kd_env.evaluation.statistics.crossed import policy_difference, policy_interval
from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM, MIN_UNITS_FOR_CLAIM, Difference, Interval, holm
from kd_env.evaluation.statistics.verdicts import detectable_words, seeds_words, show

Floats = NDArray[np.float64]
Results = Mapping[tuple[str, int | None], Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]]
"""By (task, number of labels or None for all) and name of the students: by folder and seed what
:func:`kd_env.evaluation.downstream.fine_tuning.fine_tune` returned."""


class Column(NamedTuple):
    """One official metric of one dev split of one task, from one number of labels."""

    task: str
    rows: int | None  # as asked for
    labels: int
    split: str
    metric: str
    headline: bool  # the first metric of the task
    values: dict[str, Floats]  # by name [folders, seeds]

    @property
    def title(self) -> str:
        """Head of the table's column."""
        mark = "" if "_" not in self.split else f" ({self.split.removeprefix('validation_')})"
        return f"{self.labels:,} labels: {self.metric}{mark}"


@dataclass(frozen=True)
class Summary:
    """One column with what may be said about it."""

    column: Column
    intervals: dict[str, Interval]
    differences: dict[str, Difference]
    """Difference of every name to the baseline, itself left out."""
    holm_p: dict[str, float]
    """Adjusted for all the differences of all columns (Holm 1979)."""


def columns_of(results: Results) -> list[Column]:
    """Every metric of every split, in the order of the results."""
    columns = []
    for (task, rows), by_name in results.items():
        first = next(iter(by_name.values()))[0][0]
        for split, scores in first["dev"].items():
            names = [name for name in scores if name not in ("rows", "loss")]
            for metric in names:
                values = {
                    name: np.array([[outcome["dev"][split][metric] for outcome in folder] for folder in folders])
                    for name, folders in by_name.items()
                }
                columns.append(Column(task, rows, first["labels"], split, metric, metric == names[0], values))
    return columns


def summarize(columns: Sequence[Column], baseline: str) -> list[Summary]:
    """Intervals and differences of every column; the p-values are adjusted together."""
    differences = [
        {n: difference(v, column.values[baseline]) for n, v in column.values.items() if n != baseline}
        for column in columns
    ]
    adjusted = iter(holm([difference.p_value for by_name in differences for difference in by_name.values()]))
    return [
        Summary(
            column,
            {n: policy_interval(v, bounds=bounds_of(column.metric)) for n, v in column.values.items()},
            by_name,
            {name: next(adjusted) for name in by_name},
        )
        for column, by_name in zip(columns, differences, strict=True)
    ]


def difference(first: Floats, second: Floats) -> Difference:
    """``first [F, S]`` minus ``second [G, S]``, on the same fine-tuning seeds, crossed with folders (:mod:`.crossed`).

    Equally many folders are paired by place; one folder stands for that one student; else the folders of both are
    independent and the seeds alone are shared.
    """
    return policy_difference(first, second, paired=len(first) == len(second))


def markdown(summaries: Sequence[Summary], baseline: str) -> str:
    """One table a task: a line a name, for every metric its interval and the difference to the baseline.

    Under it stands, for every column, the difference that its folders and seeds can detect.
    """
    text = []
    for task in dict.fromkeys(summary.column.task for summary in summaries):
        task_summaries = [summary for summary in summaries if summary.column.task == task]
        head = ["student", "folders"]
        for summary in task_summaries:
            head += [summary.column.title, *([f"minus {baseline}"] if summary.differences else [])]
        lines = [head, ["---"] * len(head)]
        for name, values in task_summaries[0].column.values.items():
            cells = [name, str(len(values))]
            for summary in task_summaries:
                cells.append(show(summary.intervals[name]))
                cells += [_difference_cell(summary, name)] if summary.differences else []
            lines.append(cells)
        text += [f"{task}:", "", *("| " + " | ".join(cells) + " |" for cells in lines), ""]
        notes = [
            detectable_words(list(summary.differences.items()), f"{summary.column.title} (to {baseline})")
            for summary in task_summaries
        ]
        text += [note.replace("training", "folder") + "\n" for note in notes if note]
    return "\n".join(text)


def _difference_cell(summary: Summary, name: str) -> str:
    difference = summary.differences.get(name)
    tie = ", tie" if difference is not None and difference.tie else ""
    return "" if difference is None else f"{show(difference.interval, True)}, p {summary.holm_p[name]:.2g}{tie}"


def plain_words(summaries: Sequence[Summary], results: Results, baseline: str, seeds: Sequence[int]) -> str:
    """What the table does and does not show."""
    first = next(iter(results.values()))
    alone = [name for name, folders in first.items() if len(folders) == 1]
    several = {name: len(folders) for name, folders in first.items() if len(folders) > 1}
    judged = {
        f"{task} {split} ({scores['rows']:,} rows)": None
        for (task, _), by_name in results.items()
        for split, scores in next(iter(by_name.values()))[0][0]["dev"].items()
    }
    times = f"once (seed {seeds[0]})" if len(seeds) == 1 else f"{len(seeds)} times (seeds {seeds[0]} to {seeds[-1]})"
    words = [
        f"Every student was fine-tuned {times} for each column; a seed draws the head, the order of the rows, dropout "
        "and, where not all labels are used, which rows carry them, the same for all students. The last weights are "
        f"judged on the official dev split, and no held-out label chooses anything: {', '.join(judged)}.",
        "Brackets are 95% intervals, those of metrics inside the metric's range; tie: an interval that contains 0.",
    ]
    if len(seeds) == 1:
        words.append("One seed says nothing about the spread over seeds: no interval can be given.")
    elif several:
        counts = ", ".join(f"{name} ({count})" for name, count in several.items())
        words.append(
            f"Of {counts} they are over folders, which are taken as independent distillations, and fine-tuning seeds, "
            "crossed."
        )
    if alone and len(seeds) > 1:
        words.append(
            f"Of {', '.join(alone)} (one folder) they are over the fine-tuning seeds: they describe this one student, "
            "and are no claim about the method that distilled it."
        )
    if len(first) > 1:
        count = sum(len(summary.differences) for summary in summaries)
        unequal = baseline in several and any(count != several[baseline] for count in several.values())
        welch = (
            "; where both have several, but not equally many, folders are unpaired (Welch) and seeds shared"
            if unequal
            else ""
        )
        words.append(
            f"Differences to {baseline} are paired by seed, and by place in the lists where both have equally many "
            f"folders{welch}. "
            f"p is two-sided and adjusted for all differences shown ({count}; Holm). A claim needs at least "
            f"{MIN_UNITS_FOR_CLAIM} distillations by each method and {MIN_SEEDS_FOR_CLAIM} seeds."
        )
        words += seeds_words(len(seeds))
    return " ".join(words)


def to_json(summaries: Sequence[Summary], baseline: str) -> dict[str, Any]:
    """Every number of the table, and those behind it by folder and seed."""
    columns = []
    for summary in summaries:
        column = summary.column
        by_name = {
            name: {
                "values": values.tolist(),
                "interval": summary.intervals[name].__dict__,
                "difference": None if name == baseline else _plain(summary.differences[name], summary.holm_p[name]),
            }
            for name, values in column.values.items()
        }
        facts = {"task": column.task, "labels": column.labels, "split": column.split, "metric": column.metric}
        columns.append({**facts, "students": by_name})
    return {"baseline": baseline, "columns": without_infinities(columns)}


def _plain(difference: Difference, adjusted: float) -> dict[str, Any]:
    return {
        "interval": difference.interval.__dict__,
        "p_value": difference.p_value,
        "holm_p": adjusted,
        "claim": difference.claim,
        "detectable": difference.detectable,
    }


def learning_curves(summaries: Sequence[Summary]) -> bytes | None:
    """The headline metric against the number of labels as PNG, one panel for each dev split of each task.

    A line a name, its band the interval of the table; tasks with one number of labels are left out, and None is
    returned where none is left.
    """
    panels: dict[tuple[str, str], list[Summary]] = {}
    for summary in sorted(summaries, key=lambda summary: summary.column.labels):
        if summary.column.headline:
            panels.setdefault((summary.column.task, summary.column.split), []).append(summary)
    panels = {key: panel for key, panel in panels.items() if len(panel) > 1}
    if not panels:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(panels), 3.8), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((task, split), panel) in zip(grid, panels.items(), strict=True):
        labels = [summary.column.labels for summary in panel]
        for index, name in enumerate(panel[0].intervals):
            intervals = [summary.intervals[name] for summary in panel]
            axes.plot(labels, [interval.mean for interval in intervals], marker=".", color=f"C{index % 10}", label=name)
            if all(np.isfinite(interval.half_width) for interval in intervals):
                low, high = [i.low for i in intervals], [i.high for i in intervals]
                axes.fill_between(labels, low, high, alpha=0.15, color=f"C{index % 10}")
        axes.set_xscale("log")
        axes.set_xticks(labels, [f"{count:,}" for count in labels])
        axes.minorticks_off()
        axes.set_xlabel("labels")
        axes.set_ylabel(f"{panel[0].column.metric}, {split}")
        axes.set_title(task)
        axes.grid(alpha=0.3)
    grid[-1].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
