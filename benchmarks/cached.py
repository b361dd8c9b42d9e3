"""Cached against online teacher outputs in the environment, by the depth of the teacher; all else is the same.

An online teacher runs for every batch; a cached one ran once over the train split, which takes the seconds named
*fill*. The losses of both are required to agree before anything is timed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import common
from kd_env import DistillEnv, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.teachers.outputs import teacher_outputs

TERM_SETS = {"labels": common.TERMS[:2], "all": common.TERMS}


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    teacher_layers: tuple[int, ...] = (2, 4, 8, 12)
    """Depths of the teacher."""
    terms: tuple[str, ...] = ("labels", "all")
    """Knowledge that is transferred: ``labels`` (hard and soft), ``all`` (hidden states and FSP relations too)."""
    teacher_hidden: int = 256
    """Width of the teacher."""
    layers: int = 2
    """Layers of the student."""
    hidden: int = 128
    """Width of the student."""
    vocab: int = 30522
    """Words of the vocabulary."""
    batch: int = 16
    """Rows of a batch."""
    length: int = 64
    """Tokens of every row."""
    updates_per_step: int = 2
    """Student updates in a step."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "teacher_layers": common.each(checks.whole(1)),
        "terms": common.each(checks.one_of(*TERM_SETS)),
        "teacher_hidden": checks.whole(8),
        "layers": checks.whole(1),
        "hidden": checks.whole(8),
        "vocab": checks.whole(50),
        "batch": checks.whole(1),
        "length": checks.whole(8),
        "updates_per_step": checks.whole(1),
    }


def run(options: Options) -> common.Result:
    """Measure every depth with every set of terms."""
    rows = [_cell(options, terms, depth) for terms in options.terms for depth in options.teacher_layers]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds a student update."""
    lines = [
        [
            row["terms"],
            str(row["teacher_layers"]),
            common.ms(row["online"]),
            common.ms(row["cached"]),
            f"**{row['speedup']:.2f}**",
            f"{row['fill']:.1f}",
            f"{row['loss_difference']:.0e}",
        ]
        for row in result["rows"]
    ]
    header = ["terms", "teacher layers", "online, ms an update", "cached, ms an update", "online / cached", "fill, s"]
    rows = result["rows"][0]["train_rows"]
    return (
        common.markdown([*header, "loss difference"], lines) + f"\n\n*fill*: computing the outputs of {rows} rows once."
    )


def plot(result: common.Result, path: Path) -> None:
    """Time of an update by depth."""
    figure = common.new_figure(6.0, 3.8)
    axes = figure.add_subplot()
    for index, terms in enumerate(dict.fromkeys(row["terms"] for row in result["rows"])):
        rows = sorted((row for row in result["rows"] if row["terms"] == terms), key=lambda row: row["teacher_layers"])
        depths = [row["teacher_layers"] for row in rows]
        for source, style in (("online", "x--"), ("cached", "o-")):
            times = [row[source] * 1e3 for row in rows]
            axes.plot(depths, times, style, color=f"C{index}", label=f"{source}, terms: {terms}")
    axes.set_xticks(sorted({row["teacher_layers"] for row in result["rows"]}))
    axes.set_xlabel("layers of the teacher")
    axes.set_ylabel("ms a student update")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    common.save_figure(figure, path)


def _cell(options: Options, terms: str, depth: int) -> dict[str, Any]:
    common.progress(f"cached: terms {terms}, teacher of {depth} layers")
    envs: dict[str, DistillEnv] = {}
    with tempfile.TemporaryDirectory() as folder:
        spec = common.TaskSpec(options.vocab, options.length, depth, options.teacher_hidden)
        given = common.write_task(Path(folder), spec) | {
            "student": common.student_options(options.layers, options.hidden),
            "terms": TERM_SETS[terms],
            "batch_size": options.batch,
            "updates_per_step": options.updates_per_step,
            "precision": options.precision,
            "device": options.device,
        }
        for source in ("online", "cached"):
            envs[source] = DistillEnv(build_problem(env_config(**given, teacher_source=source)))
            envs[source].reset(seed=0)
    problem = envs["cached"].problem
    signals = {signal for term in problem.reference.terms for signal in term.teacher_signals}
    encoder, precision = problem.reference.encoder, options.precision
    fill = common.clocked(lambda: teacher_outputs(encoder, problem.train, signals, precision=precision), problem.device)
    ones = np.ones(len(TERM_SETS[terms]), dtype=np.int8)
    losses = {name: [float(env.step(ones)[4]["raw_losses"].sum()) for _ in range(3)] for name, env in envs.items()}
    worst = common.require_equal("cached", losses, common.TOLERANCE[options.precision])
    found, spread = common.interleaved(
        {
            "online": common.clocked(lambda: envs["online"].step(ones), problem.device),
            "cached": common.clocked(lambda: envs["cached"].step(ones), problem.device),
        },
        options.repeats,
    )
    return {
        "terms": terms,
        "teacher_layers": depth,
        "online": found["online"] / options.updates_per_step,
        "cached": found["cached"] / options.updates_per_step,
        "speedup": found["online"] / found["cached"],
        "fill": fill(),
        "train_rows": len(problem.train),
        "spread": spread,
        "loss_difference": worst,
    }
