"""The tables of a comparison as texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from kd_env.evaluation.comparing.comparison import Comparison, Contrast, Entry
from kd_env.evaluation.reports.report import BOUND_MARK, ECE_TITLE
from kd_env.evaluation.statistics.intervals import Interval, design_in_words
from kd_env.evaluation.statistics.verdicts import detectable_words, show, title_of

HOLM_LEVEL = 0.05
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
    best = [contrast for contrast in c.to_rules if contrast.second == c.best_rule]
    tables = [
        Sheet(
            f"{c.facts['task']}, official dev split",
            _header(c),
            [_cells(c, entry) for entry in c.entries],
            _detectable(c, best or c.between_agents or c.between_controls),
        ),
        Sheet(
            "Mean weight of each term, and share of steps in which it was chosen (weight above 0)"
            if c.term_names
            else "What every policy did",
            [
                *("policy", *(f"w {name}" for name in c.term_names), *(f"chosen {name}" for name in c.term_names)),
                *_measures(c).values(),
            ],
            [_term_cells(c, entry) for entry in c.entries],
        ),
        _contrasts(c, "Differences to rules", c.to_rules),
        _contrasts(c, "Differences to bounds, which are no rivals", c.to_bounds),
        _contrasts(c, "Does the policy react? Agents minus interventions on them", c.reactions),
        _contrasts(c, "Differences between agents", c.between_agents),
        _contrasts(c, "One agent under different controls", c.between_controls),
    ]
    return [sheet for sheet in tables if sheet.rows]


def intervals_of(c: Comparison, entry: Entry) -> dict[str, dict[str, Interval]]:
    """Intervals of an entry beside those of its metrics, by field and dev split."""
    intervals = {
        "loss": entry.loss,
        "gap_closed": entry.gap_closed,
        "calibration_error": entry.calibration_error,
        "raw_loss": entry.raw_loss,
        "raw_gap_closed": entry.raw_gap_closed,
    }
    return {key: value for key, value in intervals.items() if value is not None}


def split_mark(c: Comparison, split: str) -> str:
    """The dev split in brackets, where there are several."""
    return "" if len(c.dev_splits) == 1 else f" ({split.removeprefix('validation_')})"


def _header(c: Comparison) -> list[str]:
    titles = ["policy", "trainings x seeds"]
    for split in c.dev_splits:
        titles += [f"{name}{split_mark(c, split)}" for name in (*c.metric_names, *_shown(c).values())]
    return titles


def _cells(c: Comparison, entry: Entry) -> list[str]:
    trained = f"{entry.units}, a seed each" if c.joint else design_in_words(entry.units, len(c.seeds))
    cells = [_name(entry), trained if entry.learned else f"rule, {len(c.seeds)} seeds"]
    for split in c.dev_splits:
        cells += [show(entry.metrics[split][name]) for name in c.metric_names]
        cells += [show(intervals_of(c, entry)[key][split]) for key in _shown(c)]
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
    available = intervals_of(c, c.entries[0])
    return {
        key: title
        for key, title in titles.items()
        if key in available and key not in same and (gaps or "gap" not in key)
    }


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
    marks = ("*" if entry.learned else "") + ("+" if entry.extra_labels else "") + (BOUND_MARK if entry.bound else "")
    return f"{entry.policy}{' ' if marks else ''}{marks}"


def _contrasts(c: Comparison, title: str, contrasts: Sequence[Contrast]) -> Sheet:
    header = [f"difference in {c.title}", "mean [95% interval]", "over", "detectable", "p", "Holm p", "claim"]
    return Sheet(title, header, [_contrast_cells(c, contrast) for contrast in contrasts], _detectable(c, contrasts))


def _detectable(c: Comparison, contrasts: Sequence[Contrast]) -> str:
    pairs = [
        (f"{contrast.first} - {contrast.second}{split_mark(c, contrast.split)}", contrast.difference)
        for contrast in contrasts
    ]
    return detectable_words(pairs, c.title)


def _contrast_cells(c: Comparison, contrast: Contrast) -> list[str]:
    d = contrast.difference
    return [
        f"{contrast.first} - {contrast.second}{split_mark(c, contrast.split)}",
        show(d.interval, True),
        d.design,
        f"{d.detectable:.3f}" if math.isfinite(d.detectable) else "-",
        f"{d.p_value:.3g}",
        f"{contrast.holm_p:.3g}",
        ("yes" if contrast.holm_p < HOLM_LEVEL else "not after Holm") if d.claim else "tie" if d.tie else "no",
    ]


def _short(interval: Interval) -> str:
    if math.isinf(interval.low) or interval.low == interval.high:
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
