"""An evaluated step of stacked students with the calibrated gap against one without temperatures.

Both train the same students of the embedded task from the same start on the same batches; the losses of training are
required to agree before anything is timed. What differs is one temperature a student and step, fitted on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common
from kd_env import DistillVectorEnv, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options

AIM = 1.03


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    replicas: tuple[int, ...] = (1, 16, 64)
    """Stacked students."""
    updates_per_step: int = 2
    """Student updates in a step; each step is evaluated on 128 feedback rows."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "replicas": common.each(checks.whole(1)),
        "updates_per_step": checks.whole(1),
    }


def run(options: Options) -> common.Result:
    """Measure every number of replicas."""
    problem = build_problem(
        env_config(
            terms=["hard_label", "soft_label"],
            updates_per_step=options.updates_per_step,
            budget=100_000,  # no episode ends while it is measured
            precision=options.precision,
            device=options.device,
        )
    )
    problems = {gap: with_options(problem, gap=gap) for gap in ("labels", "calibrated")}
    rows = [_cell(options, problems, count) for count in options.replicas]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds a step."""
    lines = [
        [
            str(row["replicas"]),
            common.ms(row["labels"]),
            common.ms(row["calibrated"]),
            f"**{row['ratio']:.3f}** [{row['low']:.3f}, {row['high']:.3f}]",
        ]
        for row in result["rows"]
    ]
    note = f"\n\nMedian of paired rounds, in brackets their quartiles. Aim: a ratio of at most {AIM:.2f}."
    return common.markdown(["replicas", "gap=labels, ms", "gap=calibrated, ms", "ratio"], lines) + note


def plot(result: common.Result, path: Path) -> None:
    """The ratio by the number of replicas."""
    figure = common.new_figure(5.0, 3.5)
    axes = figure.subplots()
    at = [row["replicas"] for row in result["rows"]]
    axes.plot(at, [row["ratio"] for row in result["rows"]], "o-")
    axes.axhline(AIM, color="black", linestyle=":", label=f"aim {AIM:.2f}")
    axes.set_xscale("log")
    common.plain_ticks(axes.xaxis, at)
    axes.set_xlabel("stacked students")
    axes.set_ylabel("calibrated / labels")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    common.save_figure(figure, path)


def _cell(options: Options, problems: dict[str, Any], count: int) -> dict[str, Any]:
    common.progress(f"gap: {count} students")
    envs = {gap: DistillVectorEnv(count, problem=problem) for gap, problem in problems.items()}
    actions = np.ones((count, 2), dtype=np.int8)
    losses: dict[str, list[float]] = {gap: [] for gap in envs}
    for gap, env in envs.items():
        env.reset(seed=0)
        for _ in range(3):
            losses[gap].append(float(env.step(actions)[4]["raw_losses"].sum()))
    common.require_equal("gap", losses, common.TOLERANCE[options.precision])
    device: torch.device = problems["labels"].device
    calls = {gap: common.clocked(lambda env=env: env.step(actions), device) for gap, env in envs.items()}
    rounds = [{gap: call() for gap, call in calls.items()} for _ in range(options.repeats + 1)][1:]
    ratios = [each["calibrated"] / each["labels"] for each in rounds]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    medians = {gap: float(np.median([each[gap] for each in rounds])) for gap in envs}
    spread = max(common.spread([each[gap] for each in rounds]) for gap in envs)
    return {"replicas": count, **medians, "ratio": middle, "low": low, "high": high, "spread": spread}
