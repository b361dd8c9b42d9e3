"""One environment step against a hand-written PyTorch loop that does the same update, by width and length.

Both train the same student from the same start on the same batches with cached teacher outputs (hard and soft labels,
hidden states, FSP relations; AdamW fused, clipping, linear schedule). The losses are required to agree before anything
is timed. What an environment can do on top is stated apart: evaluating feedback rows at every step, and observing the
[CLS] of the next batch.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common
from benchmarks.bare import bare_loop
from kd_env import DistillEnv, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options

AIM = 1.05


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    hidden: tuple[int, ...] = (64, 128, 256)
    """Widths of the student; every pair of width and length is one cell."""
    length: tuple[int, ...] = (32, 64, 128)
    """Tokens of every row."""
    layers: int = 2
    """Layers of the student."""
    teacher_hidden: int = 128
    """Width of the 4-layer teacher, whose outputs are cached."""
    vocab: int = 30522
    """Words of the vocabulary; their embeddings are trained."""
    batch: int = 32
    """Rows of a batch."""
    updates_per_step: int = 2
    """Student updates in a step."""
    attention: str = "sdpa"
    """Attention of the bare loop: ``sdpa`` or ``eager``."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "hidden": common.each(checks.whole(8)),
        "length": common.each(checks.whole(8)),
        "layers": checks.whole(1),
        "teacher_hidden": checks.whole(8),
        "vocab": checks.whole(50),
        "batch": checks.whole(1),
        "updates_per_step": checks.whole(1),
        "attention": checks.one_of("sdpa", "eager"),
    }


def run(options: Options) -> common.Result:
    """Measure every cell."""
    rows = [_cell(options, hidden, length) for length in options.length for hidden in options.hidden]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds a step."""
    lines = [
        [
            str(row["hidden"]),
            str(row["length"]),
            common.ms(row["bare"]),
            common.ms(row["env"]),
            f"**{row['ratio']:.3f}**",
            common.ms(row["evaluated"]),
            common.ms(row["with_cls"]),
            f"{row['loss_difference']:.0e}",
        ]
        for row in result["rows"]
    ]
    header = ["hidden", "length", "bare loop, ms", "env step, ms", "ratio", "evaluated, ms", "with [CLS], ms"]
    note = (
        f"\n\n*evaluated*: {common.FEEDBACK_ROWS} feedback rows at every step; *with [CLS]*: the features of the next "
        f"batch. Aim: a ratio of at most {AIM:.2f}."
    )
    return common.markdown([*header, "loss difference"], lines) + note


def plot(result: common.Result, path: Path) -> None:
    """Time of both, and their ratio, by width."""
    figure = common.new_figure(9.0, 3.8)
    times, ratios = figure.subplots(1, 2)
    widths = sorted({row["hidden"] for row in result["rows"]})
    for index, length in enumerate(sorted({row["length"] for row in result["rows"]})):
        rows = sorted((row for row in result["rows"] if row["length"] == length), key=lambda row: row["hidden"])
        at, colour = [row["hidden"] for row in rows], f"C{index}"
        times.plot(at, [row["env"] * 1e3 for row in rows], "o-", color=colour, label=f"env step, length {length}")
        times.plot(at, [row["bare"] * 1e3 for row in rows], "x--", color=colour, label=f"bare loop, length {length}")
        ratios.plot(at, [row["ratio"] for row in rows], "o-", color=colour, label=f"length {length}")
    for axes in (times, ratios):
        axes.set_xscale("log")
        common.plain_ticks(axes.xaxis, widths)
        axes.set_xlabel("hidden size of the student")
        axes.grid(alpha=0.3)
    times.set_yscale("log")
    common.log_numbers(times.yaxis)
    times.set_ylabel("ms a step")
    ratios.axhline(AIM, color="black", linestyle=":", label=f"aim {AIM:.2f}")
    ratios.set_ylabel("env step / bare loop")
    times.legend(fontsize=7)
    ratios.legend(fontsize=7)
    common.save_figure(figure, path)


def _cell(options: Options, hidden: int, length: int) -> dict[str, Any]:
    common.progress(f"env_step: hidden {hidden}, length {length}")
    with tempfile.TemporaryDirectory() as folder:
        spec = common.TaskSpec(options.vocab, length, 4, options.teacher_hidden)
        given = common.write_task(Path(folder), spec) | {
            "student": common.student_options(options.layers, hidden),
            "batch_size": options.batch,
            "updates_per_step": options.updates_per_step,
            "precision": options.precision,
            "device": options.device,
        }
        problem = build_problem(env_config(**given))
        with_cls = DistillEnv(**{**given, "features": (*common.FEATURES, "teacher_cls", "student_cls")})
    env, evaluated = DistillEnv(problem=problem), DistillEnv(problem=with_options(problem, evaluate_every=1))
    for made in (env, evaluated, with_cls):
        made.reset(seed=0)
    start = {name: value[0].clone() for name, value in env.run.started().params.items()}
    bare = bare_loop(problem, start, options.attention)
    ones = np.ones(len(problem.term_names), dtype=np.int8)

    def next_rows() -> np.ndarray:
        rows: np.ndarray = env.run.started().next_rows[0]
        return rows

    losses: dict[str, list[float]] = {"bare": [], "env": []}
    for _ in range(3):
        losses["bare"].append(float(np.mean(bare(next_rows()))))
        losses["env"].append(float(env.step(ones)[4]["raw_losses"].sum()))
    worst = common.require_equal("env_step", losses, common.TOLERANCE[options.precision])
    device: torch.device = problem.device
    calls = {
        "bare": common.clocked(lambda: bare(next_rows()), device),
        "env": common.clocked(lambda: env.step(ones), device),
        "evaluated": common.clocked(lambda: evaluated.step(ones), device),
        "with_cls": common.clocked(lambda: with_cls.step(ones), device),
    }
    found, spread = common.interleaved(calls, options.repeats)
    return {
        "hidden": hidden,
        "length": length,
        **found,
        "ratio": found["env"] / found["bare"],
        "spread": spread,
        "loss_difference": worst,
    }
