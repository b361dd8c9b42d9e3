"""The estimate of a study: one probe for each kind of training."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.jobs.estimates.counts import turns
from cli.jobs.estimates.estimate import IMPORTS, Estimate, together
from cli.jobs.estimates.run import of_run
from cli.jobs.estimates.untouched import untouched
from cli.jobs.kinds.catalog import job_of
from cli.settings.kinds.base import Settings
from cli.settings.read import check


@dataclass(frozen=True)
class StudyEstimate:
    """Of all trainings of a study."""

    kinds: tuple[tuple[str, int, Estimate], ...]
    """Name, number of trainings and estimate of one, of every agent under every control and with every evaluation."""
    pauses: tuple[tuple[str, int, Estimate], ...]
    """The same up to their pause and with what is judged there; none where none pauses."""
    jobs: int
    seconds: float
    """Where trainings pause of a study that prunes none, which is the most that it needs."""
    memory: int
    """Bytes, of all processes at once."""


def of_study(trainings: Sequence[Settings[Any]], jobs: int, paused: Sequence[Settings[Any]] = ()) -> StudyEstimate:
    """The estimate of trainings, ``jobs`` at a time, in processes of one thread.

    Args:
        trainings: all of them.
        jobs: at the same time.
        paused: settings of those that pause first, all of which may go on: the estimate is an upper bound then.
    """
    kinds: dict[tuple[Any, ...], tuple[Estimate, float]] = {}
    counts: dict[tuple[Any, ...], int] = {}
    problems: list[tuple[Any, Any, float]] = []
    phases: tuple[list[float], list[float]] = [], []
    made: dict[Path, float] = {}
    for settings in (*paused, *trainings):
        c = settings.resolved
        pauses = c["pause"]["at"] is not None
        key = (settings.agent.label, c["control"], pauses or c["evaluation"]["rules"] == [], pauses)
        if key not in kinds:
            job = job_of(check(settings))
            with untouched(1):
                problem, start_up = _built(problems, settings.env, job)
                kinds[key] = of_run(job, problem, start_up), IMPORTS + start_up
        found, start = kinds[key]
        counts[key] = counts.get(key, 0) + 1
        # What is made before the pause is not made again; the probes of both differ a little.
        left = max(found.seconds - made.get(settings.run_folder, 0.0), 0.0)
        phases[0 if pauses else 1].append(left + start)
        if pauses:
            made[settings.run_folder] = found.training
    largest = max(found.memory for found, _ in kinds.values())
    names = {key: " ".join([key[0], *([f"control={key[1]}"] if key[1] != "none" else [])]) for key in kinds}
    rows = [(key[3], (names[key], counts[key], found)) for key, (found, _) in kinds.items()]
    return StudyEstimate(
        kinds=tuple(row for pauses, row in rows if not pauses),
        pauses=tuple(row for pauses, row in rows if pauses),
        jobs=jobs,
        seconds=sum(together(phase, jobs) for phase in phases) * turns(min(jobs, len(trainings)), os.cpu_count() or 1),
        memory=largest * min(jobs, len(trainings)),
    )


def _built(problems: list[tuple[Any, Any, float]], env: Any, job: Any) -> tuple[Any, float]:
    """The problem of some options, built once, and the seconds that it took."""
    for options, problem, start_up in problems:
        if options == env:
            return problem, start_up
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # every training will say it
        problem = job.load_problem()
    problems.append((env, problem, time.perf_counter() - begin))
    return problems[-1][1:]
