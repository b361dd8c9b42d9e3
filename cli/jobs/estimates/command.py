"""``kd-env estimate``: what a training or a study will need, before it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cli.jobs.estimates import words
from cli.jobs.estimates.run import of_run
from cli.jobs.estimates.study import StudyEstimate, of_study
from cli.jobs.estimates.teachers import missing_teachers
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.prepare import set_threads
from cli.jobs.studies.grid import Planned, kinds_of, plan_problem
from cli.jobs.studies.pruning import pausing
from cli.jobs.studies.registered import registration_of
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
    """
    registration, folder = registration_of(options, main, given)
    seconds, unknown, updates, cells, problems = 0.0, 0, 0, 0, 0
    for problem, kinds in kinds_of(registration, folder, main):
        count = problem.values["trainings"]
        trained = count * sum(_updates(resolved) for _, resolved in kinds)
        own = f"{count * len(kinds)} cells, {trained:,} student updates of trainings"
        try:
            found = _time(plan_problem(registration, problem, kinds, folder, options["cpus"]), jobs)
        except (ValueError, OSError) as error:
            found = str(error).splitlines()[0]
        said = f"; {words.study_line(found)}" if isinstance(found, StudyEstimate) else f"; no time: {found}"
        print(f"{problem.name}: {own}{said}", flush=True)
        seconds, unknown = (
            (seconds + found.seconds, unknown) if isinstance(found, StudyEstimate) else (seconds, unknown + 1)
        )
        updates, cells, problems = updates + trained, cells + count * len(kinds), problems + 1
    total = f"{registration.name}: {problems} problems, {cells:,} cells, {updates:,} student updates of trainings"
    last = f"no time can be said for {unknown} problems" if unknown else f"about {words.duration(seconds)}"
    print(f"{total}; {last}, {jobs} at a time", flush=True)


def _time(one: Planned, jobs: int) -> StudyEstimate | str:
    """The estimate of a problem, or what is missing for it."""
    missing = missing_teachers(one.trainings[0].settings)
    if missing:
        return " ".join(missing)
    # Those that begin with the policy of another training cost as much as if they were drawn.
    return of_study([training.settings for training in one.trainings], jobs)


def _updates(c: Mapping[str, Any]) -> int:
    """Student updates of a training, over all replicas."""
    trained = 0 if c["control"] == "untrained" else int(c["total_timesteps"] or 0)
    return trained * int(c["env"]["updates_per_step"])
