"""How time and memory of a step grow with replicas, teachers, knowledge terms, batch, train rows and length.

One of them grows at a time; the others stay at the first value of their list. Every cell runs in a process of its own.
Memory is above what the imports need: *built* is held by data, teacher outputs and student before the first episode,
*peak* is the most during the first reset and the steps (resident memory of the process on a CPU, the allocator's on
CUDA).
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from benchmarks import common
from benchmarks.children import answer, in_child
from kd_env import DistillVectorEnv, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.models.devices import resolve_device

TERMS = (*common.TERMS, "logit_mse", "cls")
AXES = {
    "replicas": "replicas N",
    "teachers": "cached teachers T",
    "terms": "knowledge terms K",
    "batch": "rows of a batch B",
    "rows": "train rows",
    "length": "tokens of a row S",
}


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 10
    """Timed steps of every cell, after two that are not timed. Medians are reported."""
    replicas: tuple[int, ...] = (1, 4, 16)
    """Stacked students N. The first value of every list is its base."""
    teachers: tuple[int, ...] = (1, 2, 4)
    """Cached teachers T, copies of one; every term has an entry for each."""
    terms: tuple[int, ...] = (4, 1, 2, 6)
    """Knowledge terms K, at most 6: hard and soft labels, hidden states, FSP relations, logits, [CLS]."""
    batch: tuple[int, ...] = (16, 32, 64)
    """Rows of a batch."""
    rows: tuple[int, ...] = (1000, 2000, 4000)
    """Train rows."""
    length: tuple[int, ...] = (32, 64, 128)
    """Tokens of every row."""
    hidden: int = 64
    """Width of the student."""
    layers: int = 2
    """Layers of the student."""
    teacher_layers: int = 4
    """Layers of the teacher."""
    teacher_hidden: int = 128
    """Width of the teacher."""
    vocab: int = 5000
    """Words of the vocabulary."""
    updates_per_step: int = 2
    """Student updates in a step."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "replicas": common.each(checks.whole(1)),
        "teachers": common.each(checks.whole(1)),
        "terms": common.each(checks.whole(1)),
        "batch": common.each(checks.whole(1)),
        "rows": common.each(checks.whole(1)),
        "length": common.each(checks.whole(8)),
        "hidden": checks.whole(8),
        "layers": checks.whole(1),
        "teacher_layers": checks.whole(1),
        "teacher_hidden": checks.whole(8),
        "vocab": checks.whole(50),
        "updates_per_step": checks.whole(1),
    }

    def check(self) -> None:
        """See the base class; the terms and the rows of a batch must exist."""
        super().check()
        if max(self.terms) > len(TERMS):
            checks.refuse("terms", list(self.terms), f"at most {len(TERMS)} each")
        if min(self.rows) < max(self.batch):
            raise ValueError(f"rows={min(self.rows)} is less than batch={max(self.batch)}: no batch would be full.")


def run(options: Options) -> common.Result:
    """Measure every cell in a process of its own."""
    base = {axis: getattr(options, axis)[0] for axis in AXES}
    at_base: dict[str, float] | None = None
    rows = []
    for axis in AXES:
        for value in getattr(options, axis):
            if value != base[axis] or at_base is None:
                common.progress(f"growth: {axis} {value}")
                found = _in_child(options, {**base, axis: value})
            if value == base[axis]:
                at_base = found = at_base or found
            rows.append({"axis": axis, "value": value, **found})
    facts = {**common.facts(options), "base": base, "memory": _memory_source(options)}
    return {"rows": rows, "facts": facts}


def table(result: common.Result) -> str:
    """Time and memory of every cell."""
    known = result["facts"]
    lines = [
        [
            AXES[row["axis"]],
            str(row["value"]),
            common.ms(row["seconds"]),
            f"{row['built_mib']:.0f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in sorted(result["rows"], key=lambda row: (list(AXES).index(row["axis"]), row["value"]))
    ]
    text = common.markdown(["growing", "value", "ms a step", "built, MiB", "peak, MiB"], lines)
    base = ", ".join(f"{name} {value}" for name, value in known["base"].items())
    return f"{text}\n\nBase: {base}. Memory above the imports: {known['memory']}."


def plot(result: common.Result, path: Path) -> None:
    """Time above, memory below, one column per axis."""
    found = result["rows"]
    figure = common.new_figure(3.0 * len(AXES), 5.2)
    grid = figure.subplots(2, len(AXES), sharex="col", sharey="row")
    for column, (axis, label) in enumerate(AXES.items()):
        rows = sorted((row for row in found if row["axis"] == axis), key=lambda row: row["value"])
        at = [row["value"] for row in rows]
        times, memory = grid[0][column], grid[1][column]
        times.plot(at, [row["seconds"] * 1e3 for row in rows], "o-")
        memory.plot(at, [row["peak_mib"] for row in rows], "o-", label="peak of reset and steps")
        memory.plot(at, [row["built_mib"] for row in rows], "x--", label="built, before the first episode")
        memory.set_xlabel(label)
        for axes in (times, memory):
            axes.set_xscale("log")
            axes.set_yscale("log")
            common.log_numbers(axes.yaxis)
            axes.grid(alpha=0.3, which="both")
        common.plain_ticks(memory.xaxis, at)
    grid[0][0].set_ylabel("ms a step")
    grid[1][0].set_ylabel("MiB above the imports")
    grid[1][0].legend(fontsize=7)
    common.save_figure(figure, path)


def measure(options: Options, cell: dict[str, int]) -> dict[str, float]:
    """One cell, in a process that did nothing else: seconds of a step, and MiB."""
    from transformers import BertForSequenceClassification  # noqa: F401 - part of the baseline

    torch.set_num_threads(options.threads)
    baseline = resident()
    with tempfile.TemporaryDirectory() as folder:
        cut_off = common.FEEDBACK_ROWS + common.SELECTION_ROWS
        spec = common.TaskSpec(
            options.vocab, cell["length"], options.teacher_layers, options.teacher_hidden, cell["rows"] + cut_off
        )
        given = common.write_task(Path(folder), spec) | {
            "student": common.student_options(options.layers, options.hidden),
            "terms": TERMS[: cell["terms"]],
            "batch_size": cell["batch"],
            "updates_per_step": options.updates_per_step,
            "precision": options.precision,
            "device": options.device,
        }
        path = given.pop("teacher")
        given["teachers"] = [{"name": f"copy{place}", "path": path} for place in range(cell["teachers"])]
        problem = build_problem(env_config(**given))
    device = problem.device
    built = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident() - baseline
    reset_peak(device)
    env = DistillVectorEnv(cell["replicas"], problem=problem)
    env.reset(seed=0)
    ones = np.ones((cell["replicas"], cell["terms"]), dtype=np.int8)
    step = common.clocked(lambda: env.step(ones), device)
    times = [step() for _ in range(options.repeats + 2)][2:]
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident() - baseline
    return {
        "seconds": statistics.median(times),
        "built_mib": built / 2**20,
        "peak_mib": peak / 2**20,
        "spread": common.spread(times),
    }


def _in_child(options: Options, cell: dict[str, int]) -> dict[str, float]:
    return in_child("growth", options, cell=cell)


# Linux tells the peak since it was last reset; elsewhere there is only the peak of the whole process, which a build may
# have reached before the first step.


def _memory_source(options: Options) -> str:
    if resolve_device(options.device).type == "cuda":
        return "allocated on the device"
    return "resident, peak since the problem was built" if _status() else "resident, peak of the whole process"


def _status() -> dict[str, int]:
    path = Path("/proc/self/status")
    if not path.is_file() or not os.access("/proc/self/clear_refs", os.W_OK):
        return {}
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}


def resident() -> int:
    """Resident memory of this process in bytes, without what was freed."""
    if not _status():
        return peak_resident()
    # Memory that was freed stays with the process until it is asked back, by tens of MiB and never the same.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)
    return _status()["VmRSS"]


def peak_resident() -> int:
    """The most that was resident, in bytes."""
    found = _status()
    if found:
        return found["VmHWM"]
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def reset_peak(device: torch.device) -> None:
    """Count the peak anew from here, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _status():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    answer(Options, measure)
