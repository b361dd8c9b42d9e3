"""Saving and loading the state of a large student, beside what the disk takes to write and read as many bytes.

The state holds parameters and both moments of AdamW: three times the parameters that are trained.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common
from benchmarks.children import answer, in_child
from kd_env import DistillEnv
from kd_env.core import checks

SIZES = {"66 M": (6, 768), "23 M": (6, 384), "11 M": (6, 256)}
"""Layers and hidden size, by the size that they have with BERT's vocabulary."""


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 3
    """Times that each state is saved and loaded; medians are reported."""
    sizes: tuple[str, ...] = tuple(SIZES)
    """Students: ``66 M`` (6 x 768), ``23 M`` (6 x 384) and ``11 M`` (6 x 256)."""
    vocab: int = 30522
    """Words of the vocabulary."""
    folder: str = ""
    """Where states are written; empty: the system's folder of temporary files."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "sizes": common.each(checks.one_of(*SIZES)),
        "vocab": checks.whole(50),
    }


def run(options: Options) -> common.Result:
    """Measure every size in a process of its own."""
    rows = []
    for size in options.sizes:
        common.progress(f"states: {size}")
        rows.append({"student": size, **in_child("states", options, size=size)})
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Seconds, and the speed beside the disk's."""
    lines = [
        [
            row["student"],
            f"{row['bytes'] / 2**20:,.0f}",
            *(f"{row[name]:.2f}" for name in ("save", "disk_write", "load", "disk_read")),
            f"{row['bytes'] / 2**20 / row['save']:,.0f}",
            f"{row['bytes'] / 2**20 / row['disk_write']:,.0f}",
        ]
        for row in result["rows"]
    ]
    header = ["student", "MiB", "save, s", "disk writes, s", "load, s", "disk reads, s", "save, MiB/s", "disk, MiB/s"]
    return common.markdown(header, lines) + "\n\nSaving and the disk's writing end when the bytes are on the disk."


def plot(result: common.Result, path: Path) -> None:
    """Seconds by size."""
    figure = common.new_figure(5, 3)
    axes = figure.subplots()
    at = [row["bytes"] / 2**20 for row in result["rows"]]
    for name, label in {"save": "save", "disk_write": "disk writes", "load": "load", "disk_read": "disk reads"}.items():
        axes.plot(at, [row[name] for row in result["rows"]], "o-", label=label)
    axes.set_xlabel("MiB")
    axes.set_ylabel("s")
    axes.legend(fontsize=7)
    common.save_figure(figure, path)


def measure(options: Options, size: str) -> dict[str, float]:
    """One size, in a process that did nothing else."""
    torch.set_num_threads(options.threads)
    layers, hidden = SIZES[size]
    with tempfile.TemporaryDirectory(dir=options.folder or None) as name:
        folder = Path(name)
        given = common.write_task(folder, common.TaskSpec(options.vocab, 16, 2, 64))
        env = DistillEnv(
            **{
                **given,
                "student": common.student_options(layers, hidden),
                "terms": ["hard_label", "soft_label"],
                "updates_per_step": 1,
                "evaluation_rows": 16,
            }
        )
        env.reset(seed=0)
        env.step(np.ones(env.action_space.shape, dtype=np.int8))
        state = folder / "state"
        times: dict[str, list[float]] = {name: [] for name in ("save", "load", "disk_write", "disk_read")}
        for _ in range(options.repeats):
            times["save"].append(_seconds(lambda: env.save_state(state)))
            content = b"".join(path.read_bytes() for path in sorted(state.iterdir()))
            times["disk_write"].append(_seconds(lambda: _write(folder / "bytes", content)))  # noqa: B023 - at once
            times["load"].append(_seconds(lambda: env.load_state(state)))
            times["disk_read"].append(_seconds((folder / "bytes").read_bytes))
        found = {key: float(np.median(values)) for key, values in times.items()}
        return {**found, "bytes": float(len(content)), "spread": common.spread(times["save"])}


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    answer(Options, measure)
