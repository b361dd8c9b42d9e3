"""What a set of cached teachers costs: disk, memory that reading it takes, and time of a step against one teacher.

Rows are random words with lengths like those of MRPC (53 tokens on average), teachers are random; ``data_dir`` takes
MRPC itself, with ``encoder`` (and heads drawn by seed) as every teacher. Every teacher keeps two hidden layers for real
tokens in half precision. *Growth* is the most that resident memory rises while a fresh process reads one epoch of
batches from all teachers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common, growth
from kd_env import DistillEnv, build_problem
from kd_env.core import checks, processes
from kd_env.core.files import atomic_write
from kd_env.data.tables import draw, start_stream
from kd_env.decisions.options import env_config
from kd_env.mdp.problem import Problem
from kd_env.models.pretrained import load_encoder, load_tokenizer

DISK_AIM, GROWTH_AIM, STEP_AIM = 1024, 300, 1.25
"""MiB on disk, MiB of resident memory, and a step's time over that with the first number of teachers."""
MEAN_LENGTH, LENGTH_SPREAD, SHORTEST = 53, 13, 16
"""Tokens of MRPC rows: mean, standard deviation, and about the least."""


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    teachers: tuple[int, ...] = (1, 3)
    """Numbers of teachers. The first is what the others are compared with."""
    rows: int = 2936
    """Train rows."""
    max_length: int = 128
    """Tokens that a row may have."""
    teacher_layers: int = 6
    """Layers of a teacher; the middle one and the last are kept."""
    teacher_hidden: int = 384
    """Width of a teacher."""
    hidden: int = 384
    """Width of the student, which has two layers."""
    vocab: int = 30522
    """Words of the vocabulary."""
    batch: int = 16
    """Rows of a batch."""
    data_dir: str = ""
    """Folder of GLUE with MRPC, in place of random rows."""
    encoder: str = ""
    """Folder of the encoder that is every teacher on MRPC; it gives layers and width, too."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "teachers": common.each(checks.whole(1)),
        "rows": checks.whole(1),
        "max_length": checks.whole(SHORTEST),
        "teacher_layers": checks.whole(2),
        "teacher_hidden": checks.whole(8),
        "hidden": checks.whole(8),
        "vocab": checks.whole(50),
        "batch": checks.whole(1),
        "data_dir": checks.text,
        "encoder": checks.text,
    }

    def check(self) -> None:
        """See the base class; MRPC needs its folder and an encoder, and there must be a full batch."""
        super().check()
        common.check_encoder(self.data_dir, self.encoder)
        if self.rows < self.batch:
            raise ValueError(f"rows={self.rows} is less than batch={self.batch}: no batch would be full.")


def run(options: Options) -> common.Result:
    """Build, measure the files, read them in a fresh process, and time steps that take turns."""
    names = [f"teachers {count}" for count in options.teachers]
    with tempfile.TemporaryDirectory() as folder:
        given, teachers = (_mrpc if options.data_dir else _random)(options, Path(folder))
        rows, envs, losses = [], {}, {}
        for name, count in zip(names, options.teachers, strict=True):
            common.progress(f"teacher_set: {name}")
            cache = Path(folder) / f"cache-{count}"
            mine = {**given, "teachers": teachers[:count], "cache_dir": str(cache)}
            found: list[Problem] = []
            timed = common.clocked(lambda mine=mine, found=found: found.append(_build(mine)), torch.device("cpu"))  # type: ignore[misc]
            build, opened = timed(), timed()
            envs[name] = DistillEnv(problem=found[-1])
            envs[name].reset(seed=0)
            losses[name] = _step(envs[name])["raw_losses"][: len(given["terms"])].tolist()
            disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            rows.append(
                {
                    "teachers": count,
                    "build": build,
                    "open": opened,
                    "disk_mib": disk / 2**20,
                    "growth_mib": _in_child(options, mine),
                }
            )
        worst = common.require_equal("teacher_set", losses, common.TOLERANCE[options.precision])
        calls = {
            name: common.clocked(lambda env=env: _step(env), env.problem.device)  # type: ignore[misc]
            for name, env in envs.items()
        }
        times = common.interleaved(calls, options.repeats)
    for name, row in zip(names, rows, strict=True):
        step = times.medians[name]
        row |= {"step": step, "ratio": step / times.medians[names[0]], "spread": times.spread, "loss_difference": worst}
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """One line for every number of teachers."""
    lines = [
        [
            str(row["teachers"]),
            f"{row['build']:.1f}",
            f"{row['open']:.1f}",
            f"{row['disk_mib']:.0f}",
            f"{row['growth_mib']:.0f}",
            common.ms(row["step"]),
            f"**{row['ratio']:.3f}**",
            f"{row['loss_difference']:.0e}",
        ]
        for row in result["rows"]
    ]
    header = ["teachers", "build, s", "open, s", "disk, MiB", "growth, MiB", "ms a step", "ratio", "loss difference"]
    note = (
        "*build* and *open*: making the problem without and with its caches; *growth*: of resident memory over an "
        f"epoch of reading. Aims for 3 teachers on MRPC: at most {DISK_AIM} MiB, {GROWTH_AIM} MiB and a ratio of "
        f"{STEP_AIM}."
    )
    return f"{common.markdown(header, lines)}\n\n{note}"


def plot(result: common.Result, path: Path) -> None:
    """Disk and memory beside time, by the number of teachers."""
    rows = sorted(result["rows"], key=lambda row: row["teachers"])
    at = [row["teachers"] for row in rows]
    figure = common.new_figure(8.0, 3.6)
    space, times = figure.subplots(1, 2)
    space.plot(at, [row["disk_mib"] for row in rows], "o-", label="on disk")
    space.plot(at, [row["growth_mib"] for row in rows], "x--", label="resident, over an epoch")
    space.set_ylabel("MiB")
    space.legend(fontsize=8)
    times.plot(at, [row["step"] * 1e3 for row in rows], "o-", label="step")
    times.axhline(
        STEP_AIM * rows[0]["step"] * 1e3, color="black", linestyle=":", label=f"aim {STEP_AIM} times the first"
    )
    times.set_ylabel("ms a step")
    times.legend(fontsize=8)
    for axes in (space, times):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("teachers")
        common.plain_ticks(axes.xaxis, at)
        axes.grid(alpha=0.3)
    common.save_figure(figure, path)


def reading_growth(given: dict[str, Any]) -> float:
    """MiB by which resident memory rises, at most, while one epoch of batches is read; caches are there already."""
    problem = _build(given)
    stream = start_stream(problem.buckets, 0)
    batches, _ = draw(problem.buckets, stream, len(stream.order))
    unused: Any = None  # what the student says, which a cached teacher does not look at
    before = growth.resident()
    growth.reset_peak(torch.device("cpu"))
    for rows in batches:
        batch = problem.train.gather(rows[None])
        for teacher in problem.teachers:
            teacher.source.signals(rows[None], batch, unused)
    return (growth.peak_resident() - before) / 2**20


def _random(options: Options, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Options on random rows of MRPC-like lengths, and folders of random teachers."""
    spec = common.TaskSpec(options.vocab, options.max_length, options.teacher_layers, options.teacher_hidden, 2)
    given = common.write_task(folder, spec)
    rng = np.random.default_rng(0)
    count = options.rows + common.FEEDBACK_ROWS + common.SELECTION_ROWS
    lengths = rng.normal(MEAN_LENGTH, LENGTH_SPREAD, count).round().clip(SHORTEST, options.max_length).astype(int)
    lines = [
        json.dumps(
            {"text": " ".join(f"w{word}" for word in rng.integers(5, options.vocab, length - 2)), "label": index % 2}
        )
        for index, length in enumerate(lengths)
    ]
    atomic_write(folder / "train.jsonl", "\n".join(lines) + "\n")
    given |= _common(options, options.teacher_layers)
    return given, with_heads(given.pop("teacher"), folder, max(options.teachers))


def _mrpc(options: Options, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Options on MRPC, and folders of teachers that are one encoder with different heads."""
    teachers = with_heads(options.encoder, folder, max(options.teachers))
    layers = json.loads((Path(options.encoder) / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    given = {
        "task": "mrpc",
        "data_dir": options.data_dir,
        "max_length": options.max_length,
        "max_train_rows": options.rows,
        "teacher_check": "none",  # heads that were drawn by seed know nothing of the labels
        "gap": "divergence",
        "features": common.FEATURES,
        "term_scale": "none",
        "evaluate_every": 0,
        "budget": 100_000,
    }
    return given | _common(options, layers), teachers


def _common(options: Options, teacher_layers: int) -> dict[str, Any]:
    return {
        "student": common.student_options(2, options.hidden),
        "terms": common.TERMS[:3],
        "layer_map": [[1, teacher_layers // 2], [2, teacher_layers]],
        "cache_dtype": "float16",
        "batch_size": options.batch,
        "updates_per_step": 1,  # losses of the first step are then those of one and the same student
        "precision": options.precision,
        "device": options.device,
    }


def with_heads(encoder: str, folder: Path, count: int) -> list[str]:
    """The encoder ``count`` times, each with a head of its own: other weights, so that each has its own cache."""
    made = []
    with common.no_bars():
        for index in range(count):
            teacher = folder / f"teacher-{index}"
            model = load_encoder(encoder, num_labels=2)
            generator = torch.Generator().manual_seed(index)
            with torch.no_grad():
                model.classifier.weight.normal_(0.0, 0.02, generator=generator)
            model.save_pretrained(teacher)
            load_tokenizer(encoder).save_pretrained(teacher)
            made.append(str(teacher))
    return made


def _build(given: dict[str, Any]) -> Problem:
    return build_problem(env_config(**given))


def _step(env: DistillEnv) -> dict[str, Any]:
    return env.step(np.ones(env.action_space.shape, dtype=np.int8))[4]


def _in_child(options: Options, given: dict[str, Any]) -> float:
    words = json.dumps({"threads": options.threads, "given": given})
    environment = {"OMP_NUM_THREADS": str(options.threads)}
    return float(processes.output(["benchmarks.teacher_set", words], environment=environment).splitlines()[-1])


def _main(words: str) -> None:
    asked = json.loads(words)
    torch.set_num_threads(asked["threads"])
    print(reading_growth(asked["given"]))


if __name__ == "__main__":
    _main(sys.argv[1])
