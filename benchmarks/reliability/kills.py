"""Kill jobs at random moments, and let them go on: ``python -m benchmarks.reliability.kills``.

Every job is killed (SIGKILL) at a random moment of its usual time. What it left must be whole, and it must go on to the
bits of a job that was never stopped.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.tiny import Job, jobs, outcome
from kd_env.core.processes import start
from kd_files.manifest import MANIFEST, check_manifest
from kd_files.reading import read_json


def main(arguments: list[str]) -> int:
    """Run the kills, print what became of them; 1 where one lost something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the order of the jobs")
    parser.add_argument("--jobs", default="train,dqn,evaluate,teacher,study", help="names, with commas")
    options = parser.parse_args(arguments)
    rng, counts, faults = random.Random(options.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as place:
        known = jobs(Path(place))
        names = options.jobs.split(",")
        references = {name: _reference(known, name, Path(place) / f"whole-{name}") for name in names}
        for number in range(options.count):
            name = names[number % len(names)]
            whole, seconds = references[name]
            verdict = _killed(known, name, Path(place) / "killed", rng.uniform(0.2, 1.05) * seconds, whole)
            counts[verdict] += 1
            print(f"{number + 1}/{options.count}  {name}: {verdict}", flush=True)
            if verdict.startswith("FAULT"):
                faults.append(f"{name}: {verdict}")
    print(f"\n{options.count} kills: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    return 1 if faults else 0


def _reference(known: dict[str, Job], name: str, runs: Path) -> tuple[dict[str, Any], float]:
    """What a job ends with that is never stopped, and its seconds."""
    runs.mkdir()
    job = known[name]
    if job.first:
        _finish(known[job.first], runs)
    begin = time.monotonic()
    _finish(job, runs)
    return outcome(runs / job.folder), time.monotonic() - begin


def _finish(job: Job, runs: Path, more: tuple[str, ...] = ()) -> None:
    process = _start(job, runs, more)
    _, said = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{job.name} failed: {said}")


def _start(job: Job, runs: Path, more: tuple[str, ...] = ()) -> Any:
    words = ["cli.main", *job.command(runs, more)]
    return start(
        words, environment={"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _killed(known: dict[str, Job], name: str, runs: Path, seconds: float, whole: dict[str, Any]) -> str:
    job = known[name]
    if job.first:
        shutil.copytree(runs.with_name(f"whole-{name}"), runs)
        shutil.rmtree(runs / job.folder)
    else:
        runs.mkdir()
    try:
        process = _start(job, runs)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        ended = process.returncode == 0
        if fault := _half_written(runs):
            return f"FAULT, half-written: {fault}"
        begun = any((runs / job.folder).rglob("checkpoint/*/agent.json"))
        _finish(job, runs, job.again if (runs / job.folder).exists() else ())
        if left := _left_over(runs):
            return f"FAULT, left over: {left}"
        if outcome(runs / job.folder) != whole:
            return "FAULT, other than never stopped"
        if ended:
            return "ended before the kill"
        return "bit-equal from a checkpoint" if begun else "bit-equal"
    except RuntimeError as error:
        return f"FAULT, {' '.join(str(error).split())[-300:]}"
    finally:
        shutil.rmtree(runs, ignore_errors=True)


def _half_written(runs: Path) -> str | None:
    """The first file that is in place and not whole."""
    for path in sorted(runs.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(runs).parts):
            continue  # not in place
        try:
            if path.name == MANIFEST and not (path.parent / "config.yaml").exists():
                check_manifest(path.parent)
            elif path.suffix == ".json" and path.name != "overrides.json":
                read_json(path, "")
        except ValueError as error:
            return str(error)
    return None


def _left_over(runs: Path) -> str | None:
    """The first thing that nobody will take away."""
    names = (str(path) for path in sorted(runs.rglob(".*")))
    return next((name for name in names if name.endswith((".tmp", ".new", ".old"))), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
