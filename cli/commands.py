"""The commands of kd-env."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


def evaluate_any(overrides: Sequence[str], command: str) -> Path:
    """``kd-env evaluate``: of a run folder, or with ``students=...`` of students that were distilled on text.

    Raises:
        ValueError: as :func:`evaluate_run` and :func:`cli.jobs.downstream.fine_tune.downstream`; or both are named.
    """
    from cli.jobs.evaluate import evaluate_run
    from cli.jobs.rejudged import names_key

    if not names_key(overrides, "students"):
        return evaluate_run(overrides, command)
    if names_key(overrides, "run"):
        raise ValueError("run=... judges a policy and students=... fine-tunes students; give one of them.")
    from cli.jobs.downstream.fine_tune import downstream

    return downstream(overrides, command)


Job = Callable[[Sequence[str], str], object]


class Command(NamedTuple):
    """One subcommand."""

    summary: str
    config: str | None
    """Primary configuration file that its overrides are for; None where the command has options of its own alone."""
    load: Callable[[], Job]


def _train() -> Job:
    from cli.jobs.train import train

    return train


def _teacher() -> Job:
    from cli.jobs.teacher import make_teacher

    return make_teacher


def _evaluate() -> Job:
    return evaluate_any


def _glue() -> Job:
    from cli.jobs.downstream.glue import glue

    return glue


def _study() -> Job:
    from cli.jobs.study import study

    return study


def _tune() -> Job:
    from cli.jobs.tuning.command import tune

    return tune


def _estimate() -> Job:
    from cli.jobs.estimates.command import estimate_job

    return estimate_job


def moved_tutor(overrides: Sequence[str], command: str) -> None:
    """``kd-env tutor`` of earlier versions.

    Raises:
        ValueError: always, with the command that took its place.
    """
    raise ValueError(
        "kd-env tutor is now: kd-env study env=tutor_token agents=[tutor,sb3/ppo] trainings=5. Its env={name: value} "
        "is env.name=value (text, data_dir and rows: task=... and task.name=value, env={task: ...}: task=... "
        "env.objective=labels, teacher: teacher.path=..., student: student.name=value), agent={...} is "
        "agent.options.name=value, protocol and samples are env.protocol and env.samples, recipe=paper is "
        "experiment=tutor_paper, evaluation_seeds and first_evaluation_seed are evaluation.seeds and "
        "evaluation.first_seed, rules is evaluation.rules."
    )


def _tutor() -> Job:
    return moved_tutor


def _compare() -> Job:
    from cli.jobs.compare import compare_runs

    return compare_runs


def _report() -> Job:
    from cli.jobs.pages.command import report

    return report


def _power() -> Job:
    from cli.jobs.pages.power import power

    return power


def _watch() -> Job:
    from cli.jobs.studies.watch import watch

    return watch


def _export() -> Job:
    from cli.jobs.exports.command import export

    return export


def _bench() -> Job:
    from cli.jobs.bench import bench

    return bench


COMMANDS = {
    "train": Command("train an agent, judge it against the rules, write a report (the main job)", "config", _train),
    "teacher": Command("fine-tune a teacher, or a set together, on the train rows of a task", "finetune", _teacher),
    "evaluate": Command("judge a run's policy again, or fine-tune and compare students", "config", _evaluate),
    "glue": Command("students on the GLUE tasks, beside the numbers that papers print", "glue", _glue),
    "study": Command("several independent trainings of several agents, and their comparison", "study", _study),
    "watch": Command("show how far a study is, while another terminal runs it", "watch", _watch),
    "tune": Command("search options of an agent with Optuna, by the selection split alone", "tune", _tune),
    "estimate": Command("say how long a training or a study takes, and its memory", "config", _estimate),
    "compare": Command("set finished runs beside each other: agents by independent trainings", "compare", _compare),
    "power": Command("what a study of another size could find, from the runs of a pilot", "power", _power),
    "report": Command("one HTML file of runs or a study: verdict, figures, tables, commands", "report", _report),
    "export": Command(
        "the best student of finished runs as a folder that ships, with ONNX and a card", "export", _export
    ),
    "tutor": Command("of earlier versions; now: kd-env study env=tutor_token", None, _tutor),
    "bench": Command("measure speed and memory (source checkout only)", None, _bench),
}
