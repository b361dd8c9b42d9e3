"""Students of tutors that are kept, and the result of the one beside which an agent has learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.jobs.students import STUDENTS

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
    from kd_env.core.files import atomic_write
    from kd_env.evaluation.judging.results import plain_result

    atomic_write(folder / JOINT, json.dumps(plain_result(result)) + "\n")


def read_joint(folder: Path) -> PolicyResult:
    """What :func:`write_joint` wrote.

    Raises:
        ValueError: it is missing, or of a version that judged in another way.
    """
    from kd_env.evaluation.judging.results import result_of

    path = folder / JOINT
    if not path.is_file():
        raise ValueError(f"{path} is missing, which holds the result of the student; train in another folder, name=...")
    return result_of(json.loads(path.read_text(encoding="utf-8")), str(path))
