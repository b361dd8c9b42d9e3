"""Pictures as PNG bytes, drawn without pyplot: no global state, no display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_env.evaluation.judging.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(history: Sequence[Mapping[str, float]]) -> bytes:
    """Mean return (band: one standard deviation over episodes) and, where recorded, gap closed over environment steps.

    Of an agent that says no return its ``reward`` is shown, a mean over what it learned from. Where the return is the
    gap closed, there is one line.

    Args:
        history: one mapping per rollout with ``timesteps`` and ``reward`` or, where episodes ended, ``return_mean``,
            ``return_std``; ``gap_closed`` in either.
    """
    measure = "return_mean" if any("return_mean" in point for point in history) else "reward"
    points = [point for point in history if measure in point]
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    steps = np.array([point["timesteps"] for point in points])
    means = np.array([point[measure] for point in points])
    spread = np.array([point.get("return_std", 0.0) for point in points])
    gaps = [(point["timesteps"], point["gap_closed"]) for point in points if "gap_closed" in point]
    same = len(gaps) == len(points) and np.allclose(means, [gap for _, gap in gaps], rtol=1e-5, atol=1e-8)
    label = "return" if measure == "return_mean" else "reward of an update"
    axes.plot(steps, means, marker=".", label=f"{label}: gap closed (feedback split)" if same else label)
    axes.fill_between(steps, means - spread, means + spread, alpha=0.2)
    if gaps and not same:
        axes.plot(*zip(*gaps, strict=True), "--", marker=".", label="gap closed (feedback split)")
    axes.set_xlabel("environment steps (all replicas)")
    if measure == "return_mean":
        axes.set_ylabel("per episode")
    band = "; band: one standard deviation over episodes" if measure == "return_mean" else ""
    axes.set_title(f"Training of the agent{band}")
    axes.grid(alpha=0.3)
    axes.legend()
    return as_png(figure)


def weights_over_time(evaluation: Evaluation) -> bytes:
    """Applied weight of every term over the steps of a distillation, one panel per policy, mean over the students.

    Where updates were scaled or skipped, their mean factor is the dotted line.
    """
    results = list(evaluation.policies.values())
    columns = min(3, len(results))
    lines = -(-len(results) // columns)
    figure = new_figure(4.2 * columns, 2.6 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(results) :]:
        axes.set_axis_off()
    for axes, result in zip(grid.flat, results, strict=False):
        over_time = result.weights_over_time
        for index, term in enumerate(evaluation.term_names):
            # Equal weights lie on one another: the first lines are the widest, so that all of them are seen.
            width = 1.5 + 1.5 * (len(evaluation.term_names) - 1 - index)
            axes.plot(over_time[:, index], color=f"C{index % 10}", linewidth=width, label=term)
        scale = np.nanmean(result.update_scale, axis=1)
        if not np.allclose(scale, 1.0):
            axes.plot(scale, ":", color="black", label="update scale")
        axes.set_title(result.name + (" (trained)" if result.learned else ""), fontsize=9)
        axes.set_ylim(-0.05, 1.05)
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for row in grid:
        row[0].set_ylabel("mean weight")
    handles = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8)
    return as_png(figure)


def traces_over_time(evaluation: Evaluation) -> bytes:
    """What was followed beside the weights, over the updates: one panel each, one line per policy, means over students.

    Trained policies are drawn thick.
    """
    results = [result for result in evaluation.policies.values() if result.traces]
    titles = list(dict.fromkeys(title for result in results for title in result.traces))
    figure = new_figure(5.0 * len(titles) + 1.5, 3.6)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        for index, result in enumerate(one for one in results if title in one.traces):
            mean = np.nanmean(result.traces[title], axis=1)
            width = 2.5 if result.learned else 1.2
            marker = "." if len(mean) == 1 else ""
            axes.plot(mean, color=f"C{index % 10}", linewidth=width, marker=marker, label=result.name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7)
    return as_png(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
