"""What samples of the evaluated feedback rows cost, and how much noise they bring into the reward of a step.

N students are trained with knowledge terms at random, with the same ones under every way to evaluate them, so that they
are the same students, and rewards (``loss_drop``) differ by the rows that are read alone. *all*: ``evaluation_rows`` at
every step; *fixed*: the first of them, always the same; *level*: samples drawn anew at every step, whose losses are
compared (``sample_paired`` false); *paired*: the same rows before and after an update, drawn anew at every step, or
*kept* for ``kept`` of them.

Without ``encoder`` the task is the embedded one with ``label_noise``. With ``encoder`` and ``data_dir`` it is a GLUE
task, whose students are the encoder's first ``layers`` layers under new heads and learn from labels alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import common
from benchmarks.teacher_set import with_heads
from kd_env import DistillVectorEnv, Problem, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 3
    """Episodes, each with other students and actions."""
    steps: int = 40
    """Steps of an episode, of two updates each."""
    students: int = 16
    """Students N."""
    evaluation_rows: int = 128
    """Feedback rows that are evaluated."""
    samples: tuple[int, ...] = (32, 64)
    """Rows of a sample."""
    kept: int = 5
    """Steps for which a sample is kept in the last way."""
    label_noise: float = 0.4
    """Share of wrong train labels."""
    layers: int = 1
    """Layers of the student."""
    task: str = "sst2"
    """GLUE task, with ``data_dir`` and ``encoder``."""
    data_dir: str = ""
    """Folder of the GLUE task; empty for the embedded one."""
    encoder: str = ""
    """Encoder of the GLUE task."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "steps": checks.whole(2),
        "students": checks.whole(2),
        "evaluation_rows": checks.whole(2),
        "samples": common.each(checks.whole(1)),
        "kept": checks.whole(2),
        "label_noise": checks.within(0.0, 1.0),
        "layers": checks.whole(1),
        "task": checks.text,
        "data_dir": checks.text,
        "encoder": checks.text,
    }

    def check(self) -> None:
        """See the base class; a GLUE task needs its folder and an encoder, and samples are smaller than the whole."""
        super().check()
        common.check_encoder(self.data_dir, self.encoder)
        if max(self.samples) >= self.evaluation_rows:
            raise ValueError(
                f"samples={list(self.samples)} have to be smaller than evaluation_rows={self.evaluation_rows}."
            )


def run(options: Options) -> common.Result:
    """Measure every way."""
    with tempfile.TemporaryDirectory() as folder:
        problems = _problems(options, Path(folder))
        episodes = [_episode(options, problems, seed) for seed in range(options.repeats)]
    everything = np.stack([rewards["all"] for rewards, _ in episodes])  # [episodes, steps, N]
    spread = float(everything[:, :-1].std(-1).mean())
    rows = []
    for (way, size), problem in problems.items():
        name = f"{way} {size}" if size else way
        errors = np.stack([rewards[name] for rewards, _ in episodes]) - everything
        seconds = [s for _, times in episodes for s in times[name]]
        kept = problem.config.sample_steps
        read = size * (1 + 1 / kept if problem.config.sample_paired and way != "fixed" else 1)
        rows.append(
            {
                "way": way,
                "rows": size or options.evaluation_rows,
                "read": read or options.evaluation_rows,
                "seconds": float(np.median(seconds)),
                "noise": float(np.sqrt((errors[:, :-1] ** 2).mean())),
                "shared": float(np.sqrt((errors[:, :-1].mean(-1) ** 2).mean())),
                "last": float(np.sqrt((errors[:, -1] ** 2).mean())),
                "students": spread,
                "spread": common.spread(seconds),
            }
        )
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Cost of a step, and noise of its reward beside what students differ by."""
    rows = result["rows"]
    lines = [
        [
            row["way"],
            str(row["rows"]),
            f"{row['read']:.0f}",
            common.ms(row["seconds"]),
            *(f"{1e3 * row[name]:.2f}" for name in ("noise", "shared", "last")),
            f"{row['noise'] / row['students']:.2f}",
        ]
        for row in rows
    ]
    head = ["way", "rows", "read a step", "ms a step", "noise", "of their mean", "last reward", "noise / students"]
    note = (
        "\n\nThousandths of a nat, root mean squares of the difference to the reward of all rows. *Of their mean*: of "
        f"the mean over the students of an episode. Rewards of students differ by {1e3 * rows[0]['students']:.2f} (one "
        "standard deviation within a step). Times are medians; of processor time on a CPU."
    )
    return common.markdown(head, lines) + note


def plot(result: common.Result, path: Path) -> None:
    """Noise against the time of a step."""
    figure = common.new_figure(5.0, 3.5)
    axes = figure.subplots()
    for way in dict.fromkeys(row["way"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["way"] == way]
        noises = [row["noise"] / row["students"] for row in rows]
        axes.plot([1e3 * row["seconds"] for row in rows], noises, "o-", label=way)
    axes.set_xlabel("ms a step")
    axes.set_ylabel("noise / differences between students")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    common.save_figure(figure, path)


def _problems(options: Options, folder: Path) -> dict[tuple[str, int], Problem]:
    """Every way with its sizes; 0 is of all rows."""
    given: dict[str, Any] = {
        "reward": "loss_drop",
        "budget": 2 * options.steps,
        "feedback_rows": options.evaluation_rows,
        "label_noise": options.label_noise,
        "precision": options.precision,
        "device": options.device,
    }
    if options.encoder:
        [teacher] = with_heads(options.encoder, folder, 1)
        given |= {
            "task": options.task,
            "data_dir": options.data_dir,
            "teacher": teacher,
            "teacher_check": "none",  # a head that was drawn by seed, which nothing here listens to
            "cache_dir": str(folder / "cache"),
            "terms": ["hard_label"],
            "student": {"init": "teacher", "num_hidden_layers": options.layers},
            "max_length": 64,
            "max_train_rows": 2048,
        }
    else:
        given["student"] = {"num_hidden_layers": options.layers}
    whole = build_problem(env_config(**given, evaluation_rows=options.evaluation_rows))
    problems = {("all", 0): whole}
    for size in options.samples:
        problems["fixed", size] = build_problem(env_config(**given, evaluation_rows=size))
        for way, use in (
            ("level", {"sample_paired": False}),
            ("paired", {}),
            (f"paired, kept {options.kept}", {"sample_steps": options.kept}),
        ):
            problems[way, size] = with_options(whole, evaluation_sample=size, **use)
    return problems


def _episode(
    options: Options, problems: Mapping[tuple[str, int], Problem], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Rewards ``[steps, N]`` of every way, which take turns, and the seconds of its steps but the last."""
    common.progress(f"sampled_rewards: episode {seed + 1} of {options.repeats}")
    envs = {
        f"{way} {size}" if size else way: DistillVectorEnv(options.students, problem=problem, autoreset_mode="disabled")
        for (way, size), problem in problems.items()
    }
    rewards: dict[str, list[np.ndarray]] = {name: [] for name in envs}
    seconds: dict[str, list[float]] = {name: [] for name in envs}
    for env in envs.values():
        env.reset(seed=[1000 * seed + student for student in range(options.students)])
    envs["all"].action_space.seed(seed)
    device = problems["all", 0].device
    for _ in range(options.steps):
        actions = envs["all"].action_space.sample()
        for name, env in envs.items():

            def step(name: str = name, env: DistillVectorEnv = env, actions: Any = actions) -> None:
                rewards[name].append(env.step(actions)[1])

            timer = time.process_time if device.type == "cpu" else time.perf_counter
            seconds[name].append(common.clocked(step, device, timer)())
    for env in envs.values():
        env.close()
    return {name: np.stack(found) for name, found in rewards.items()}, {n: found[:-1] for n, found in seconds.items()}
