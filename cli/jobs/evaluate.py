"""The evaluation of a policy against the rules, at the end of the main job or again from its run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.judge import write_results
from cli.jobs.kinds.prepare import set_threads
from cli.runs import folder as runs
from cli.runs.paths import with_absolute_paths, with_former_paths
from cli.runs.rows import check_rows, same_sources, write_rows
from cli.settings import probe
from cli.settings.compose import compose
from cli.settings.kinds.base import Settings
from cli.settings.presets import NO_EXPERIMENT
from cli.settings.read import check, read_settings
from kd_env.data.tasks import EMBEDDED


def evaluate_run(overrides: Sequence[str], command: str) -> Path:
    """``kd-env evaluate run=<folder> [overrides]``: the evaluation again, also on another task or student.

    Results go to ``<run>/evaluations/<name>``, by default ``1``, ``2``, ...

    Raises:
        ValueError: no run, another agent than the run's, or a policy whose observations or actions differ from those of
            the environment.
    """
    probe.require_own_agents()
    run, given = split_run(overrides)
    before, first_overrides = runs.read_run(run)
    _refuse_agent(run, before, any(_key(text).split(".")[0] == "agent" for text in given))
    overrides = merge_overrides(with_experiment(before, first_overrides), given)
    composed = runs.with_former_rate(run, compose("config", overrides))
    composed = runs.with_former_gap(run, composed, given)
    composed = with_former_paths(composed, before, map(_key, given))
    _refuse_agent(run, before, composed["agent"]["name"] != before["agent"]["name"])  # an experiment may name one too
    task, other = composed["task"]["name"], before["task"]["name"]
    if task != other and composed["teacher"]["path"] and not names_key(given, "teacher.path"):
        packaged = f"teacher.path=null for the one that comes with {task}, or " if task in EMBEDDED else ""
        raise ValueError(
            f"The run's teacher is one for {other}; give {packaged}teacher.path=<teacher for {task}>, or "
            "teacher.path=null teacher.name_or_path=<encoder to fine-tune>."
        )
    if task != other:
        _refuse_other_teachers(composed["teachers"], task, other, names_key(given, "teachers"))
        _refuse_other_set(composed["cofinetuned"], task, other, names_key(given, "cofinetuned"))
    folder = (
        run / "evaluations" / (str(composed["name"]) if names_key(given, "name") else _next_name(run / "evaluations"))
    )
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another name with name=...")
    settings = check(read_settings(composed))
    same = same_sources(with_absolute_paths(before), settings.resolved) and not names_key(given, "task.data_dir")
    return _evaluate_into(folder, run, settings, given, command, same_rows=same)


def _evaluate_into(
    folder: Path, run: Path, settings: Settings[Any], given: Sequence[str], command: str, *, same_rows: bool
) -> Path:
    set_threads(settings.resolved["threads"])
    job = job_of(dataclasses.replace(settings, run_folder=folder))
    job.check_rejudged(run)
    problem = job.load_problem()
    hashes = job.row_hashes(problem)
    if same_rows:
        check_rows(run, hashes, "say with task.data_dir=... that it is to be judged on other rows")
    agent = job.load_policy(run, problem)
    # Before the work: students that are kept go into the folder.
    runs.open_run(folder, settings.resolved, given, command)
    write_rows(folder, hashes)
    report = job.evaluate(problem, agent, run / runs.POLICY)
    write_results(folder, report, appendix=job.appendix(problem, run / runs.POLICY))
    return folder


def _refuse_other_teachers(teachers: Any, task: str, other: str, named: bool) -> None:
    """Refuse a run's own ready teachers on another task; those that are made are made for it."""
    ready = [e for e in teachers or () if isinstance(e, Mapping) and e.get("path")] if not named else []
    if ready:
        raise ValueError(
            f"The run's teachers {', '.join(str(entry.get('name')) for entry in ready)} are ready ones for {other}; "
            f"give teachers=[...] for {task}, with the same names in the same order."
        )


def _refuse_other_set(chosen: Any, task: str, other: str, named: bool) -> None:
    """The same for a ready co-fine-tuned set."""
    if isinstance(chosen, str) and not named:
        raise ValueError(
            f"The run's teachers are the co-fine-tuned set {chosen} for {other}; give cofinetuned=<folder or members> "
            f"for {task}, with the same names in the same order."
        )


def _refuse_agent(run: Path, before: Mapping[str, Any], refused: bool) -> None:
    if refused:
        raise ValueError(
            f"The policy of {run} is {before['agent']['name']!r}, and evaluate judges it as it is; run `kd-env train "
            "agent=...` for another agent or other options of one, and evaluation.rules=[...] adds rules beside it."
        )


def split_run(overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder named by ``run=...`` (or by the first word) and the other overrides."""
    words = list(overrides)
    if words and "=" not in words[0]:
        words[0] = f"run={words[0]}"
    named = [text for text in words if text.startswith("run=")]
    if len(named) != 1:
        raise ValueError(
            "Name one run folder: kd-env evaluate run=<folder> [key=value ...]; or students to fine-tune: students=..."
        )
    folder = named[0].removeprefix("run=")
    if folder[:1] in ("'", '"'):  # quoted, as other values may be
        folder = _unquoted(folder)
    return Path(folder).expanduser(), [text for text in words if text not in named]


def _unquoted(text: str) -> str:
    if len(text) < 3 or text[-1] != text[0]:
        raise ValueError(f"Cannot read run={text}: the quotation mark {text[0]} is not closed.")
    return text[1:-1]


def with_experiment(before: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """The overrides of a run with the experiment that it had by default, which is another one on another task.

    Args:
        before: resolved configuration of the run; in earlier versions the default was none.
        overrides: of the run.
    """
    if names_key(overrides, "experiment"):
        return list(overrides)
    return [f"experiment={before['presets'].get('experiment', NO_EXPERIMENT)}", *overrides]


def merge_overrides(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Both in order; a key of the second list replaces the same key of the first."""
    replaced = {_key(text) for text in second}
    return [*(text for text in first if _key(text) not in replaced), *second]


def names_key(overrides: Sequence[str], key: str) -> bool:
    """Whether one of the overrides sets ``key``."""
    return any(_key(text) == key for text in overrides)


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+")


def _next_name(folder: Path) -> str:
    number = 1
    while (folder / str(number)).exists():
        number += 1
    return str(number)
