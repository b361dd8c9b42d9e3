"""Seconds from handing a training in until its process runs and its first environment step is made, by backend.

Each process is handed in alone, once the cluster is up: a Ray cluster that runs (``RAY_ADDRESS``, or one that is
started here first), and submitit's own executor in place of Slurm, whose queue is not measured. The environment is that
of the embedded task, so that the second number is mostly imports and reading the packaged teacher.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import common
from cli.runs.backends.base import Backend, Child
from cli.runs.backends.catalog import check_backend, opened
from cli.runs.pool import run_all
from cli.settings.options import split_options
from kd_env.core import checks

AIM = 10.0
CODE = """import time
begun = time.time()
if {steps}:
    import gymnasium, kd_env
    env = gymnasium.make("kd_env/KnowledgeSelection-v0")
    env.reset(seed=0)
    for _ in range({steps}):
        env.step(env.action_space.sample())
print("began", begun, time.time(), flush=True)"""


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 5
    """Processes of each backend, one after another; medians are reported."""
    backends: tuple[str, ...] = ("local", "ray", "slurm")
    """``local``, ``ray`` and ``slurm`` (with ``slurm_cluster=local``)."""
    steps: int = 1
    """Environment steps; 0 measures the start of the process alone."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "backends": common.each(checks.one_of("local", "ray", "slurm")),
        "steps": checks.whole(0),
    }

    def check(self) -> None:
        """As of all benchmarks; and the packages of the backends must be there."""
        super().check()
        for backend in self.backends:
            check_backend(_options(backend), "auto", _options("local"))


def run(options: Options) -> common.Result:
    """Measure every backend."""
    rows = [_measured(options, backend) for backend in options.backends]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Seconds by backend."""
    lines = [
        [row["backend"], *(f"{row[name]:.2f}" for name in ("opened", "process", "step")), f"{row['most']:.2f}"]
        for row in result["rows"]
    ]
    header = ["backend", "opened, s", "process, s", "first step, s", "most, s"]
    note = (
        "\n\nMedians of the processes; *opened*: connected and checked, once; *most*: the slowest first step. Aim of a "
        f"Ray process: its first step within {AIM:.0f} s."
    )
    return common.markdown(header, lines) + note


def plot(result: common.Result, path: Path) -> None:
    """Seconds to the process and to the first step."""
    figure = common.new_figure(4.5, 3.2)
    axes = figure.subplots()
    names = [row["backend"] for row in result["rows"]]
    for name, label in (("step", "first step"), ("process", "process")):
        axes.bar(names, [row[name] for row in result["rows"]], label=label)
    axes.set_ylabel("s")
    axes.legend(fontsize=7)
    common.save_figure(figure, path)


def _measured(options: Options, backend: str) -> dict[str, Any]:
    common.progress(f"backends: {backend}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        begin = time.perf_counter()
        with opened(_options(backend), folder, folder / "cache") as cluster:
            seconds = time.perf_counter() - begin
            times = np.array(
                [_started(options, cluster, folder / f"{number}.log") for number in range(options.repeats)]
            )
    process, step = np.median(times, axis=0).tolist()
    most, spread = float(times[:, 1].max()), common.spread(times[:, 1].tolist())
    return {"backend": backend, "opened": seconds, "process": process, "step": step, "most": most, "spread": spread}


def _started(options: Options, cluster: Backend, log: Path) -> tuple[float, float]:
    """Seconds until a process runs, and until its steps are made."""
    child = Child(log.stem, ("timeit", "-n1", "-r1", CODE.format(steps=options.steps)), log)
    begin = time.time()
    if run_all([child], cluster, shown=False):
        raise RuntimeError(f"The process failed:\n{log.read_text(encoding='utf-8')}")
    line = next(line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("began "))
    process, step = (float(word) - begin for word in line.split()[1:])
    return process, step


def _options(backend: str) -> dict[str, Any]:
    chosen = [f"backend={backend}", *(["slurm_cluster=local"] if backend == "slurm" else [])]
    return split_options("study", chosen)[0]
