"""N students at once: stacked in one process, one after another in one process, or in worker processes.

Options are those of the embedded task (batch 16, two updates a step, four knowledge terms, one layer), with and without
the evaluation of 128 feedback rows at every step. A step is a step of all N replicas; starting processes is not timed.
Workers have one thread each; ``threads`` counts for the other modes. The losses of the stacked students are required to
equal those of the singles, and those of the bare loop where it runs, before anything is timed. ``auto`` is what
``vectorization=auto`` chooses, and its ratio is the time of the better of *stacked* and *processes* over its own.

On a GPU: ``kd-env bench vector device=cuda replicas=[1,8,64,256] modes=[loop,singles,stacked]``, with
``precision=fp32`` or ``bf16``; ``loop`` is a hand-written PyTorch loop of a single student without environment and
evaluation, of which N students take N times as long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from benchmarks import common
from benchmarks.bare import bare_loop
from kd_env import DistillEnv, DistillVectorEnv, Problem, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.envs.workers import choose_vectorization, make_vector

MODES = ("loop", "singles", "stacked", "processes")
AIMS = {"singles / stacked at hidden 32, N = 16, on a CPU": 3.0, "auto": 0.95}


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 10
    """Timed rounds; in each of them every mode makes one step of all its replicas. Medians are reported."""
    hidden: tuple[int, ...] = (32, 64, 128, 384)
    """Widths of the student."""
    replicas: tuple[int, ...] = (1, 4, 16)
    """Replicas N."""
    modes: tuple[str, ...] = ("singles", "stacked", "processes")
    """What is timed: ``singles``, ``stacked``, ``processes``, ``loop`` (one student without environment, times N)."""
    evaluate_every: tuple[int, ...] = (1, 0)
    """With (1) and without (0) an evaluation of feedback rows at every step."""
    layers: int = 1
    """Layers of the student."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "hidden": common.each(checks.whole(8)),
        "replicas": common.each(checks.whole(1)),
        "modes": common.each(checks.one_of(*MODES)),
        "evaluate_every": common.each(checks.whole(0)),
        "layers": checks.whole(1),
    }


def run(options: Options) -> common.Result:
    """Measure every cell."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for hidden in options.hidden:
            problem = embedded_problem(options, hidden, folder)
            for every in options.evaluate_every:
                chosen = with_options(problem, evaluate_every=every)
                for replicas in options.replicas:
                    common.progress(f"vector: hidden {hidden}, N {replicas}, evaluate_every {every}")
                    rows.append({"hidden": hidden, "evaluate_every": every, **_cell(options, chosen, replicas)})
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds of a step of all replicas."""
    modes = [mode for mode in MODES if mode in result["rows"][0]]
    header = ["hidden", "N", "evaluated", *(f"{_label(mode)}, ms" for mode in modes)]
    ratios = [(first, "stacked") for first in ("loop", "singles") if {first, "stacked"} <= set(modes)]
    header += [f"{_label(first)} / {second}" for first, second in ratios]
    both = {"stacked", "processes"} <= set(modes)
    header += ["auto", "better / auto"] if both else []
    lines = []
    for row in result["rows"]:
        evaluated = "no" if row["evaluate_every"] == 0 else f"every {row['evaluate_every']}"
        line = [str(row["hidden"]), str(row["replicas"]), evaluated, *(common.ms(row[mode]) for mode in modes)]
        line += [f"{row[first] / row[second]:.2f}" for first, second in ratios]
        lines.append(line + ([row["auto"], f"{row['auto_ratio']:.2f}"] if both else []))
    return common.markdown(header, lines)


def plot(result: common.Result, path: Path) -> None:
    """Time of a step of all replicas by N, one panel per width and evaluation."""
    found = result["rows"]
    widths = list(dict.fromkeys(row["hidden"] for row in found))
    evaluations = list(dict.fromkeys(row["evaluate_every"] for row in found))
    figure = common.new_figure(3.0 * len(widths) + 1.0, 2.8 * len(evaluations) + 0.4)
    grid = figure.subplots(len(evaluations), len(widths), squeeze=False, sharex=True)
    for line, every in zip(grid, evaluations, strict=True):
        for axes, hidden in zip(line, widths, strict=True):
            rows = [row for row in found if (row["hidden"], row["evaluate_every"]) == (hidden, every)]
            rows.sort(key=lambda row: row["replicas"])
            at = [row["replicas"] for row in rows]
            for index, mode in enumerate(MODES):
                if mode in rows[0]:
                    times = [row[mode] * 1e3 for row in rows]
                    axes.plot(at, times, "o-", color=f"C{index}", label=_label(mode))
            axes.set_xscale("log")
            axes.set_yscale("log")
            common.log_numbers(axes.yaxis)
            common.plain_ticks(axes.xaxis, at)
            axes.set_title(f"hidden {hidden}, {'not evaluated' if every == 0 else 'evaluated'}", fontsize=9)
            axes.grid(alpha=0.3, which="both")
        line[0].set_ylabel("ms a step of all replicas")
    for axes in grid[-1]:
        axes.set_xlabel("replicas N")
    grid[0][0].legend(fontsize=8)
    common.save_figure(figure, path)


def _label(mode: str) -> str:
    return "N x bare loop" if mode == "loop" else mode


def embedded_problem(options: Options, hidden: int, folder: str) -> Problem:
    """The embedded task; its budget is so long that no episode ends while it is measured."""
    count = max(common.heads(hidden), 2 - hidden % 2)
    config = env_config(
        student={**common.student_options(options.layers, hidden), "num_attention_heads": count},
        terms=common.TERMS,
        term_scale="none",
        learning_rate=1e-3,
        budget=100_000,
        cache_dir=folder,
        precision=options.precision,
        device=options.device,
    )
    return build_problem(config)


def _cell(options: Options, problem: Problem, count: int) -> dict[str, Any]:
    ones = np.ones(len(problem.term_names), dtype=np.int8)
    many = np.tile(ones, (count, 1))
    stacked = DistillVectorEnv(count, problem=problem)
    stacked.reset(seed=0)
    # Where singles are not timed, a few are enough to be compared with.
    singles = [DistillEnv(problem=problem) for _ in range(count if "singles" in options.modes else min(count, 4))]
    for index, env in enumerate(singles):
        env.reset(seed=index)
    first = singles[0]
    bare = bare_loop(problem, {name: value[0].clone() for name, value in first.run.started().params.items()}, "sdpa")
    _require_agreement(options, stacked, singles, bare)
    calls: dict[str, Callable[[], object]] = {
        "loop": lambda: bare(first.run.started().next_rows[0]),
        "singles": lambda: [env.step(ones) for env in singles],
        "stacked": lambda: stacked.step(many),
    }
    auto = choose_vectorization("auto", device=problem.device, arithmetic=problem.arithmetic, num_envs=count)
    workers: VectorEnv[Any, Any, Any] | None = None
    try:
        if "processes" in options.modes:
            workers = processes = make_vector(problem.config, count, "processes", problem)
            torch.set_num_threads(options.threads)  # workers are made with one thread, a probe of them in this process
            processes.reset(seed=0)
            calls["processes"] = lambda: processes.step(many)
        timed = {mode: common.clocked(calls[mode], problem.device) for mode in options.modes}
        found, spread = common.interleaved(timed, options.repeats)
    finally:
        if workers is not None:
            workers.close()
    if "loop" in found:
        found["loop"] *= count
    row: dict[str, Any] = {"replicas": count, **found, "auto": auto, "spread": spread}
    if {"stacked", "processes"} <= set(found):
        row["auto_ratio"] = min(found["stacked"], found["processes"]) / found[auto]
    return row


def _require_agreement(
    options: Options,
    stacked: DistillVectorEnv,
    singles: list[DistillEnv],
    bare: Callable[[np.ndarray], list[float]],
) -> None:
    ones = np.ones(len(stacked.term_names), dtype=np.int8)
    losses: dict[str, list[float]] = {"singles": [], "stacked": []}
    loop: dict[str, list[float]] = {"singles": [], "loop": []}
    for _ in range(2):
        together = stacked.step(np.tile(ones, (stacked.num_envs, 1)))[4]["raw_losses"]
        losses["stacked"] += together.sum(-1)[: len(singles)].tolist()
        loop["loop"].append(float(np.mean(bare(singles[0].run.started().next_rows[0]))))
        each = [float(env.step(ones)[4]["raw_losses"].sum()) for env in singles]
        losses["singles"] += each
        loop["singles"].append(each[0])
    for compared in (losses, loop):
        common.require_equal("vector", compared, common.TOLERANCE[options.precision])
