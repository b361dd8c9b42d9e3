"""Students stacked on a GPU against a hand-written loop of a single student, in fp32 and bf16.

Options are those of the benchmark ``vector``: the embedded task, four knowledge terms, two updates a step. ``loop`` is
a plain PyTorch loop without environment and evaluation; N students take it N times as long. Losses of both have to
agree before anything is timed. *waits* counts how often the host waits for the device in a step, as CUDA itself tells
(``torch.cuda.set_sync_debug_mode``). Without a GPU it is refused; ``device=cpu`` tries the benchmark itself.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common, vector
from kd_env import DistillVectorEnv, Problem
from kd_env.core import checks
from kd_env.envs.process import with_options


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 10
    """Timed rounds; in each of them loop and stack take their turn. Medians are reported."""
    device: str = "cuda"
    """``cuda``, ``cuda:<n>`` or, to try the benchmark, ``cpu``."""
    hidden: tuple[int, ...] = (32, 128, 384)
    """Widths of the student."""
    replicas: tuple[int, ...] = (1, 16, 64, 256)
    """Stacked students N."""
    precisions: tuple[str, ...] = ("fp32", "bf16")
    """Of the students' passes."""
    evaluate_every: tuple[int, ...] = (0, 1)
    """Without (0) and with (1) an evaluation of feedback rows at every step."""
    layers: int = 2
    """Layers of the student."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "hidden": common.each(checks.whole(8)),
        "replicas": common.each(checks.whole(1)),
        "precisions": common.each(checks.one_of("fp32", "bf16")),
        "evaluate_every": common.each(checks.whole(0)),
        "layers": checks.whole(1),
    }

    def check(self) -> None:
        """See the base class; a device that is not there is refused before any work."""
        super().check()
        if self.device == "auto":
            raise ValueError("device='auto' could be a CPU; give device=cuda, or device=cpu to try the benchmark.")


def run(options: Options) -> common.Result:
    """Measure every cell."""
    rows = []
    for precision in options.precisions:
        given = vector.Options(
            threads=options.threads,
            repeats=options.repeats,
            device=options.device,
            precision=precision,
            hidden=options.hidden,
            replicas=options.replicas,
            modes=("loop", "stacked"),
            evaluate_every=options.evaluate_every,
            layers=options.layers,
        )
        common.progress(f"gpu: {precision}")
        rows += [{"precision": precision, **row} for row in vector.run(given)["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        problem = vector.embedded_problem(given, options.hidden[0], folder)
        waits = {every: _waits(with_options(problem, evaluate_every=every)) for every in options.evaluate_every}
    return {"rows": [{**row, "waits": waits[row["evaluate_every"]]} for row in rows], "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Updates a second, and ratios."""
    lines = [
        [
            row["precision"],
            str(row["hidden"]),
            str(row["replicas"]),
            "no" if row["evaluate_every"] == 0 else f"every {row['evaluate_every']}",
            common.ms(row["loop"]),
            common.ms(row["stacked"]),
            f"{2 * row['replicas'] / row['stacked']:,.0f}",
            f"**{row['loop'] / row['stacked']:.2f}**",
            "-" if row["waits"] is None else str(row["waits"]),
        ]
        for row in result["rows"]
    ]
    header = ["precision", "hidden", "N", "evaluated", "N x bare loop, ms", "stacked, ms", "updates a second"]
    return common.markdown([*header, "loop / stacked", "waits"], lines)


def plot(result: common.Result, path: Path) -> None:
    """Updates a second by N, one panel per width."""
    widths = list(dict.fromkeys(row["hidden"] for row in result["rows"]))
    figure = common.new_figure(3.2 * len(widths) + 0.6, 3.2)
    for axes, hidden in zip(np.atleast_1d(figure.subplots(1, len(widths), sharey=True)), widths, strict=True):
        kinds = sorted({(r["precision"], r["evaluate_every"]) for r in result["rows"]})
        for index, (precision, every) in enumerate(kinds):
            rows = [
                r
                for r in result["rows"]
                if (r["hidden"], r["precision"], r["evaluate_every"]) == (hidden, precision, every)
            ]
            rows.sort(key=lambda row: row["replicas"])
            at = [row["replicas"] for row in rows]
            label = f"{precision}{', evaluated' if every else ''}"
            axes.plot(at, [2 * r["replicas"] / r["stacked"] for r in rows], "o-", color=f"C{index}", label=label)
            axes.plot(at, [2 * r["replicas"] / r["loop"] for r in rows], "x:", color=f"C{index}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        common.log_numbers(axes.yaxis)
        common.plain_ticks(axes.xaxis, at)
        axes.set_title(f"hidden {hidden} (dotted: bare loop)", fontsize=9)
        axes.set_xlabel("replicas N")
        axes.set_ylabel("updates a second")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    common.save_figure(figure, path)


def _waits(problem: Problem) -> int | None:
    """How often the host waits for the device in a step; None where there is no GPU."""
    if problem.device.type != "cuda":
        return None
    env = DistillVectorEnv(4, problem=problem)
    env.reset(seed=0)
    ones: Any = np.ones(env.action_space.shape, dtype=env.action_space.dtype)
    for _ in range(2):  # what is made once, at first
        env.step(ones)
    torch.cuda.synchronize(problem.device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            env.step(ones)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing" in str(warning.message) for warning in told)
