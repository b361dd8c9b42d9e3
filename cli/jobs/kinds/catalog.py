"""The job of a run, by the kind of its environment (:mod:`cli.settings.kinds.catalog`)."""

from __future__ import annotations

from typing import Any

from cli.jobs.kinds.base import Job
from cli.jobs.kinds.labels import LabelJob
from cli.jobs.kinds.tokens import TokenJob
from cli.settings.kinds.base import Settings
from cli.settings.kinds.catalog import LABELS, TOKENS

_JOBS: dict[str, type[Job[Any, Any]]] = {LABELS.name: LabelJob, TOKENS.name: TokenJob}


def job_of(settings: Settings[Any]) -> Job[Any, Any]:
    """What the main job asks in the environment of a run."""
    return _JOBS[settings.kind](settings)
