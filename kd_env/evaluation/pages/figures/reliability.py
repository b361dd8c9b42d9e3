"""Reliability diagrams: how often students are right, by how sure they are (Guo et al. 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kd_env.evaluation.pages import collect
from kd_env.evaluation.pages.contents import Picture, Problem
from kd_env.evaluation.pages.figures.drawing import legend, legend_height, look, panels, picture
from kd_env.evaluation.pages.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 6
"""Policies in a diagram: what was trained first, then rules in the order of the comparison."""
FEW = 0.002
"""Bins with a smaller share of the rows are left out: their points would be chance."""


def shown(problem: Problem) -> list[collect.Reliability]:
    """Those that the diagram has room for."""
    found = collect.reliabilities(problem)
    return [*(one for one in found if one.learned), *(one for one in found if not one.learned)][:MOST]


def diagram(problem: Problem, png: bool, prefix: str = "") -> Picture | None:
    """Accuracy over confidence of each policy's students, above the shares of rows; None where no bins are kept."""
    found = shown(problem)
    if not found:
        return None
    names = [entry.policy for entry in problem.comparison.entries]
    left_out = len(collect.reliabilities(problem)) - len(found)
    caption = (
        f"How often students are right by how sure they are, as they are, on {problem.comparison.dev_splits[0]} "
        f"({problem.name}), over all trainings and students: on the broken line they are as right as they are sure, "
        "below it too sure. Under it the share of rows in each of 15 bins; points with less than 0.2% of the rows are "
        f"left out.{f' {left_out} more policies are left out.' if left_out else ''}"
    )
    alt = f"Reliability diagram of {', '.join(one.policy for one in found)}: accuracy over confidence in 15 bins."

    def draw(figure: Figure) -> None:
        above, under = panels(figure, 2, below=below)
        above.plot([0, 1], [0, 1], color="0.4", linestyle=(0, (2, 2)), linewidth=1)
        for one in found:
            style, kept = look(names.index(one.policy)), one.rows >= FEW
            above.plot(one.confidence[kept], one.accuracy[kept], label=one.policy, **style)
            under.plot(one.confidence[kept], one.rows[kept], **style)
        kept_bins = [(one.confidence[one.rows >= FEW], one.accuracy[one.rows >= FEW]) for one in found]
        low, bottom = (min(float(values.min()) for values in both) for both in zip(*kept_bins, strict=True))
        for axes in (above, under):
            axes.set_xlim(max(low - 0.05, 0.0), 1.01)
            axes.set_xlabel("confidence")
        above.set_ylim(max(min(low, bottom) - 0.05, 0.0), 1.02)
        above.set_ylabel("accuracy")
        under.set_ylabel("share of rows")
        legend(figure, above)

    below = legend_height([one.policy for one in found])
    return picture(f"{prefix}reliability", caption, alt, draw, 4.6 + below, png)


def bins_table(problem: Problem, prefix: str = "") -> Table | None:
    """The bins of the diagram that hold rows, few ones too; None where none are kept."""
    runs = {entry.policy: entry.runs for entry in problem.comparison.entries}
    rows, places = list[tuple[Cell, ...]](), list[tuple[str, ...]]()
    for one in shown(problem):
        for place in np.flatnonzero(one.rows):
            numbers = (float(values[place]) for values in (one.rows, one.confidence, one.accuracy))
            rows.append((one.policy, f"{place}/{len(one.rows)} to {place + 1}/{len(one.rows)}", *numbers))
            places.append(runs[one.policy])
    header = ("policy", "bin of confidence", "share of rows", "confidence", "accuracy")
    title = f"Bins of the reliability diagram on {problem.name}"
    return Table(f"{prefix}reliability", title, header, tuple(rows), tuple(places)) if rows else None
