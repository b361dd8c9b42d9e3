"""Figures of what was chosen over the course of a distillation, as heat maps whose shades print in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_env.core.types import Floats
from kd_env.evaluation.pages import collect
from kd_env.evaluation.pages.contents import Picture, Problem
from kd_env.evaluation.pages.figures.drawing import WIDTH, legend, legend_height, look, panels, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
"""Policies in a heat map: what was trained first, then rules that change over time."""

_LETTERS = 18
"""Of a name beside a heat map."""


def chosen_over_time(problem: Problem, png: bool, prefix: str = "") -> Picture | None:
    """The mean weight of every term (or teacher) at every step, a panel for each policy; None where none are set."""
    courses = collect.courses(problem)
    changing = [course for course in courses if not course.learned and np.ptp(course.weights, axis=0).max() > 1e-6]
    shown = [*(course for course in courses if course.learned), *changing][:MOST] or courses[:1]
    if not shown:
        return None
    steady = sorted({course.policy for course in courses} - {course.policy for course in shown})
    top = max(1.0, *(float(course.weights.max()) for course in shown))
    low = min(0.0, *(float(course.weights.min()) for course in shown))
    caption = (
        f"Weight of each term over the steps of a distillation, a mean over trainings and students ({problem.name}): "
        f"dark is much.{f' Not drawn, since they do not change: {_list(steady)}.' if steady else ''}"
    )
    said = "; ".join(f"{course.policy} mostly {_most(course)}" for course in shown)
    alt = f"Heat maps of the weights of {', '.join(shown[0].names)} over the steps: {said}."
    names = len(shown[0].names)
    left = 0.07 * max(min(len(name), _LETTERS) for name in shown[0].names) + 0.2
    height = (0.17 * names + 0.55) * len(shown) + 0.3

    def draw(figure: Figure) -> None:
        grid = panels(figure, len(shown), left=left, right=0.85, top=0.27, gap=0.42)
        for axes, course in zip(grid, shown, strict=True):
            shades = course.weights.T
            image = axes.imshow(shades, "Greys", aspect="auto", vmin=low, vmax=top, interpolation="nearest")
            axes.set_yticks(range(names), [name[:_LETTERS] for name in course.names], fontsize=8)
            axes.set_title(course.policy, loc="left")
            axes.grid(visible=False)
        grid[-1].set_xlabel("step")
        bar = figure.add_axes((1 - 0.7 / WIDTH, 0.5 / height, 0.12 / WIDTH, 1 - 0.8 / height))
        figure.colorbar(image, cax=bar, label="mean weight")

    return picture(f"{prefix}course", caption, alt, draw, height, png)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _most(course: collect.Course) -> str:
    means = course.weights.mean(axis=0)
    return f"{course.names[int(means.argmax())]} ({means.max():.2f})"


def traces(problem: Problem, png: bool, prefix: str = "") -> Picture | None:
    """What else was followed over the updates of a distillation; None where nothing was."""
    caption = f"Followed over the updates of a distillation, means over trainings and students ({problem.name})."
    return _curves(problem, collect.traces(problem), "update", f"{prefix}traces", caption, png)


def term_losses(problem: Problem, png: bool, prefix: str = "") -> Picture | None:
    """The loss of every term over the steps of a distillation; None where none was recorded."""
    caption = (
        f"Loss of each term on the batches of a distillation, before its weight, means over trainings and students "
        f"({problem.name}). Gaps: steps in which no student was updated."
    )
    found = collect.term_losses(problem)
    kept = [entry.policy for entry in problem.comparison.entries if entry.learned]
    kept += [entry.policy for entry in problem.comparison.entries if not entry.learned and not entry.extra_labels]
    shown = {
        f"loss of {term}": {policy: values for policy, values in by_policy.items() if policy in kept[:MOST]}
        for term, by_policy in found.items()
    }
    return _curves(problem, shown, "step", f"{prefix}term_losses", caption, png)


def _curves(
    problem: Problem, found: Mapping[str, Mapping[str, Floats]], axis: str, name: str, caption: str, png: bool
) -> Picture | None:
    """A panel for each title with a line for each policy; None where there is no title."""
    if not found:
        return None
    names = [entry.policy for entry in problem.comparison.entries]
    drawn = list(next(iter(found.values())))
    alt = f"Curves over the {axis}s of a distillation: {', '.join(found)}."

    def draw(figure: Figure) -> None:
        grid = panels(figure, len(found), below=below)
        for axes, (title, by_policy) in zip(grid, found.items(), strict=True):
            for policy, values in by_policy.items():
                every = max(len(values) // 7, 1)
                axes.plot(values, markevery=every, label=policy, **look(names.index(policy)))
            axes.set_ylabel(title)
            axes.set_xlabel(axis)
        legend(figure, grid[0])

    below = legend_height(drawn)
    return picture(name, caption, alt, draw, 2.4 * len(found) + below, png)
