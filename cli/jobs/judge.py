"""The evaluation that ends a training, and its files."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cli.jobs import contenders
from cli.settings.read import Settings
from kd_env.evaluation.reports.report import Report
from kd_env.mdp.problem import Problem


def evaluate(settings: Settings, problem: Problem, agent: Any, policy: Path) -> Report:
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
    progress = _progress() if settings.resolved["progress"] else None
    # With the teacher that was made for the run: the settings do not know it.
    ready = dataclasses.replace(settings, env=dataclasses.replace(problem.config, show_progress=jobs == 1))
    if jobs == 1:
        return summarize(contenders.judge(ready, problem, agent, names, progress))
    return summarize(contenders.judge_in_processes(ready, policy, names, jobs, progress))


def write_results(folder: Path, report: Report, history: Iterable[Mapping[str, float]] = ()) -> None:
    """Print the report and write its files."""
    from kd_env.evaluation.reports.report_files import print_report, write_report

    print_report(report)
    write_report(folder, report, history)
    print(f"Written to {folder}", flush=True)


def _progress() -> Callable[[str, int, int], None]:
    """A line that is overwritten on a terminal; else one line a policy."""
    live = sys.stderr.isatty()

    def show(name: str, step: int, steps: int) -> None:
        if live:
            end = "\n" if step == steps else ""
            print(f"\r\033[Kevaluating {name} {step}/{steps}", end=end, file=sys.stderr, flush=True)
        elif step == 1:
            print(f"evaluating {name}", file=sys.stderr, flush=True)

    return show
