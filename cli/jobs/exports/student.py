"""The student that was chosen: as its evaluation kept it, or distilled again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs import contenders
from cli.jobs.kinds.base import Job
from cli.jobs.progress import show_progress
from cli.jobs.students import STUDENTS
from cli.runs import folder as runs
from cli.settings.kinds.catalog import LABELS
from kd_env.mdp.problem import Problem

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Standing
    from kd_env.evaluation.shipping.choice import Candidate


def kept_student(run: Path, chosen: Candidate, agent: str) -> Path | None:
    """Its folder in that of its run; None where it was not kept.

    Args:
        run: folder of the run or of the evaluation.
        chosen: the student.
        agent: label of the run's agent.

    Raises:
        ValueError: a folder that is damaged.
    """
    from kd_env.models.pretrained import check_source

    by_policy = run / STUDENTS / chosen.label.replace("/", "-") / f"seed{chosen.seed}"
    places = [by_policy] if chosen.label != agent else [run / STUDENTS / f"seed{chosen.seed}", by_policy]
    for place in places:
        if place.is_dir():
            check_source(str(place))
            return place
    return None


def check_can_distil(job: Job[Any, Any], run: Path, chosen: Candidate) -> None:
    """Refuse a student that was not kept and cannot be distilled again; raises ``ValueError`` with the remedy."""
    if job.settings.kind != LABELS.name:
        raise ValueError(
            f"The student of {chosen.label}, seed {chosen.seed}, is the best of {run} and was not kept, and those "
            f"beside a tutor cannot be distilled again here: make the run with "
            f"save_students={len(job.settings.evaluation_seeds)}, which keeps all of them."
        )
    root = root_of(run)
    if chosen.label == job.settings.agent.label and not (root / runs.POLICY).is_dir():
        raise ValueError(
            f"{root} has no {runs.POLICY}, and the student that it taught was not kept; copy the run again."
        )


def distil_again(job: Job[Any, Any], problem: Problem, run: Path, chosen: Candidate, folder: Path, live: bool) -> None:
    """Distil all students of the policy again, as the evaluation did, and write the chosen one.

    All of them: policies that go by chance draw for the students of all seeds, and a stack of fewer would be rounded
    otherwise.

    Args:
        job: of the run.
        problem: of the run.
        run: its folder.
        chosen: the student.
        folder: that is written.
        live: whether progress is shown.
    """
    from kd_env.evaluation.judging.episodes import judge_on_selection
    from kd_env.evaluation.shipping.models import one_thread
    from kd_env.models.library.reading import quiet_transformers

    config = dataclasses.replace(problem.config, show_progress=False)
    settings = dataclasses.replace(job.settings, env=config)
    agent = job.load_policy(root_of(run), problem) if chosen.label == settings.agent.label else None
    [contender] = contenders.contenders(settings, problem, agent, [chosen.label]).values()
    print(
        f"The student of {chosen.label}, seed {chosen.seed}, was not kept (save_students=best:1 keeps the best of the "
        f"run's agent): the {len(settings.evaluation_seeds)} students of the policy are distilled again.",
        flush=True,
    )

    def keep(
        name: str, env: DistillVectorEnv, replica: int, seed: int, diverged: bool, _: Callable[[], Standing]
    ) -> None:
        if seed == chosen.seed:
            with quiet_transformers():
                env.save_student(folder, replica)

    in_processes = job.judging_processes(problem) > 1  # with one thread each
    with one_thread() if in_processes else nullcontext():
        judge_on_selection(
            problem,
            chosen.label,
            contender,
            settings.evaluation_seeds,
            deterministic=settings.resolved["evaluation"]["deterministic"],
            progress=show_progress(1) if live else None,
            keep=keep,
        )


def root_of(folder: Path) -> Path:
    """The folder of the run that an evaluation is of, which holds the policy; of a run itself."""
    root = folder.resolve().parent.parent
    return root if not (folder / runs.POLICY).is_dir() and (root / runs.POLICY).is_dir() else folder
