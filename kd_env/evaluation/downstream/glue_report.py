"""The GLUE table on the terminal, as Markdown, CSV and JSON, with what it does and does not show."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kd_env.core.files import without_infinities
from kd_env.evaluation.downstream.glue import Judged, Line, lines_of
from kd_env.evaluation.downstream.printed import PRINTED, UNSTATED
from kd_env.evaluation.statistics.intervals import Interval


@dataclass(frozen=True)
class Choice:
    """How one folder is fine-tuned on one task, and why."""

    student: str
    folder: str
    task: str
    train_rows: int
    point: str
    score: float | None
    """Headline metric on the selection split; None where nothing was tried."""
    selection_rows: int
    edges: tuple[str, ...]
    """Where the grid ends at the point (:func:`kd_env.evaluation.downstream.grid.edges`)."""
    grid: tuple[Mapping[str, Any], ...]
    """Every point with its metrics on the selection split."""


@dataclass(frozen=True)
class GlueReport:
    """What there is to say."""

    judged: Judged
    names: tuple[str, ...]
    """Of the students, in their order."""
    folders: Mapping[str, int]
    """Number of folders of each name."""
    tasks: tuple[str, ...]
    left_out: Mapping[str, str]
    """Tasks without files, and what is missing."""
    seeds: tuple[int, ...]
    """Of fine-tuning; empty where classifiers are judged as they are."""
    choices: tuple[Choice, ...] = ()
    open_cells: tuple[str, ...] = ()
    """Cells that have no numbers (yet)."""
    submissions: tuple[str, ...] = ()
    """What came of the files for the GLUE server, by name of the students."""

    @property
    def lines(self) -> list[Line]:
        """The table."""
        return lines_of(self.judged, self.tasks, bool(self.seeds))


def headline(report: GlueReport) -> str:
    """What is compared, in one line."""
    how = "fine-tuned here" if report.seeds else "judged here as they are"
    return (
        f"Students {how} ({', '.join(report.names)}), judged on official dev rows, beside numbers that papers print. "
        "Those are of other students, pre-trained on other text and fine-tuned on all train rows, chosen otherwise, "
        "with one seed or none stated and no interval: a difference to a printed number was not measured."
    )


def header(report: GlueReport) -> list[str]:
    """Heads of the columns: ours, then the printed ones."""
    return ["GLUE dev, x 100", *report.names, *(f"{one.name} (printed)" for one in PRINTED)]


def rows(report: GlueReport) -> list[list[str]]:
    """Cells of the table; empty where nothing was run or printed."""
    return [
        [
            line.title,
            *(_cell(line.intervals.get(name)) for name in report.names),
            *(f"{line.printed[one.name]:.1f}" if one.name in line.printed else "" for one in PRINTED),
        ]
        for line in report.lines
    ]


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return ""
    mean = f"{interval.mean:.1f}"
    return mean if math.isinf(interval.low) else f"{mean} [{interval.low:.1f}, {interval.high:.1f}]"


def choice_rows(report: GlueReport) -> list[list[str]]:
    """What was chosen on the selection split, with a head; empty where nothing was fine-tuned."""
    if not report.choices:
        return []
    head = ["student", "folder", "task", "train rows", "chosen", "selection", "at the edge of the grid"]
    return [
        head,
        *(
            [
                *(c.student, c.folder, c.task, f"{c.train_rows:,}", c.point),
                "not tried" if c.score is None else f"{100 * c.score:.1f} ({c.selection_rows:,} rows)",
                ", ".join(c.edges),
            ]
            for c in report.choices
        ),
    ]


def words(report: GlueReport) -> str:
    """What the table does and does not show."""
    said = []
    if report.seeds:
        times = f"{len(report.seeds)} fine-tunings (seeds {report.seeds[0]} to {report.seeds[-1]})"
        if len(report.seeds) == 1:
            times = f"one fine-tuning (seed {report.seeds[0]}), which says nothing about the spread over seeds"
        said.append(
            f"Each number of ours is the mean over the folders of a name and {times}; a seed draws the head, the order "
            "of rows, dropout and, where not all are used, the train rows. Brackets are 95% intervals: of one folder "
            "over the fine-tuning seeds, so that they describe this one student; of several over folders, which are "
            "taken as independent distillations, and seeds, crossed."
        )
    else:
        said.append(
            "Nothing was fine-tuned here: brackets are 95% intervals over the folders of a name, taken as independent, "
            "and one folder has none."
        )
    several = [f"{name} ({count})" for name, count in report.folders.items() if count > 1]
    if several:
        said.append(f"Several folders: {', '.join(several)}.")
    said.append(_rows_words(report))
    tried = [c for c in report.choices if c.score is not None]
    if tried:
        said.append(
            "Learning rate and epochs were chosen for each folder on each task by its headline metric on the selection "
            "split alone, with a seed that is not reported; no dev row chose anything."
        )
    at_edge = [f"{c.student} on {c.task} ({', '.join(c.edges)})" for c in report.choices if c.edges]
    if at_edge:
        said.append(f"At the edge of the grid, so that a wider one may be better: {'; '.join(at_edge)}.")
    alike = [
        f"{name} on {line.tasks[0]}"
        for line in report.lines
        if line.metric is None and len(line.tasks) == 1
        for name, values in line.values.items()
        if values.size > 1 and np.ptp(values) == 0
    ]
    if alike:
        said.append(
            f"Without any spread, as where a student gives every row the same answer: {', '.join(alike)}; the interval "
            "of such a number says nothing."
        )
    if report.left_out:
        missing = ", ".join(f"{task} ({why})" for task, why in report.left_out.items())
        said.append(f"Left out, and blank: {missing}.")
    if report.open_cells:
        said.append(f"Without numbers (yet): {', '.join(report.open_cells)}.")
    said.append(
        "A task's score is the mean of its metrics, an average that of scores, of students that have all of them. "
        f"Printed: {'; '.join(dict.fromkeys(one.source for one in PRINTED))}. Not stated of them: {UNSTATED}; they "
        "stand in the line of the task's mean."
    )
    if report.submissions:
        whose = "the fine-tuning" if report.seeds else "the classifiers as they are, of several on a task the one"
        said.append(
            f"Predictions for the GLUE server: of {whose} that is best on selection rows; no dev row chose. "
            f"{' '.join(report.submissions)}"
        )
    return " ".join(said)


def _rows_words(report: GlueReport) -> str:
    found: dict[str, str] = {}
    for by_task in report.judged.values():
        for task, by_place in by_task.items():
            for records in by_place.values():
                dev = " and ".join(f"{scores['rows']:,}" for scores in records[0]["dev"].values())
                train = f"{records[0]['labels']:,} train, " if "labels" in records[0] else ""
                found.setdefault(task, f"{task} {train}{dev} dev")
    return f"Rows: {'; '.join(found.values()) or 'none yet'}."


def markdown(report: GlueReport) -> str:
    """``results.md``."""
    tables = [[header(report), *rows(report)], choice_rows(report)]
    blocks = [_markdown_table(table) for table in tables if table]
    return "\n".join([headline(report) + "\n", *blocks, words(report) + "\n"])


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *body])


def show(report: GlueReport) -> None:
    """The report on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # A pipe has no width: 80 columns would fold every number in two.
    wide = console if console.is_terminal else Console(width=max(console.width, 240))
    console.print(f"{headline(report)}\n", highlight=False, markup=False)
    for head, *body in (table for table in ([header(report), *rows(report)], choice_rows(report)) if table):
        table = Table()
        for place, title in enumerate(head):
            # Narrow heads: there are many columns, and their numbers are short.
            narrow = title.replace(", ", "\n").replace(" (printed)", "\n(printed)")
            table.add_column(narrow, justify="left" if place == 0 else "right", overflow="fold")
        for cells in body:
            table.add_row(*cells)
        wide.print(table)
    console.print(words(report), highlight=False, markup=False)


def to_csv(report: GlueReport) -> str:
    """One line for every number, ours and printed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["tasks", "split", "metric", "student", "kind", "mean", "low", "high", "folders", "seeds", "source"]
    )
    sources = {one.name: one.source for one in PRINTED}
    for line in report.lines:
        place = [" ".join(line.tasks), line.split or "", line.metric or ""]
        for name, interval in line.intervals.items():
            ends = ["", ""] if math.isinf(interval.low) else [interval.low, interval.high]
            folders, seeds = line.values[name].shape
            writer.writerow([*place, name, "ours", interval.mean, *ends, folders, seeds, ""])
        for name, value in line.printed.items():
            writer.writerow([*place, name, "printed", value, "", "", "", "", sources[name]])
    return text.getvalue()


def to_json(report: GlueReport) -> dict[str, Any]:
    """Every number of the table, and those behind it by folder and seed."""
    lines = [
        {
            **{"title": line.title.strip(), "tasks": list(line.tasks), "split": line.split, "metric": line.metric},
            "students": {
                name: {"values": line.values[name].tolist(), "interval": interval.__dict__}
                for name, interval in line.intervals.items()
            },
            "printed": line.printed,
        }
        for line in report.lines
    ]
    facts = {
        "headline": headline(report),
        "tasks": list(report.tasks),
        "left_out": dict(report.left_out),
        "without_numbers": list(report.open_cells),
        "seeds": list(report.seeds),
        "submissions": list(report.submissions),
        "choices": [asdict(choice) for choice in report.choices],
    }
    sources = {one.name: one.source for one in PRINTED}
    found = {**facts, "lines": lines, "printed_sources": sources, "words": words(report)}
    return without_infinities(found)  # type: ignore[no-any-return]
