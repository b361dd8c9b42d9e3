"""Figures of numbers with their intervals, one below the other: scores, differences, probabilities."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kd_env.evaluation.pages import collect
from kd_env.evaluation.pages.contents import Picture, Problem
from kd_env.evaluation.pages.figures.drawing import COLORS, panels, picture
from kd_env.evaluation.statistics.intervals import Interval
from kd_env.evaluation.statistics.verdicts import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 24
"""Lines of a figure; the tables have all."""


class Line(NamedTuple):
    """One number of a figure."""

    label: str
    interval: Interval
    filled: bool
    """Filled squares are what was trained (of differences: what is claimed), open circles everything else."""


def policies(problem: Problem, png: bool, prefix: str = "") -> Picture:
    """The measure of every policy on dev, and its first metric, best first: rules are open, what was trained filled."""
    c = problem.comparison
    split, sign = c.dev_splits[0], 1 if c.measure == "loss" else -1
    entries = sorted(c.entries, key=lambda entry: sign * collect.score(entry, c, split).mean)[:MOST]
    shown = [(c.title, [Line(e.policy, collect.score(e, c, split), e.learned) for e in entries])]
    if c.metric_names:
        metric = c.metric_names[0]
        shown.append((metric, [Line(e.policy, e.metrics[split][metric], e.learned) for e in entries]))
    caption = (
        f"Policies on {split} ({problem.name}), best first. Filled squares: what was trained; open circles: rules. "
        f"Bars: 95% intervals, of trainings and seeds for agents, of seeds for rules."
    )
    best = ", ".join(f"{line.label} {show(line.interval)}" for line in shown[0][1][:3])
    alt = f"Scores of {len(entries)} policies on {split}; the best in {c.title}: {best}."

    def draw(figure: Figure) -> None:
        for axes, (title, lines) in zip(panels(figure, len(shown), left=0.15), shown, strict=True):
            forest(axes, lines, title)

    return picture(f"{prefix}policies", caption, alt, draw, _height(len(entries)) * len(shown), png)


def differences(title: str, lines: Sequence[Line], name: str, caption: str, png: bool, zero: float = 0.0) -> Picture:
    """Differences, or probabilities, with their intervals beside what says that there is none.

    Args:
        title: what the axis shows.
        lines: at least one.
        name: of the figure.
        caption: stands under it.
        png: whether the PNG is wanted.
        zero: value of no difference.
    """
    drawn = lines[:MOST]
    more = f" Of {len(lines)} the first {MOST} are drawn." if len(lines) > MOST else ""
    said = "; ".join(f"{line.label}: {show(line.interval, zero == 0.0)}" for line in drawn[:6])
    alt = f"{title}: {said}{'; and others' if len(drawn) > 6 else ''}."

    def draw(figure: Figure) -> None:
        [axes] = panels(figure, 1, left=0.15)
        axes.axvline(zero, color="black", linewidth=1.0)
        forest(axes, drawn, title)

    return picture(name, f"{caption}{more}", alt, draw, _height(len(drawn)), png)


def forest(axes: Axes, lines: Sequence[Line], title: str) -> None:
    """One number with its interval below the other, each under its name."""
    for place, line in enumerate(lines):
        interval = line.interval
        known = math.isfinite(interval.low) and math.isfinite(interval.high)
        reach = [[interval.mean - interval.low], [interval.high - interval.mean]] if known else [[0.0], [0.0]]
        axes.errorbar(
            interval.mean,
            place,
            xerr=reach,
            fmt="s" if line.filled else "o",
            color=COLORS[0] if line.filled else "#444444",
            markerfacecolor=COLORS[0] if line.filled else "white",
            markersize=6,
            capsize=3 if known else 0,
            zorder=3,
        )
        name = textwrap.shorten(line.label, 50, placeholder="...")
        axes.annotate(name, (0.01, place - 0.3), xycoords=("axes fraction", "data"), fontsize=8, va="center", zorder=4)
    axes.set_ylim(len(lines) - 0.5, -0.75)
    axes.set_yticks([])
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(title)


def _height(lines: int) -> float:
    return 0.34 * lines + 0.75
