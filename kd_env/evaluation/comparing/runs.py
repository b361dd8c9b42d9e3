"""Runs that are compared: groups of independent trainings, and what their results hold for every evaluation seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd_env.core.metrics import SHARE
from kd_env.core.types import Floats
from kd_env.evaluation.statistics.crossed import policy_interval
from kd_env.evaluation.statistics.intervals import Bounds, Interval


@dataclass(frozen=True)
class Run:
    """The results of one run, and the group that it belongs to."""

    place: str
    """Its folder, for messages."""
    agent: str
    """Name of the agent's configuration: runs of one name differ in seed and control alone."""
    control: str
    """``none``, or the negative control under which it was trained."""
    train_seeds: range
    """Seeds of the students that the agent was trained on; the first is the agent's own."""
    results: Mapping[str, Any]
    """Content of ``results.json``."""
    searched: bool = False
    """Whether the agent is ``rule/searched``, a constant action: trained, and yet a rule that agents have to beat."""
    places: tuple[str, ...] = ()
    """Folders of all trainings, where several are put together (:mod:`kd_env.evaluation.comparing.joint`)."""

    env: Mapping[str, Any] = field(default_factory=dict)
    """Options of its environment, for reports."""

    @property
    def joint(self) -> bool:
        """Whether each training has one student, beside which it learned."""
        return bool(self.results.get("joint", False))


class PolicyRows:
    """The rows of a policy in its runs, ``[R, S]``; a rule has one run."""

    def __init__(self, name: str, runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> None:
        self.name, self.runs, self.rows = name, list(runs), list(rows)
        self.learned = bool(rows[0]["learned"])

    def values(self, *keys: str) -> Floats:
        """What the results hold under these keys for every training and evaluation seed, ``[R, S]``."""
        return np.stack([seed_values(run, row, keys) for run, row in zip(self.runs, self.rows, strict=True)])

    def interval(self, level: float, *keys: str, bounds: Bounds | None = None) -> Interval:
        """Mean of these values with its interval."""
        return policy_interval(self.values(*keys), level, bounds)


def seed_values(run: Run, row: Mapping[str, Any], keys: Sequence[str]) -> Floats:
    """What ``results.json`` holds for every evaluation seed of one policy, ``[S]``.

    Raises:
        ValueError: it is missing, of another length, or not finite.
    """
    values: Any = row.get("seeds")
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    count = len(run.results["seeds"])
    if not isinstance(values, list) or len(values) != count or any(not _is_finite(value) for value in values):
        raise ValueError(
            f"The results of {run.place} lack {'.'.join(keys)} of {row['policy']!r} for each of the {count} evaluation "
            "seeds: they are incomplete or of an older version. Judge the run again, by the command in its command.txt "
            "with resume=true."
        )
    return np.array(values, dtype=np.float64)


def is_bound(row: Mapping[str, Any]) -> bool:
    """Whether a policy saw a truth that none can know; results say so of such policies alone."""
    return bool(row.get("bound", False))


def measures_of(results: Mapping[str, Any]) -> dict[str, tuple[str, Bounds]]:
    """Title and bounds of what decisions measured, by name."""
    # Results of earlier versions do not say what they hold.
    former = {"followed": "best teacher followed", "right_rows_auc": "AUC of right rows"}
    saved = results.get("measures", {name: {"title": title, "bounds": SHARE} for name, title in former.items()})
    return {name: (measure["title"], (measure["bounds"][0], measure["bounds"][1])) for name, measure in saved.items()}


def group_name(run: Run) -> str:
    """The agent, with its control in brackets where it was trained under one."""
    return run.agent if run.control == "none" else f"{run.agent} ({run.control})"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
