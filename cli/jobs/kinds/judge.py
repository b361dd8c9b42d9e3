"""The evaluation that ends a training, and its files."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.jobs import contenders
from cli.jobs.pages.run import write_run_page
from cli.jobs.progress import show_progress
from cli.runs import folder as runs
from cli.runs import origin
from cli.settings.kinds.base import Settings
from kd_env.config.environment import EnvConfig
from kd_env.evaluation.reports.report import Report
from kd_env.mdp.problem import Problem
from kd_files.manifest import MANIFEST, write_manifest

APPENDIX = "appendix"
"""Of ``results.json``: what ``results.md`` ends with, for reports."""


def evaluate(settings: Settings[EnvConfig], problem: Problem, agent: Any, policy: Path) -> Report:
    """Judge the agent (None where the run's agent is a rule) and every rule on the same fresh students.

    Args:
        settings: of the run.
        problem: of training.
        agent: the agent.
        policy: the folder that it is saved in, for processes that share the work.
    """
    from kd_env.evaluation.reports.report import summarize

    names = contenders.names(settings)
    jobs = contenders.number_of_jobs(settings, problem, len(names))
    # With the teacher that was made for the run: the settings do not know it.
    ready = dataclasses.replace(settings, env=dataclasses.replace(problem.config, show_progress=jobs == 1))
    finished = contenders.finished_results(ready, problem, policy, names)
    if finished:
        print(f"Judged before, and kept: {', '.join(finished)}.", flush=True)
    progress = show_progress(len(names) - len(finished)) if settings.resolved["progress"] else None
    if jobs == 1:
        return summarize(contenders.judge(ready, problem, agent, policy, names, progress))
    return summarize(contenders.judge_in_processes(ready, policy, names, finished, jobs, progress))


def write_results(
    folder: Path,
    report: Report,
    appendix: str = "",
    history: Sequence[Mapping[str, float]] = (),
    deterministic: bool = False,
    command: str = "",
) -> None:
    """Print the report and write its files.

    Args:
        folder: of the run or of the evaluation.
        report: what is written.
        appendix: Markdown that ``results.md`` ends with, and behind it where the agent began.
        history: of the training, where it was part of the job.
        deterministic: whether the most likely actions were judged, which are compared with the history.
        command: of the main job, which writes a page, too; empty where there is none.
    """
    from kd_env.evaluation.reports import apart
    from kd_env.evaluation.reports.report_files import print_report, write_report

    far = apart.apart(report, history, deterministic)
    texts = [appendix, origin.words(folder), "" if far is None else far.words]
    appendix = "\n".join(text.rstrip("\n") + "\n" for text in texts if text)
    print_report(report)
    if appendix:
        print(f"\n{appendix}", end="")
    (folder / MANIFEST).unlink(missing_ok=True)  # until it is of what is written now
    beside = {runs.RESUMED: runs.resumed(folder), **_began(folder)}
    beside |= {} if far is None else {apart.KEY: far._asdict()}
    beside |= {APPENDIX: appendix} if appendix else {}
    write_report(folder, report, history, appendix, beside)
    if command:
        write_run_page(folder, command)
    write_manifest(folder, deep=False)
    shutil.rmtree(folder / runs.JUDGED, ignore_errors=True)  # all of it stands in the report now
    print(f"Written to {folder}", flush=True)


def _began(folder: Path) -> dict[str, Any]:
    """Where the agent began, for results; nothing of one that was drawn."""
    found = origin.origin(folder)
    return {} if found is None else {origin.BEGAN_FROM: found}
