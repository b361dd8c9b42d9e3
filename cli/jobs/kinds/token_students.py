"""Students of tutors that are kept, and the result of the one beside which an agent has learned."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.jobs.students import STUDENTS
from kd_files.reading import DamagedFile, damaged, read_json
from kd_files.writing import write_json

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.results import PolicyResult
    from kd_env.mdp.problem import Problem

JOINT = "joint.json"
"""What the student of a training came to, in the run folder."""
START = "none"
"""Folder of students that nobody taught."""


def keep_student(
    folder: Path,
    name: str,
    env: DistillVectorEnv,
    replica: int,
    seed: int,
    diverged: bool,
    finished: bool = False,
) -> None:
    """Write a student that did not diverge, as ``students/<name>/seed<seed>``.

    Args:
        folder: of the run.
        name: of the tutor.
        env: holds the student.
        replica: which it is there.
        seed: of the student.
        diverged: whether it is lost.
        finished: whether its episode was reset at its end.
    """
    from kd_env.models.library.reading import quiet_transformers

    target = folder / STUDENTS / name.replace("/", "-") / f"seed{seed}"
    shutil.rmtree(target, ignore_errors=True)
    if diverged:
        print(f"{name}: the student of seed {seed} diverged and is not kept.", flush=True)
        return
    with quiet_transformers():
        env.save_student(target, replica, finished)


def save_starts(folder: Path, problem: Problem, seeds: Sequence[int]) -> None:
    """Keep students as they are at reset, the same for every tutor."""
    from kd_env.envs import DistillEnv
    from kd_env.models.library.reading import quiet_transformers

    for seed in seeds:
        target = folder / STUDENTS / START / f"seed{seed}"
        shutil.rmtree(target, ignore_errors=True)
        env = DistillEnv(problem=problem)
        env.reset(seed=seed)
        with quiet_transformers():
            env.save_student(target)


def write_joint(folder: Path, result: PolicyResult) -> None:
    """Write what the student of a training came to."""
    from kd_env.evaluation.judging.results import plain_result

    write_json(folder / JOINT, plain_result(result))


def read_joint(folder: Path) -> PolicyResult:
    """What :func:`write_joint` wrote.

    Raises:
        ValueError: it is missing, damaged, or of a version that judged in another way.
    """
    from kd_env.evaluation.judging.results import result_of

    path, remedy = folder / JOINT, "it holds the result of the student: train in another folder, name=..."
    try:
        return result_of(read_json(path, remedy, {"splits": dict}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise error if isinstance(error, DamagedFile) else damaged(path, error, remedy) from error
