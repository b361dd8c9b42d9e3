"""The line with which a job says how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.jobs.estimates import words
from cli.jobs.estimates.run import count, of_run
from cli.jobs.estimates.study import of_study
from cli.jobs.kinds.base import Job
from cli.settings.kinds.base import Settings
from kd_env.mdp.problem import Problem

SHORT = 100
"""Steps, of training and evaluation together, below which a probe would be much of the job."""


def say(job: Job[Any, Any], problem: Problem, start_up: float, done: int = 0) -> None:
    """Print the line of a run, unless it is so short that a probe would be much of it."""
    counts = count(job, problem, done)
    if counts.all_rounds >= SHORT:
        print(f"Estimate: {words.line(of_run(job, problem, start_up, done))}.", flush=True)


def say_study(trainings: Sequence[Settings[Any]], jobs: int, paused: Sequence[Settings[Any]] = ()) -> None:
    """Print the line of a study, unless its trainings are so short that probes would be much of it.

    Args:
        trainings: that are to be made.
        jobs: at the same time.
        paused: settings of those that pause first.
    """
    if sum(_least_rounds(settings) for settings in trainings) >= SHORT:
        print(f"Estimate: {words.study_line(of_study(trainings, jobs, paused))}.", flush=True)


def _least_rounds(settings: Settings[Any]) -> int:
    """Steps of a training that are known before its problem is built; its evaluation has more."""
    c = settings.resolved
    episode = int(settings.env.budget) // int(settings.env.updates_per_step)
    return int(c["total_timesteps"] or episode) // int(c["num_envs"]) + episode
