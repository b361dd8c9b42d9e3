"""From a comparison of runs to what people read: tables, plain words, JSON, CSV and a figure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from kd_env.core.files import atomic_write, without_infinities
from kd_env.evaluation.comparing.compare import Comparison, Contrast, Entry
from kd_env.evaluation.reports.report import ECE_TITLE
from kd_env.evaluation.reports.words import facts_in_words
from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM, MIN_UNITS_FOR_CLAIM, Interval, design_in_words
from kd_env.evaluation.statistics.verdicts import detectable_words, seeds_words, show, title_of

FILES = ("comparison.json", "comparison.csv", "comparison.md", "comparison.png")

_HOLM_LEVEL = 0.05
"""Below which an adjusted p-value stands for a claim."""


class Sheet(NamedTuple):
    """One table as texts."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    """Stands under the table."""


def sheets(c: Comparison) -> list[Sheet]:
    """The tables: policies, what they chose, agents minus rules, minus agents, under controls; empty ones left out."""
    best = [one for one in c.to_rules if one.second == c.best_rule]
    found = [
        Sheet(
            f"{c.facts['task']}, official dev split",
            _header(c),
            [_cells(c, entry) for entry in c.entries],
            _detectable(c, best or c.between_agents or c.between_controls),
        ),
        Sheet(
            "Mean weight of each term, and share of steps in which it was chosen (weight above 0)",
            [
                *("policy", *(f"w {name}" for name in c.term_names), *(f"chosen {name}" for name in c.term_names)),
                *_measures(c).values(),
            ],
            [_term_cells(c, entry) for entry in c.entries],
        ),
        _contrasts(c, "Differences to rules", c.to_rules),
        _contrasts(c, "Differences between agents", c.between_agents),
        _contrasts(c, "One agent under different controls", c.between_controls),
    ]
    return [sheet for sheet in found if sheet.rows]


def print_comparison(c: Comparison) -> None:
    """The tables and the plain words, on the terminal."""
    from rich.console import Console
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
            table.add_row(*row)
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
    parts = [f"{c.headline}\n"] if c.headline else []
    for sheet in sheets(c):
        lines = [sheet.header, ["---"] * len(sheet.header), *sheet.rows]
        table = f"{sheet.title}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        parts.append(f"{table}\n{sheet.note}\n" if sheet.note else table)
    return "\n".join(parts)


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
            found = {**e.metrics[split], **{key: by_split[split] for key, by_split in _measured(c, e).items()}}
            for name, interval in found.items():
                writer.writerow([e.policy, "", split, name, *_numbers(interval), e.unit, "", "", "", ""])
        for kind, by_term in (("weight", e.mean_weights), ("chosen", e.chosen)):
            for term, interval in by_term.items():
                writer.writerow([e.policy, "", "", f"{kind}_{term}", *_numbers(interval), e.unit, "", "", "", ""])
        for name, interval in e.measures.items():
            writer.writerow([e.policy, "", "", name, *_numbers(interval), e.unit, *[""] * 4])
    for one in (*c.to_rules, *c.between_agents, *c.between_controls):
        d = one.difference
        tests = [f"{d.p_value:.6g}", f"{one.holm_p:.6g}", d.claim, d.detectable if math.isfinite(d.detectable) else ""]
        writer.writerow([one.first, one.second, one.split, c.measure, *_numbers(d.interval), d.unit, *tests])
    return text.getvalue()


def plain_words(c: Comparison) -> str:
    """What the tables do and do not show."""
    agents = [entry for entry in c.entries if entry.learned]
    count = len(c.seeds)
    words = [
        f"Every policy distilled students from the same {count} evaluation seed{'s' if count > 1 else ''}, and all "
        f"were judged on the official dev split ({', '.join(c.dev_splits)})."
    ]
    if agents:
        words.append(
            "An agent's line is a group of independent trainings that differ in the seed alone: brackets are 95% "
            "intervals over trainings and evaluation seeds, both as crossed random effects (mean squares, "
            "Satterthwaite's degrees of freedom); of one training they are over its seeds."
        )
    if len(agents) < len(c.entries):
        words.append("A rule's line is one policy: its brackets are 95% intervals over evaluation seeds.")
    if any(entry.extra_labels for entry in c.entries):
        words.append("+ marks rules trained on train and feedback rows: what the clean labels give without an agent.")
    if not agents:
        words.append("No run has an agent that learned: nothing is compared.")
    words += [_few(entry) for entry in agents if entry.units < MIN_UNITS_FOR_CLAIM]
    words += [_claims(c, entry) for entry in agents if any(one.first == entry.policy for one in c.to_rules)]
    if c.to_rules:
        words.append(
            f"Differences are paired by evaluation seed, {_better(c)}. Holm's p is adjusted for all {len(c.to_rules)} "
            f"differences to rules, and for those of each other table apart. A claim needs at least "
            f"{MIN_UNITS_FOR_CLAIM} trainings of each agent, {MIN_SEEDS_FOR_CLAIM} evaluation seeds, an interval "
            f"without 0 and Holm's p below {_HOLM_LEVEL}."
        )
    words += seeds_words(count) if agents else []
    words += [_apart(c, one) for one in (*c.between_agents, *c.between_controls)]
    words += [
        f"{first} and {second} share seeds of the students that they were trained on, so that they are not wholly "
        "independent."
        for first, second in c.overlapping
    ]
    words += facts_in_words(c.facts, c.measure)
    words += [
        f"{e.diverged} of {len(e.runs) * count} students diverged under {e.policy}." for e in c.entries if e.diverged
    ]
    words.append(
        "Nothing here speaks about other tasks, another split of the train rows, another teacher or student, or "
        "another draw of dev rows."
    )
    return " ".join(words)


def _header(c: Comparison) -> list[str]:
    titles = ["policy", "trainings x seeds"]
    for split in c.dev_splits:
        titles += [f"{name}{_mark(c, split)}" for name in (*c.metric_names, *_shown(c).values())]
    return titles


def _cells(c: Comparison, entry: Entry) -> list[str]:
    cells = [
        _name(entry),
        design_in_words(entry.units, len(c.seeds)) if entry.learned else f"rule, {len(c.seeds)} seeds",
    ]
    for split in c.dev_splits:
        cells += [show(entry.metrics[split][name]) for name in c.metric_names]
        cells += [show(_measured(c, entry)[key][split]) for key in _shown(c)]
    return cells


def _shown(c: Comparison) -> dict[str, str]:
    """Columns after the metrics: title by field; where losses stand in for gaps, no gap is shown."""
    gaps = c.measure == "gap_closed"
    titles = {
        "loss": title_of("loss", c.facts),
        "gap_closed": title_of("gap_closed", c.facts),
        "calibration_error": ECE_TITLE,
        "raw_loss": "raw loss",
        "raw_gap_closed": "raw gap closed",
    }
    same = ("raw_loss", "raw_gap_closed") if c.facts.get("gap") == "labels" else ()
    there = _measured(c, c.entries[0])
    return {
        key: title for key, title in titles.items() if key in there and key not in same and (gaps or "gap" not in key)
    }


def _measured(c: Comparison, entry: Entry) -> dict[str, dict[str, Interval]]:
    """What there is of an entry beside its metrics, by field and dev split."""
    found = {
        "loss": entry.loss,
        "gap_closed": entry.gap_closed,
        "calibration_error": entry.calibration_error,
        "raw_loss": entry.raw_loss,
        "raw_gap_closed": entry.raw_gap_closed,
    }
    return {key: value for key, value in found.items() if value is not None}


def _term_cells(c: Comparison, entry: Entry) -> list[str]:
    cells = [_name(entry), *(_short(entry.mean_weights[name]) for name in c.term_names)]
    # Soft weights are hardly ever 0: "chosen" would say 100% of a term that counts for nothing.
    soft = entry.action_view in ("box", "simplex")
    cells += ["-" if soft else f"{entry.chosen[name].mean:.0%}" for name in c.term_names]
    return [*cells, *(show(entry.measures[name]) if name in entry.measures else "-" for name in _measures(c))]


def _measures(c: Comparison) -> dict[str, str]:
    """Titles of the decisions' measures that some entry has, by name."""
    return {name: title for name, title in c.measures.items() if any(name in entry.measures for entry in c.entries)}


def _name(entry: Entry) -> str:
    return f"{entry.policy}{' *' if entry.learned else ' +' if entry.extra_labels else ''}"


def _contrasts(c: Comparison, title: str, found: Sequence[Contrast]) -> Sheet:
    header = [f"difference in {c.title}", "mean [95% interval]", "over", "detectable", "p", "Holm p", "claim"]
    return Sheet(title, header, [_contrast_cells(c, one) for one in found], _detectable(c, found))


def _detectable(c: Comparison, found: Sequence[Contrast]) -> str:
    pairs = [(f"{one.first} - {one.second}{_mark(c, one.split)}", one.difference) for one in found]
    return detectable_words(pairs, c.title)


def _contrast_cells(c: Comparison, one: Contrast) -> list[str]:
    d = one.difference
    return [
        f"{one.first} - {one.second}{_mark(c, one.split)}",
        show(d.interval, True),
        d.design,
        f"{d.detectable:.3f}" if math.isfinite(d.detectable) else "-",
        f"{d.p_value:.3g}",
        f"{one.holm_p:.3g}",
        ("yes" if one.holm_p < _HOLM_LEVEL else "not after Holm") if d.claim else "tie" if d.tie else "no",
    ]


def _few(entry: Entry) -> str:
    if entry.units == 1:
        return (
            f"{entry.policy} was trained once: its differences are over evaluation seeds, describe that one policy and "
            "say nothing about another training."
        )
    return f"{entry.policy} was trained {entry.units} times, fewer than {MIN_UNITS_FOR_CLAIM}: no claim is made of it."


def _claims(c: Comparison, entry: Entry) -> str:
    mine = [one for one in c.to_rules if one.first == entry.policy]
    parts = []
    for sign, word in ((1, "above"), (-1, "below")):
        found = [one for one in mine if one.difference.claim and sign * one.difference.interval.mean > 0]
        if found:
            names = ", ".join(
                f"{one.second}{_mark(c, one.split)}{'' if one.holm_p < _HOLM_LEVEL else ' (not after Holm)'}"
                for one in found
            )
            parts.append(f"{word} {names}")
    if not parts:
        return f"{entry.policy}: no claim of a difference in {c.title} to any rule."
    return f"{entry.policy}: {c.title} {', and '.join(parts)}."


def _apart(c: Comparison, one: Contrast) -> str:
    what, d = f"{one.first} minus {one.second}{_mark(c, one.split)}", one.difference
    return f"{what}: {show(d.interval, True)}; {d.reading}."


def _better(c: Comparison) -> str:
    return "below 0 is better for the agent" if c.measure == "loss" else "above 0 is better for the agent"


def _mark(c: Comparison, split: str) -> str:
    return "" if len(c.dev_splits) == 1 else f" ({split.removeprefix('validation_')})"


def _short(interval: Interval) -> str:
    if math.isinf(interval.low) or interval.low == interval.high:
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _numbers(interval: Interval) -> Sequence[str]:
    values = (interval.mean, interval.low, interval.high)
    return [*(f"{value:.6g}" if math.isfinite(value) else "" for value in values), str(interval.units)]
