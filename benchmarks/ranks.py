"""What parts of a batch cost: two ranks against one process with both threads, micro batches, recomputed activations.

Every way makes the same updates of the same student, in processes of its own that take turns. Peaks are of the first
process, above what it held before its first update; ``saved`` is what autograd keeps for the way back.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common
from benchmarks.children import answer
from benchmarks.growth import peak_resident, reset_peak, resident
from kd_env import DistillEnv
from kd_env.core import checks, processes
from kd_env.mdp import passes

WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "two_threads": {"threads": 2},
    "two_ranks": {"ranks": 2},
    "micro": {"micro": 8},
    "micro_unscaled": {"micro": 8, "term_scale": "none"},
    "recomputed": {"again": True},
}
WORDS = {
    "one": "one process, 1 thread",
    "two_threads": "one process, 2 threads",
    "two_ranks": "2 ranks, 1 thread each",
    "micro": "micro batches of an eighth",
    "micro_unscaled": "the same, unscaled terms",
    "recomputed": "activations computed again",
}
BASE = "two_threads"


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 3
    """Processes of every way; medians are reported."""
    ways: tuple[str, ...] = tuple(WAYS)
    """``one`` process with one thread, ``two_threads`` (the measure of all, always there), ``two_ranks``, ``micro``
    batches, ``micro_unscaled`` (with ``term_scale=none``) and activations ``recomputed``."""
    updates: int = 12
    """Timed updates of each."""
    layers: int = 4
    """Of the student."""
    hidden: int = 256
    """Its hidden size."""
    batch: int = 32
    """Rows of a batch."""
    length: int = 64
    """Tokens of a row."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "ways": common.each(checks.one_of(*WAYS)),
        **dict.fromkeys(("updates", "layers", "length"), checks.whole(1)),
        "hidden": checks.whole(8),
        "batch": checks.whole(8),
    }


def run(options: Options) -> common.Result:
    """Measure every way in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in dict.fromkeys((BASE, *options.ways))}
    for repeat in range(options.repeats):
        for name in found:
            common.progress(f"ranks: {name}, {repeat + 1}/{options.repeats}")
            found[name].append(_in_processes(options, name))
    rows = []
    for name, each in found.items():
        medians = {key: statistics.median(one[key] for one in each) for key in each[0]}
        rows.append({"way": name, **medians, "spread": common.spread([one["seconds"] for one in each])})
    losses = {row["way"]: [row["loss"]] for row in rows if row["way"] != "micro_unscaled"}
    common.require_equal("losses of the last update", losses, common.TOLERANCE[options.precision])
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds of an update, against one process with both threads, and memory."""
    base = next(row["seconds"] for row in result["rows"] if row["way"] == BASE)
    lines = [
        [
            WORDS[row["way"]],
            common.ms(row["seconds"]),
            f"{row['seconds'] / base:.2f}",
            f"{row['peak_mib']:.0f}",
            f"{row['saved_mib']:.1f}",
        ]
        for row in result["rows"]
    ]
    header = ["way", "update, ms", f"to {WORDS[BASE]}", "peak above the start, MiB", "saved for the way back, MiB"]
    return common.markdown(header, lines)


def plot(result: common.Result, path: Path) -> None:
    """Milliseconds of an update by way."""
    figure = common.new_figure(6, 3)
    axes = figure.subplots()
    names = [row["way"] for row in result["rows"]]
    axes.barh(names[::-1], [row["seconds"] * 1000 for row in result["rows"]][::-1])
    axes.set_xlabel("ms an update")
    common.save_figure(figure, path)


def measure(options: Options, way: str) -> dict[str, float]:
    """One way, in a process that did nothing else: seconds of an update, MiB, and the last loss."""
    asked = WAYS[way]
    torch.set_num_threads(asked.get("threads", 1))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        given = common.write_task(Path(folder), common.TaskSpec(1000, options.length, 2, 64))
        env = DistillEnv(
            **{
                **given,
                "student": common.student_options(options.layers, options.hidden),
                "terms": ["hard_label", "soft_label"],
                "features": ["progress"],
                "batch_size": options.batch,
                "micro_batch_size": options.batch // asked["micro"] if "micro" in asked else None,
                "term_scale": asked.get("term_scale", "running"),
                "activation_checkpointing": asked.get("again", False),
                "data_parallel": "ranks" in asked,
                "precision": options.precision,
                "updates_per_step": 1,
                "budget": options.updates + 3,
                "evaluate_every": 0,
                "evaluation_rows": 32,
            }
        )
        env.reset(seed=0)
        action = np.ones(env.action_space.shape, dtype=np.int8)
        saved = _saved(env, asked)
        resident()
        reset_peak(torch.device("cpu"))
        before = peak_resident()
        for _ in range(2):
            env.step(action)
        begin = time.perf_counter()
        for _ in range(options.updates):
            info = env.step(action)[4]
        seconds = (time.perf_counter() - begin) / options.updates
    peak = (peak_resident() - before) / 2**20
    return {"seconds": seconds, "peak_mib": peak, "saved_mib": saved, "loss": float(info["raw_losses"].sum())}


def _saved(env: DistillEnv, asked: dict[str, Any]) -> float:
    """MiB that autograd holds of a pass over what this process computes at once, without the parameters."""
    problem, state = env.run.problem, env.run.started()
    count = problem.config.micro_batch_size or problem.config.batch_size // asked.get("ranks", 1)
    batch = problem.train.gather(state.next_rows[:, 0, :count])
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = passes.student_pass(problem, state.params, batch)
    params = {value.untyped_storage().data_ptr() for value in state.params.values()}
    del kept
    return sum(size for place, size in held.items() if place not in params) / 2**20


def _in_processes(options: Options, way: str) -> dict[str, float]:
    """What the first of a way's processes finds."""
    world = WAYS[way].get("ranks", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = json.dumps({"options": dataclasses.asdict(options), "asked": {"way": way}})
    running = []
    for rank in range(world):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        place = {**group, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if world > 1 else {}
        environment = {**place, "OMP_NUM_THREADS": str(WAYS[way].get("threads", 1))}
        running.append(
            processes.start(["benchmarks.ranks", words], environment=environment, stdout=subprocess.PIPE, text=True)
        )
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"{way}: a process failed; what it said stands above.")
    found: dict[str, float] = json.loads(printed[0].splitlines()[-1])
    return found


if __name__ == "__main__":
    answer(Options, measure)
