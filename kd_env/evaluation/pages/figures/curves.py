"""Figures of what goes on over something: profiles over scores, scores over costs, trainings over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kd_env.evaluation.pages import collect
from kd_env.evaluation.pages.contents import Picture, Problem
from kd_env.evaluation.pages.figures.drawing import HATCHES, legend, legend_height, look, panels, picture
from kd_env.evaluation.statistics.verdicts import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kd_env.evaluation.statistics.profiles import Profile

MOST = 12
"""Policies in a figure of lines: the best."""


def cost_against_score(problem: Problem, png: bool, prefix: str = "") -> Picture:
    """The measure over what it costs until the first student is there, in student updates and in wall time."""
    c, found = problem.comparison, collect.costs(problem)
    timed = any(cost.learned and math.isfinite(cost.seconds) for cost in found)
    dearest = max(found, key=lambda cost: cost.total)
    caption = (
        f"Score on {c.dev_splits[0]} over the student updates of one training of the agent and of one student"
        f"{'; below, over the wall time of one training' if timed else ''} ({problem.name}). Rules need no "
        "training; what costs the same is drawn side by side."
    )
    alt = (
        f"Cost against score of {len(found)} policies; {dearest.policy} costs most, {dearest.total:,.0f} student "
        f"updates, with {c.title} {show(dearest.score)}."
    )

    beside = [[one.total for one in found[:index]].count(cost.total) for index, cost in enumerate(found)]

    def draw(figure: Figure) -> None:
        grid = panels(figure, 2 if timed else 1, below=below)
        for index, cost in enumerate(found):
            _point(grid[0], cost.total * 1.06 ** beside[index], cost, index)
            if timed and math.isfinite(cost.seconds) and cost.learned:
                _point(grid[1], cost.seconds, cost, index)
        _log_scale(grid[0])
        grid[0].set_xlabel("student updates until the first student is there")
        for axes in grid:
            axes.set_ylabel(c.title)
        if timed:
            grid[1].set_xlabel("seconds of one training")
        legend(figure, grid[0])

    below = legend_height([cost.policy for cost in found])
    return picture(f"{prefix}cost", caption, alt, draw, (5.0 if timed else 2.6) + below, png)


def _point(axes: Axes, place: float, cost: collect.Cost, index: int) -> None:
    known = math.isfinite(cost.score.low)
    reach = [[cost.score.mean - cost.score.low], [cost.score.high - cost.score.mean]] if known else None
    style = look(index, line=False)
    axes.errorbar(
        place, cost.score.mean, yerr=reach, capsize=3, label=cost.policy, fillstyle=_fill(cost.learned), **style
    )


def _log_scale(axes: Axes) -> None:
    """Whole numbers as they are read, in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def learning_curves(problem: Problem, png: bool, prefix: str = "") -> Picture | None:
    """The curve of every agent with the range of its trainings as a band; None without a log."""
    curves = collect.learning_curves(problem)
    if not curves:
        return None
    followed = list(dict.fromkeys(curve.followed for curve in curves))
    several = any(curve.trainings > 1 for curve in curves)
    caption = (
        f"Trainings of the agents ({problem.name}): mean{', band from the lowest to the highest training' * several}."
    )
    ends = "; ".join(f"{curve.policy} from {curve.mean[0]:.3f} to {curve.mean[-1]:.3f}" for curve in curves[:6])
    alt = f"Learning curves, {' and '.join(followed)}: {ends}."

    def draw(figure: Figure) -> None:
        grid = panels(figure, len(followed), below=below)
        for axes, title in zip(grid, followed, strict=True):
            for index, curve in enumerate(curves):
                if curve.followed != title:
                    continue
                style = look(index)
                spread = max(len(curve.steps) // 8, 1)
                axes.plot(curve.steps, curve.mean, markevery=spread, label=_trained(curve), **style)
                if curve.trainings > 1:
                    hatch = HATCHES[index % len(HATCHES)]
                    axes.fill_between(
                        *(curve.steps, curve.low, curve.high),
                        **{"color": style["color"], "alpha": 0.18, "hatch": hatch, "linewidth": 0.5},
                    )
            axes.set_ylabel(title)
            axes.set_xlabel("environment steps (all replicas)")
        handles = [one for axes in grid for one in axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="lower center", frameon=False, borderaxespad=0.2)

    below = 0.19 * len(curves) + 0.12
    return picture(f"{prefix}learning_curves", caption, alt, draw, 2.6 * len(followed) + below, png)


def _trained(curve: collect.Curve) -> str:
    return f"{curve.policy} ({curve.trainings} training{'' if curve.trainings == 1 else 's'})"


def profile(found: Mapping[str, Profile], title: str, name: str, png: bool) -> Picture:
    """The share of runs above every score, by policy: who is higher everywhere is better everywhere.

    Args:
        found: by policy.
        title: of the score.
        name: of the picture's files.
        png: whether the PNG is wanted.
    """
    names = sorted(found, key=lambda policy: -float(found[policy].shares.sum()))[:MOST]
    thresholds = found[names[0]].thresholds
    problems = found[names[0]].problems
    over = f", a mean over {problems} problems" if problems > 1 else ""
    caption = (
        f"Performance profiles (Agarwal et al. 2021): share of trainings and students that reach the score{over}; "
        f"higher is better. Bands: 95%. {f'The best {MOST} of {len(found)} policies.' if len(found) > MOST else ''}"
    )
    middle = len(thresholds) // 2
    said = "; ".join(f"{policy} {found[policy].shares[middle]:.0%}" for policy in names[:6])
    alt = f"Share of students that reach a {title} of {thresholds[middle]:.3f}: {said}."

    def draw(figure: Figure) -> None:
        [axes] = panels(figure, 1, below=below)
        for index, policy in enumerate(names):
            one, style = found[policy], look(index)
            axes.plot(thresholds, one.shares, markevery=max(len(thresholds) // 7, 1), label=policy, **style)
            if np.isfinite(one.low).all():
                axes.fill_between(thresholds, one.low, one.high, color=style["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel(title)
        axes.set_ylabel("share that reaches it")
        axes.set_ylim(-0.03, 1.03)
        legend(figure, axes)

    below = legend_height(names)
    return picture(name, caption, alt, draw, 2.6 + below, png)


def _fill(learned: bool) -> str:
    return "full" if learned else "none"
