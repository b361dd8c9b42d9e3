"""The estimate of a study: one probe for each kind of training."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    jobs: int
    seconds: float
    memory: int
    """Bytes, of all processes at once."""


def of_study(trainings: Sequence[Settings[Any]], jobs: int) -> StudyEstimate:
    """The estimate of trainings, ``jobs`` at a time, in processes of one thread."""
    kinds: dict[tuple[Any, ...], tuple[Estimate, float]] = {}
    counts: dict[tuple[Any, ...], int] = {}
    problems: list[tuple[Any, Any, float]] = []
    seconds = []
    for settings in trainings:
        c = settings.resolved
        key = (settings.agent.label, c["control"], c["evaluation"]["rules"] == [])
        if key not in kinds:
            job = job_of(check(settings))
            with untouched(1):
                problem, start_up = _built(problems, settings.env, job)
                kinds[key] = of_run(job, problem, start_up), IMPORTS + start_up
        counts[key] = counts.get(key, 0) + 1
        seconds.append(kinds[key][0].seconds + kinds[key][1])
    names = {key: " ".join([key[0], *([f"control={key[1]}"] if key[1] != "none" else [])]) for key in kinds}
    largest = max(found.memory for found, _ in kinds.values())
    return StudyEstimate(
        kinds=tuple((names[key], counts[key], found) for key, (found, _) in kinds.items()),
        jobs=jobs,
        seconds=together(seconds, jobs) * turns(min(jobs, len(trainings)), os.cpu_count() or 1),
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
