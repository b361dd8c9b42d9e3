"""The estimate of a study that is fixed in a file: problem by problem, and what can be said without its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cli.jobs.estimates import words
from cli.jobs.estimates.study import of_study
from cli.jobs.estimates.teachers import missing_teachers
from cli.jobs.studies.grid import Planned
from cli.jobs.studies.registered import plan_registered


def estimate_registered(options: Mapping[str, Any], main: Sequence[str], given: Sequence[str], jobs: int) -> None:
    """Print what each problem of a study needs, and all of them.

    Where teachers or files are missing, numbers that follow from the file alone are printed, and no time.

    Args:
        options: of ``kd-env study``.
        main: words for the main job.
        given: all words.
        jobs: trainings at the same time.

    Raises:
        ValueError: as the study itself.
    """
    registration, folder, planned = plan_registered(options, main, given)
    seconds, unknown, updates = 0.0, 0, 0
    for one in planned:
        updates += sum(map(_updates, (training.settings.resolved for training in one.trainings)))
        said = _line(one, jobs)
        seconds, unknown = (seconds + said[1], unknown) if said[1] is not None else (seconds, unknown + 1)
        print(f"{one.problem.name}: {said[0]}", flush=True)
    cells = sum(len(one.trainings) for one in planned)
    total = f"{registration.name} ({folder}): {len(planned)} problems, {cells} cells, {updates:,} student updates"
    if unknown:
        print(f"{total}; no time can be said for {unknown} problems, whose teachers or files are not here", flush=True)
    else:
        print(f"{total}; about {words.duration(seconds)}, {jobs} at a time", flush=True)


def _line(one: Planned, jobs: int) -> tuple[str, float | None]:
    """What is said of a problem, and its seconds where they can be told."""
    cells = f"{len(one.trainings)} cells"
    try:
        missing = missing_teachers(one.trainings[0].settings)
    except (ValueError, OSError) as error:
        return f"{cells}; {str(error).splitlines()[0]}", None
    if missing:
        return "\n  ".join([f"{cells}; without time, until its teachers are there:", *missing]), None
    # Those that begin with the policy of another training cost as much as if they were drawn.
    found = of_study([training.settings for training in one.trainings], jobs)
    return f"{cells}, {words.study_line(found)}", found.seconds


def _updates(c: Mapping[str, Any]) -> int:
    """Student updates of a training, over all replicas."""
    trained = 0 if c["control"] == "untrained" else int(c["total_timesteps"] or 0)
    return trained * int(c["env"]["updates_per_step"])
