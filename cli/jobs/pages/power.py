"""``kd-env power``: the smallest difference that a study of another size would find, from the runs of a pilot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.jobs.compare import find_runs, read_runs
from cli.settings.options import split_folders, whole

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.runs import Run


def power(overrides: Sequence[str], command: str) -> None:
    """``kd-env power runs/pilot-* [trainings=[5,10] seeds=30]``; prints a table.

    The spreads are those of the gap closed on the selection split: before the study a pilot says nothing of dev.

    Raises:
        ValueError: no run, runs that cannot be compared, no rule, or fewer than two trainings or seeds.
    """
    from rich.console import Console
    from rich.table import Table

    from kd_env.evaluation.comparing.compare import compare
    from kd_env.evaluation.comparing.hypotheses import values_of
    from kd_env.evaluation.judging.results import SELECTION
    from kd_env.evaluation.statistics.power import planned_difference

    options, patterns = split_folders("power", overrides)
    counts = options["trainings"] if isinstance(options["trainings"], list) else [options["trainings"]]
    trainings, seeds = [whole("trainings", count, 2) for count in counts], whole("seeds", options["seeds"], 2)
    runs = read_runs(find_runs(patterns))
    comparison = compare(runs)
    if comparison.best_rule is None:
        raise ValueError("A difference needs a rule, and no run here judged one: leave evaluation.rules as it is.")
    table = Table(title=f"{comparison.facts['task']}: detectable with {seeds} seeds", title_justify="left")
    for title in ("agent", "minus", "pilot", "on selection", *(f"{count} trainings" for count in trainings)):
        table.add_column(title, justify="left" if title in ("agent", "minus") else "right")
    rule = values_of(runs, comparison.best_rule, SELECTION)
    for agent in _agents(runs):
        values = values_of(runs, agent, SELECTION)
        if len(values) < 2:
            raise ValueError(
                f"{agent} has one training here, and a pilot needs two to know how trainings differ: train once more, "
                "with another seed."
            )
        found = planned_difference(values, rule, trainings, seeds)
        cells = [f"{found[count]:.3f}" if math.isfinite(found[count]) else "-" for count in trainings]
        size = f"{values.shape[0]} x {values.shape[1]}"
        table.add_row(agent, comparison.best_rule, size, f"{values.mean() - rule.mean():+.3f}", *cells)
    console = Console()
    (console if console.is_terminal else Console(width=max(console.width, 200))).print(table)
    console.print(
        "In gap closed, with a power of 0.8 at a level of 0.95, if spreads are those of the pilot on the selection "
        "split. A small pilot knows them badly.",
        highlight=False,
    )


def _agents(runs: Sequence[Run]) -> list[str]:
    """Agents that learned, none under a control."""
    return list(dict.fromkeys(run.agent for run in runs if run.control == "none" and not run.searched))
