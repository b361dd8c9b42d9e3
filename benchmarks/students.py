"""An update of students of several kinds: cut from the teacher, whole or in part, or small on its reduced embeddings.

Every student learns from hard labels and from the cached logits of one teacher. *Update* is a step of one update
without an evaluation, *evaluated* one with an evaluation on all feedback rows; both are medians of rounds in which all
students take turns, each with the same batches. Rows are random words of one length, with a random teacher;
``data_dir`` takes SST-2 itself, with ``encoder`` (and a head drawn by seed) as the teacher.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import common
from benchmarks.teacher_set import with_heads
from kd_env import DistillEnv, build_problem
from kd_env.core import checks, trees
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    cut: tuple[int, ...] = (1, 2)
    """Layers of students that are cut from the teacher. The first is what all others are compared with."""
    trainable: tuple[str, ...] = ("all", "top1", "head")
    """Which part of those learns (``student.trainable``); *kept*: with ``cache_frozen``, in files."""
    widths: tuple[int, ...] = (64, 128)
    """Widths of fresh students with ``embedding_init=pca``."""
    layers: tuple[int, ...] = (1, 2)
    """Their layers."""
    steps: int = 8
    """Steps of a round, each of one update."""
    rows: int = 1000
    """Train rows."""
    batch: int = 16
    """Rows of a batch."""
    length: int = 32
    """Tokens of random rows; the most that real rows may have."""
    vocab: int = 30522
    """Words of random rows."""
    teacher_layers: int = 6
    """Layers of the random teacher."""
    teacher_hidden: int = 384
    """Width of the random teacher."""
    data_dir: str = ""
    """Folder of GLUE with SST-2, in place of random rows."""
    encoder: str = ""
    """Folder of the encoder that is the teacher on SST-2."""
    clock: str = "processor"
    """``processor``: the time of this process alone; or ``wall``."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        **dict.fromkeys(("cut", "layers"), common.each(checks.whole(1))),
        "trainable": common.each(checks.text),
        "widths": common.each(checks.whole(8)),
        **dict.fromkeys(("steps", "rows", "batch", "teacher_layers"), checks.whole(1)),
        **dict.fromkeys(("length", "teacher_hidden"), checks.whole(8)),
        "vocab": checks.whole(50),
        **dict.fromkeys(("data_dir", "encoder"), checks.text),
        "clock": checks.one_of(*common.CLOCKS),
    }

    def check(self) -> None:
        """See the base class; SST-2 needs its folder and an encoder."""
        super().check()
        common.check_encoder(self.data_dir, self.encoder)


def kinds(options: Options) -> dict[str, dict[str, Any]]:
    """Options of the students by name."""
    cut = {
        f"cut {count}{'' if part == 'all' else f', {part}'}{', kept' * kept}": {
            **{"init": "teacher", "num_hidden_layers": count, "trainable": part, "cache_frozen": kept}
        }
        for count in options.cut
        for part in options.trainable
        for kept in ((False,) if part == "all" else (False, True))
    }
    small = {
        f"pca {layers} x {width}": {**common.student_options(layers, width), "embedding_init": "pca"}
        for width in options.widths
        for layers in options.layers
    }
    return {**cut, **small}


def run(options: Options) -> common.Result:
    """Build all students, then time them in turn."""
    calls: dict[tuple[str, str], Callable[[], float]] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        given = (_sst2 if options.data_dir else _random)(options, Path(folder))
        for name, student in kinds(options).items():
            common.progress(f"students: {name}")
            problem = build_problem(env_config(**given, student=student, cache_dir=str(Path(folder) / "cache")))
            clock = common.CLOCKS[options.clock]
            for what, every in (("update", 0), ("evaluated", 1)):
                env = DistillEnv(problem=with_options(problem, evaluate_every=every))
                env.reset(seed=0)
                calls[name, what] = common.clocked(lambda env=env: _steps(env, options.steps), problem.device, clock)  # type: ignore[misc]
            state = env.run.started()
            rows.append(
                {
                    "student": name,
                    "trained": sum(value.numel() for value in state.params.values()),
                    "state_mib": trees.nbytes((state.params, state.exp_avg, state.exp_avg_sq)) / 2**20,
                    "tokens": float(problem.train.lengths.mean()),
                }
            )
        times = common.interleaved({" ".join(key): call for key, call in calls.items()}, options.repeats)
    for row in rows:
        for what in ("update", "evaluated"):
            row[what] = times.medians[f"{row['student']} {what}"] / options.steps
        row |= {"times": rows[0]["update"] / row["update"], "spread": times.spread}
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """One line for every student."""
    reference = result["rows"][0]["student"]
    header = ["student", "trained parameters", "state, MiB", "update, ms", f"{reference} / it", "evaluated, ms"]
    lines = [
        [
            row["student"],
            f"{row['trained']:,}",
            f"{row['state_mib']:.1f}",
            common.ms(row["update"]),
            f"**{row['times']:.2f}**",
            common.ms(row["evaluated"]),
        ]
        for row in result["rows"]
    ]
    clock = {"processor": "processor time", "wall": "wall time"}[result["facts"]["options"]["clock"]]
    note = (
        f"{result['rows'][0]['tokens']:.0f} tokens a row on average; {clock}. "
        "*state*: parameters and moments of one student, without what is frozen."
    )
    return f"{common.markdown(header, lines)}\n\n{note}"


def plot(result: common.Result, path: Path) -> None:
    """Milliseconds of every student."""
    rows = result["rows"]
    figure = common.new_figure(5.5, 0.8 + 0.45 * len(rows))
    axes = figure.subplots()
    at = np.arange(len(rows))
    for shift, what in ((-0.2, "update"), (0.2, "evaluated")):
        axes.barh(at + shift, [row[what] * 1e3 for row in rows], 0.4, label=what)
    axes.set_yticks(at, [row["student"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ms a step of one update")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, axis="x")
    common.save_figure(figure, path)


def _steps(env: DistillEnv, count: int) -> None:
    for _ in range(count):
        env.step(np.ones(env.action_space.shape, dtype=np.int8))


def _random(options: Options, folder: Path) -> dict[str, Any]:
    held_out = common.FEEDBACK_ROWS + common.SELECTION_ROWS
    sizes = (options.vocab, options.length, options.teacher_layers, options.teacher_hidden, options.rows + held_out)
    return {**common.write_task(folder, common.TaskSpec(*sizes)), **_common(options)}


def _sst2(options: Options, folder: Path) -> dict[str, Any]:
    return {
        **{"task": "sst2", "data_dir": options.data_dir, "teacher": with_heads(options.encoder, folder, 1)[0]},
        **{"max_length": options.length, "max_train_rows": options.rows, "teacher_check": "none", "gap": "divergence"},
        **{"feedback_rows": common.FEEDBACK_ROWS, "evaluation_rows": common.FEEDBACK_ROWS},
        **{"term_scale": "none", "features": common.FEATURES, "budget": 100_000},
        **_common(options),
    }


def _common(options: Options) -> dict[str, Any]:
    return {
        **{"terms": common.TERMS[:2], "batch_size": options.batch, "updates_per_step": 1, "learning_rate": 1e-4},
        **{"precision": options.precision, "device": options.device},
    }
