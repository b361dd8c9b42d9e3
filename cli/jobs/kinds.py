"""The job of a run, by the kind of its environment (:mod:`cli.settings.kinds`)."""

from __future__ import annotations

from typing import Any

from cli.jobs.base import Job
from cli.jobs.labels import LabelJob
from cli.jobs.tokens import TokenJob
from cli.settings.base import Settings
from cli.settings.kinds import LABELS, TOKENS

_JOBS: dict[str, type[Job[Any, Any]]] = {LABELS.name: LabelJob, TOKENS.name: TokenJob}


def job_of(settings: Settings[Any]) -> Job[Any, Any]:
    """What the main job asks in the environment of a run."""
    return _JOBS[settings.kind](settings)
