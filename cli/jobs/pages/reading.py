"""From run folders to what a report is made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.runs import folder as runs
from cli.runs.watch import read_history
from kd_files.reading import read_json, read_text

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.comparison import Comparison
    from kd_env.evaluation.comparing.runs import Run
    from kd_env.evaluation.pages.contents import Problem, Source


def problem_of(read: Sequence[Run], comparison: Comparison, out: Path, name: str | None = None) -> Problem:
    """Runs and their comparison with what else their folders hold.

    Args:
        read: runs whose places are their folders.
        comparison: of them.
        out: folder of the report, from which it links to the runs.
        name: of the problem; None: its task.
    """
    from kd_env.evaluation.pages.contents import Problem

    sources = tuple(source_of(run, out) for run in read)
    return Problem(str(comparison.facts["task"]) if name is None else name, comparison, sources)


def source_of(run: Run, out: Path) -> Source:
    """A run with its log, its command and its versions; what an earlier version did not write stays empty."""
    from kd_env.evaluation.pages.contents import Source

    folder = Path(run.place)
    versions = folder / runs.VERSIONS
    return Source(
        run=run,
        link=os.path.relpath(folder.resolve(), out.resolve()),
        history=tuple(read_history(folder / runs.LOGS)),
        command=_text(folder / runs.COMMAND),
        versions=read_json(versions, "delete it, and it is left out") if versions.is_file() else None,
        updates_per_step=int(run.env.get("updates_per_step") or 1),
        budget=run.env.get("budget"),
    )


def unfinished(folder: Path) -> str:
    """A sentence about a run without results."""
    return (
        f"{folder} has no {runs.RESULTS} and is left out: go on with it by the command of its study, or by the one in "
        f"its {runs.COMMAND} with resume=true."
    )


def _text(path: Path) -> str:
    return read_text(path, "delete it, and it is left out") if path.is_file() else ""
