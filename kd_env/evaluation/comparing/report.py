"""Comparisons on the terminal and as files: JSON, CSV, Markdown and a figure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kd_env.core.files import without_infinities
from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.comparing.sheets import intervals_of, sheets
from kd_env.evaluation.comparing.words import plain_words
from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.statistics.intervals import Interval
from kd_files.writing import atomic_write

FILES = ("comparison.json", "comparison.csv", "comparison.md", "comparison.png")


def print_comparison(c: Comparison) -> None:
    """The tables and the plain words, on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    # A pipe has no width: 80 columns would fold every number in two.
    wide = console if console.is_terminal else Console(width=max(console.width, 200))
    if c.headline:
        console.print(f"{c.headline}\n", highlight=False, markup=False)
    for sheet in sheets(c):
        table = Table(title=sheet.title, title_justify="left")
        for index, title in enumerate(sheet.header):
            table.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
        for row in sheet.rows:
            table.add_row(*map(escape, row))  # names in square brackets are no styles
        wide.print(table)
        if sheet.note:
            console.print(f"{sheet.note}\n", highlight=False, markup=False)
    console.print(plain_words(c), highlight=False, markup=False)


def write_comparison(folder: Path, c: Comparison, command: str) -> None:
    """``comparison.json``, ``.csv``, ``.md`` and ``.png`` in a folder that is made where it is missing."""
    from kd_env.evaluation.comparing.plots import trainings_and_rules

    folder.mkdir(parents=True, exist_ok=True)
    content: tuple[str | bytes, ...] = (
        json.dumps(to_json(c, command), indent=2) + "\n",
        to_csv(c),
        f"{markdown(c)}\n{plain_words(c)}\n",
        trainings_and_rules(c),
    )
    for name, data in zip(FILES, content, strict=True):
        atomic_write(folder / name, data)


def markdown(c: Comparison) -> str:
    """The headline and the tables for a document."""
    blocks = [f"{c.headline}\n"] if c.headline else []
    for sheet in sheets(c):
        lines = [sheet.header, ["---"] * len(sheet.header), *sheet.rows]
        table = f"{sheet.title}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        blocks.append(f"{table}\n{sheet.note}\n" if sheet.note else table)
    return "\n".join(blocks)


def to_json(c: Comparison, command: str) -> dict[str, Any]:
    """The whole comparison as plain JSON values."""
    return without_infinities({"command": command, **asdict(c), "headline": c.headline, "words": plain_words(c)})  # type: ignore[no-any-return]


def to_csv(c: Comparison) -> str:
    """One line per policy and measure, and one per difference, with the interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["policy", "minus", "split", "measure", "mean", "low", "high", "units", "unit"]
    writer.writerow([*header, "p", "holm_p", "claim", "detectable"])
    for e in c.entries:
        for split in c.dev_splits:
            intervals = {**e.metrics[split], **{key: by_split[split] for key, by_split in intervals_of(c, e).items()}}
            for name, interval in intervals.items():
                writer.writerow([e.policy, "", split, name, *_numbers(interval), e.unit, "", "", "", ""])
        for kind, by_term in (("weight", e.mean_weights), ("chosen", e.chosen)):
            for term, interval in by_term.items():
                writer.writerow([e.policy, "", "", f"{kind}_{term}", *_numbers(interval), e.unit, "", "", "", ""])
        for name, interval in e.measures.items():
            writer.writerow([e.policy, "", "", name, *_numbers(interval), e.unit, *[""] * 4])
    for paused in (paused for pruning in c.prunings for paused in pruning.agents):
        units = [str(len(paused.trainings)), "training", *[""] * 4]
        writer.writerow([paused.agent, "", SELECTION, "gap_closed_at_pause", f"{paused.value:.6g}", "", "", *units])
    for contrast in (*c.to_rules, *c.to_bounds, *c.reactions, *c.between_agents, *c.between_controls):
        d = contrast.difference
        tests = [
            f"{d.p_value:.6g}",
            f"{contrast.holm_p:.6g}",
            d.claim,
            d.detectable if math.isfinite(d.detectable) else "",
        ]
        writer.writerow(
            [contrast.first, contrast.second, contrast.split, c.measure, *_numbers(d.interval), d.unit, *tests]
        )
    return text.getvalue()


def _numbers(interval: Interval) -> Sequence[str]:
    values = (interval.mean, interval.low, interval.high)
    return [*(f"{value:.6g}" if math.isfinite(value) else "" for value in values), str(interval.units)]
