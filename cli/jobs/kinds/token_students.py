"""Students of tutors that are kept, and the result of the one beside which an agent has learned."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.jobs.students import STUDENTS
from kd_files.reading import damaged, read_json
from kd_files.writing import write_json

if TYPE_CHECKING:
    from kd_env.decisions.tutor_token.problem import TutorProblem
    from kd_env.envs.tutor_env import TutorVectorEnv
    from kd_env.evaluation.judging.tutoring import TutorResult

JOINT = "joint.json"
"""What the student of a training came to, in the run folder."""
START = "none"
"""Folder of students that nobody taught."""


def keep_students(
    folder: Path,
    name: str,
    env: TutorVectorEnv,
    result: TutorResult,
    seeds: Sequence[int],
    kept: Sequence[int],
    finished: bool = False,
) -> None:
    """Write the students of ``env`` that are kept and did not diverge, as ``students/<name>/seed<seed>``.

    Args:
        folder: of the run.
        name: of the tutor.
        env: holds one student for each seed.
        result: of these.
        seeds: of these.
        kept: seeds of those that are kept.
        finished: whether the episodes of the students were reset at their end.
    """
    from kd_env.models.loading import quiet_transformers

    for replica, seed in enumerate(seeds):
        if seed not in kept:
            continue
        target = folder / STUDENTS / name.replace("/", "-") / f"seed{seed}"
        shutil.rmtree(target, ignore_errors=True)
        if result.diverged[replica]:
            print(f"{name}: the student of seed {seed} diverged and is not kept.", flush=True)
            continue
        with quiet_transformers():
            env.save_student(target, replica, finished)


def save_starts(folder: Path, problem: TutorProblem, seeds: Sequence[int]) -> None:
    """Keep students as they are at reset, the same for every tutor."""
    from kd_env.envs.tutor_env import TutorEnv
    from kd_env.models.loading import quiet_transformers

    for seed in seeds:
        target = folder / STUDENTS / START / f"seed{seed}"
        shutil.rmtree(target, ignore_errors=True)
        env = TutorEnv(problem=problem)
        env.reset(seed=seed)
        with quiet_transformers():
            env.save_student(target)


def write_joint(folder: Path, result: TutorResult) -> None:
    """Write what the student of a training came to."""
    write_json(folder / JOINT, _plain(dataclasses.asdict(result)))


def read_joint(folder: Path) -> TutorResult:
    """What :func:`write_joint` wrote.

    Raises:
        ValueError: it is missing or damaged.
    """
    from kd_env.evaluation.judging.tutoring import TutorResult, TutorScores

    path, remedy = folder / JOINT, "it holds the result of the student: train in another folder, name=..."
    try:
        values = _arrays(read_json(path, remedy, {"selection": dict}))
        return TutorResult(**{**values, "selection": TutorScores(**values["selection"])})
    except TypeError as error:
        raise damaged(path, error, remedy) from error


def _plain(value: Any) -> Any:
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value.tolist()


def _arrays(value: Any) -> Any:
    return {key: _arrays(each) for key, each in value.items()} if isinstance(value, Mapping) else np.array(value)
