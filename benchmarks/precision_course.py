"""How far losses in bf16 go from those in fp32: the same students, rows and updates in both.

Students learn by all knowledge terms of the environment, from the same seeds. Without ``encoder`` the task is the
embedded one, with a fresh student. With ``encoder`` and ``data_dir`` it is a GLUE task, whose student is the encoder's
first ``layers`` layers and whose teacher is all of it; heads are drawn by seed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import common
from benchmarks.teacher_set import with_heads
from kd_env import DistillEnv, Problem, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 2
    """Episodes, of the seeds 0, 1, ..."""
    other: str = "bf16"
    """What ``precision`` is compared with: ``bf16`` or ``fp32``."""
    updates: int = 80
    """Updates of an episode, two a step, each step with an evaluation."""
    layers: int = 1
    """Layers of the student."""
    rows: int = 1024
    """Train rows of a GLUE task."""
    task: str = "sst2"
    """GLUE task, with ``data_dir`` and ``encoder``."""
    data_dir: str = ""
    """Folder of the GLUE task; empty for the embedded one."""
    encoder: str = ""
    """Encoder of the GLUE task."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "other": checks.one_of("bf16", "fp32"),
        "updates": checks.whole(2),
        "layers": checks.whole(1),
        "rows": checks.whole(16),
        **dict.fromkeys(("task", "data_dir", "encoder"), checks.text),
    }

    def check(self) -> None:
        """See the base class; a GLUE task needs its folder and an encoder."""
        super().check()
        common.check_encoder(self.data_dir, self.encoder)


def run(options: Options) -> common.Result:
    """Both courses of every episode."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        teacher = with_heads(options.encoder, Path(folder), 1)[0] if options.encoder else None
        plain, other = (_problem(options, teacher, precision) for precision in (options.precision, options.other))
        for seed in range(options.repeats):
            common.progress(f"precision_course: episode {seed + 1} of {options.repeats}")
            (losses, evaluated), (others, others_evaluated) = (_course(problem, seed) for problem in (plain, other))
            apart = np.abs(others - losses) / losses
            rows.append(
                {
                    "seed": seed,
                    "course": apart.tolist(),
                    "mean": float(apart.mean()),
                    "largest": float(apart.max()),
                    "evaluated": float(np.abs(others_evaluated - evaluated).max()),
                    "end": float(evaluated[-1]),
                    "spread": 0.0,  # nothing is timed
                }
            )
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Distances of every episode."""
    lines = [
        [
            str(row["seed"]),
            *(f"{row[name]:.2%}" for name in ("mean", "largest")),
            *(f"{row[name]:.4f}" for name in ("evaluated", "end")),
        ]
        for row in result["rows"]
    ]
    note = "\n\nOf all losses' sum, relative to the first precision; *e*: on feedback rows, largest difference and end."
    return common.markdown(["seed", "mean", "largest", "*e*", "*e* at the end"], lines) + note


def plot(result: common.Result, path: Path) -> None:
    """The distance after every step."""
    figure = common.new_figure(5.0, 3.5)
    axes = figure.subplots()
    for row in result["rows"]:
        axes.plot(np.arange(1, len(row["course"]) + 1), row["course"], label=f"seed {row['seed']}")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative difference of losses")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    common.save_figure(figure, path)


def _problem(options: Options, teacher: str | None, precision: str) -> Problem:
    given: dict[str, Any] = {"budget": options.updates, "precision": precision, "device": options.device}
    if teacher is None:
        given["student"] = {"num_hidden_layers": options.layers}
    else:
        given |= {
            **{"task": options.task, "data_dir": options.data_dir, "teacher": teacher, "gap": "labels"},
            "teacher_check": "none",  # a head that was drawn by seed knows nothing of the labels
            "student": {"init": "teacher", "num_hidden_layers": options.layers},
            **{"max_length": 64, "max_train_rows": options.rows},
        }
    return build_problem(env_config(**given))


def _course(problem: Problem, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the terms' losses, and feedback losses, of every step."""
    env = DistillEnv(problem=problem)
    env.reset(seed=seed)
    losses, evaluated, ended = [], [], False
    while not ended:
        _, _, terminated, truncated, info = env.step(np.ones(env.action_space.shape, dtype=np.int8))
        losses.append(float(info["raw_losses"].sum()))
        evaluated.append(float(info["loss"]))
        ended = terminated or truncated
    return np.array(losses), np.array(evaluated)
