"""Students that an evaluation keeps: folders that load as models, and as teachers of further runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cli.settings.read import Settings

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Keep

STUDENTS = "students"


def has_feedback(agent: str) -> bool:
    """Whether feedback rows have a say in what an agent does: in all but the rules that say they do not look."""
    from agents import agent_kind
    from agents.rules.catalog import rule_class

    return agent_kind(agent) != "rule" or rule_class(agent).looks_at_feedback


def keeper(settings: Settings) -> Keep | None:
    """Writes the first ``save_students`` students of the run's agent as ``<run folder>/students/seed<seed>``.

    What lay there is replaced: it is of an evaluation that was broken off. The record beside each says what it was
    distilled from, and whether feedback rows had a say in it, so that it can be a teacher (``teacher.path``).
    """
    count = settings.resolved["save_students"]
    if not count:
        return None
    from kd_env.envs.student_record import student_record
    from kd_env.finetuning.store import write_record
    from kd_env.models.loading import quiet_transformers

    kept, label = settings.evaluation_seeds[:count], settings.agent.label
    steered = has_feedback(settings.agent.name)

    def keep(name: str, env: DistillVectorEnv, replica: int, seed: int, diverged: bool) -> None:
        if name != label or seed not in kept:
            return
        folder = settings.run_folder / STUDENTS / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        if diverged:
            print(f"{name}: the student of seed {seed} diverged and is not kept.", flush=True)
            return
        with quiet_transformers():
            env.save_student(folder, replica)
        write_record(folder, student_record(env.problem, policy=name, seed=seed, steered=steered))
        # Another run of this split would refuse it as a teacher.
        note = f"{folder} (feedback rows had a say: no teacher of this split)" if steered else f"teacher.path={folder}"
        print(f"Student of seed {seed}: {note}", flush=True)

    return keep
