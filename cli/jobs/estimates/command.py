"""``kd-env estimate``: what a training or a study will need, before it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cli.jobs.estimates import words
from cli.jobs.estimates.run import of_run
from cli.jobs.estimates.study import of_study
from cli.jobs.estimates.teachers import missing_teachers
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.prepare import set_threads
from cli.jobs.studies.grid import Planned
from cli.jobs.studies.pruning import pausing
from cli.jobs.studies.registered import plan_registered
from cli.jobs.study import plan
from cli.runs.backends.catalog import LOCAL, jobs_of
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.options import split_options
from cli.settings.presets import option_comments
from cli.settings.read import check, read_settings

_SHARED = ("name", "runs_dir")
"""Options of a study that a run has, too."""


def estimate_job(overrides: Sequence[str], command: str) -> None:
    """``kd-env estimate <the words of a run or of a study>``; prints numbers, seconds and memory.

    Nothing is trained, no teacher is made and no run folder is written. Words that only a study has (``agents=``,
    ``trainings=``, ...), or a first word ``study``, make it one.

    Raises:
        ValueError: as the job itself.
    """
    probe.require_own_agents()
    given = list(overrides)
    named = given.pop(0) if given[:1] in (["train"], ["study"]) else None
    keys = {text.split("=", 1)[0] for text in given}
    own = {key for key, _, _ in option_comments("study")} - {*_SHARED}
    if named == "study" or (named is None and keys & own):
        _study(given)
    else:
        _run(given)


def _run(overrides: Sequence[str]) -> None:
    settings = check(read_settings(compose("config", overrides)))
    missing = missing_teachers(settings)
    if missing:
        print("\n".join(missing), flush=True)
        return
    set_threads(settings.resolved["threads"])
    job = job_of(settings)
    begin = time.perf_counter()
    problem: Any = job.load_problem()
    found = of_run(job, problem, time.perf_counter() - begin)
    print("\n".join([*words.table(found), words.line(found)]), flush=True)


def _study(overrides: Sequence[str]) -> None:
    options, main = split_options("study", overrides)
    jobs = jobs_of(options)
    if options["backend"] != LOCAL or jobs is None:
        raise ValueError(
            f"backend={options['backend']} runs trainings on machines that are not measured here: leave it out, and "
            "say with jobs=... how many run at a time."
        )
    if options["study"] is not None:
        _registered(options, main, overrides, jobs)
        return
    planned = plan(options, main)
    trainings = [training.settings for training in planned]
    paused = [training.settings for training in pausing(planned, options)]
    missing = missing_teachers(trainings[0])
    if missing:
        print("\n".join(missing), flush=True)
        return
    found = of_study(trainings, jobs, paused)
    lines = [text for run in found.kinds for text in words.kind(*run)]
    for name, trained, run in found.pauses:
        lines += words.kind(f"{name} up to its pause", trained, run)
    print("\n".join([*lines, words.study_line(found)]), flush=True)


def _registered(options: Mapping[str, Any], main: Sequence[str], given: Sequence[str], jobs: int) -> None:
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
