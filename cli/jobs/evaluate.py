"""The evaluation of a policy against the rules, at the end of the main job or again from its run folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.errors import going_on
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.judge import write_results
from cli.jobs.kinds.prepare import set_threads
from cli.jobs.rejudged import composed_again, names_key, names_section, rejudged
from cli.runs import folder as runs
from cli.runs.config import differences
from cli.runs.paths import with_absolute_paths
from cli.runs.rows import check_rows, same_sources, write_rows
from cli.settings import probe
from cli.settings.kinds.base import Settings
from cli.settings.read import check, read_settings
from kd_env.data.tasks import EMBEDDED

EVALUATIONS = "evaluations"


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
    _refuse_agent(run, before, names_section(given, "agent"))
    composed = composed_again(before, first_overrides, given)
    _refuse_agent(run, before, composed["agent"]["name"] != before["agent"]["name"])  # an experiment may name one too
    task, other = composed["task"]["name"], before["task"]["name"]
    for key in ("teacher.path", "teacher.callable"):
        if task != other and composed["teacher"][key.removeprefix("teacher.")] and not names_key(given, key):
            packaged = f"{key}=null for the one that comes with {task}, or " if task in EMBEDDED else ""
            raise ValueError(
                f"The run's teacher is one for {other}; give {packaged}{key}=<teacher for {task}>, or {key}=null "
                "teacher.name_or_path=<encoder to fine-tune>."
            )
    if task != other:
        _refuse_other_teachers(composed["teachers"], task, other, names_key(given, "teachers"))
        _refuse_other_set(composed["cofinetuned"], task, other, names_key(given, "cofinetuned"))
    composed, others = rejudged(before, first_overrides, given, composed)
    if others:
        print(f"{run / runs.CONFIG} is what counts: {', '.join(others)}.", file=sys.stderr, flush=True)
    settings = check(read_settings(composed))
    same = same_sources(with_absolute_paths(before), settings.resolved) and not names_key(given, "task.data_dir")
    folder = run / EVALUATIONS / (str(composed["name"]) if names_key(given, "name") else _next_name(run, settings))
    with runs.writing(folder, "evaluation"):
        if folder.exists() and not _goes_on(folder, settings):
            raise ValueError(f"{folder} exists; choose another name with name=...")
        with going_on(
            lambda: f"{folder} keeps the policies that were judged; the same command goes on with the others."
        ):
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
    runs.describe(folder, settings.resolved, given, command)
    write_rows(folder, hashes)
    report = job.evaluate(problem, agent, run / runs.POLICY)
    write_results(folder, report, appendix=job.appendix(problem, run / runs.POLICY))
    return folder


def _refuse_other_teachers(teachers: Any, task: str, other: str, named: bool) -> None:
    """Refuse a run's own ready teachers on another task; those that are made are made for it."""
    entries = [entry for entry in teachers or () if isinstance(entry, Mapping) and not named]
    ready = [entry for entry in entries if entry.get("path") or entry.get("callable")]
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


def _next_name(run: Path, settings: Settings[Any]) -> str:
    """The first number that is free, or whose evaluation was the same and is not finished.

    Of two evaluations that begin at once both may find it, and one is refused.
    """
    number = 1
    while True:
        folder = run / EVALUATIONS / str(number)
        if not folder.exists() or _goes_on(folder, settings):
            return str(number)
        number += 1


def _goes_on(folder: Path, settings: Settings[Any]) -> bool:
    """Whether an evaluation with these options was broken off in a folder, or one before it had written a word."""
    if (folder / runs.RESULTS).exists():
        return False
    if not (folder / runs.CONFIG).is_file():
        return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())
    changed = differences(runs.run_config(folder), settings.resolved)
    return all(key in ("name", "progress", "threads", "evaluation.jobs") for key in changed)
