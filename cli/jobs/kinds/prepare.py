"""What comes before a training: threads, teachers, the problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.settings.kinds.base import Settings, Teachers
from cli.settings.kinds.labels import with_ready
from kd_env.config.environment import EnvConfig
from kd_env.mdp.problem import Problem
from kd_env.models.layermap import layer_table


def set_threads(count: int | None) -> None:
    """Threads of torch in this process; None leaves torch's own choice."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def agent_device(c: Mapping[str, Any]) -> str:
    """Device of the agent's own networks."""
    from kd_env.models.devices import resolve_device

    return str(resolve_device(str(c["agent_device"])))


def made_teachers(teachers: Teachers) -> list[tuple[str, str]]:
    """Names and folders of teachers; missing ones are fine-tuned once, into the cache."""
    from kd_env.finetuning.classifier import finetune

    found = []
    for name, teacher in teachers:
        if not isinstance(teacher, str):
            print(f"Teacher: {teacher.output} (made from {teacher.name_or_path} where it is missing)", flush=True)
            teacher = str(finetune(teacher))
        found.append((name, teacher))
    return found


def with_teachers(settings: Settings[EnvConfig]) -> EnvConfig:
    """The environment's options with teachers that exist; missing ones are fine-tuned once, into the cache."""
    if settings.cofinetuned is not None:
        from kd_env.finetuning.co_classifier import cofinetune

        names = ", ".join(name for name, _ in settings.teachers)
        print(
            f"Teachers {names}: {settings.cofinetuned.output} (co-fine-tuned where the set is missing)",
            flush=True,
        )
        cofinetune(settings.cofinetuned)
        return settings.env
    return with_ready(settings.env, settings.resolved, tuple(made_teachers(settings.teachers)))


def load_problem(settings: Settings[EnvConfig]) -> Problem:
    """Teacher, data and student, checked down to the dev rows, and a word about them."""
    from kd_env.envs.build import build_problem
    from kd_env.evaluation.judging.dev import check_dev_lengths

    problem = build_problem(with_teachers(settings))
    if problem.config.objective != "text":
        check_dev_lengths(problem)
    describe(problem)
    return problem


def describe(problem: Problem) -> None:
    """Print what the problem consists of."""
    facts = problem.summary()
    rows = ", ".join(f"{name} {count}" for name, count in facts["rows"].items())
    print(
        f"Task {facts['task']}: {rows} rows ({facts['dropped_rows']} train rows dropped, content shared with feedback)."
    )
    for teacher in problem.teachers:
        best = " (best on the selection split)" if len(problem.teachers) > 1 and teacher is problem.reference else ""
        verdict = "" if teacher.verdict is None else f"{teacher.verdict.words}; "
        order = f" Its outputs {list(teacher.order)} are those of the task's labels, in order." if teacher.order else ""
        print(f"Teacher {teacher.folder}: {verdict}saw feedback rows: {teacher.saw_feedback}.{best}{order}")
    for teacher in (teacher for teacher in problem.teachers if teacher.answers is None):
        name = f"{teacher.name}:\n" if len(problem.teachers) > 1 else ""
        print(f"{name}{layer_table(teacher.pairs)}")
    print(f"Passes in {problem.precision}.", flush=True)
