"""Pictures of comparisons."""

from __future__ import annotations

import numpy as np

from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.reports.plots import as_png, new_figure


def trainings_and_rules(comparison: Comparison) -> bytes:
    """The measure of every training (dots) with the mean and its interval, agents one below the other; rules are lines.

    One panel per dev split. Rules that saw feedback labels are dashed, bounds dotted.
    """
    agents = [entry for entry in comparison.entries if entry.learned]
    rules = [entry for entry in comparison.entries if not entry.learned]
    splits = comparison.dev_splits
    figure = new_figure(5.0 * len(splits) + 3.0, max(0.55 * len(agents) + 1.6, 0.2 * len(rules) + 1.0, 2.4))
    panels = figure.subplots(1, len(splits), squeeze=False, sharey=True)[0]
    for axes, split in zip(panels, splits, strict=True):
        for index, rule in enumerate(rules):
            mean = getattr(rule, comparison.measure)[split].mean
            style = ":" if rule.bound else "--" if rule.extra_labels else "-"
            axes.axvline(mean, linestyle=style, color=f"C{index % 10}", linewidth=1.2, label=rule.policy)
        for index, agent in enumerate(agents):
            values = agent.values[split]
            # Spread by a fixed pattern, so that equal trainings are seen as several.
            offsets = index + 0.12 * np.cos(np.pi * np.arange(len(values)))
            axes.plot(values, offsets, "o", color="black", markersize=4, alpha=0.6)
            interval = getattr(agent, comparison.measure)[split]
            half = interval.half_width if np.isfinite(interval.half_width) else 0.0
            axes.errorbar(interval.mean, index, xerr=half, fmt="D", color="black", markersize=6, capsize=4, zorder=3)
        axes.set_xlabel(f"{comparison.measure.replace('_', ' ')} ({split})")
        axes.set_yticks(range(len(agents)), [f"{a.policy} ({a.units})" for a in agents], fontsize=8)
        axes.set_ylim(len(agents) - 0.5 if agents else 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(
        "Dots: trainings (how many in brackets); diamond: mean, 95% interval over trainings and seeds; lines: rules",
        fontsize=9,
    )
    if rules:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=7)
    return as_png(figure)
