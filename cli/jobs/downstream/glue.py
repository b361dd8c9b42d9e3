"""``kd-env glue``: students on the GLUE tasks, chosen on the selection split, beside what papers print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli import MODULE
from cli.errors import USER_ERRORS, going_on
from cli.jobs.downstream.asked import Asked, check_loads, read_asked
from cli.jobs.downstream.cells import CELLS, HOLDS, KEPT, MARK, Cell, seeds_of
from cli.jobs.downstream.shared import check_folder, open_folder
from cli.jobs.downstream.submitting import check_files, read_tests, submit
from cli.runs import folder as runs
from cli.runs.backends.base import Child
from cli.runs.backends.catalog import LOCAL, check_backend, jobs_of, opened
from cli.runs.pool import refuse_failed, run_all
from cli.settings.options import says_place, split_options, split_place
from kd_env.core.registry import unknown_name
from kd_env.evaluation.downstream import glue_report
from kd_env.evaluation.downstream.glue import columns_of
from kd_env.evaluation.downstream.glue_report import Choice, GlueReport
from kd_env.evaluation.downstream.grid import Point
from kd_files.writing import atomic_write, write_json


def glue(overrides: Sequence[str], command: str) -> Path:
    """``kd-env glue students=... [tasks=... backend=...]``; the results folder. Or ``check=<zip>`` alone; that zip.

    Cells (a student's folder on a task each) that are finished are kept: the same command goes on with the others.

    Raises:
        ValueError: anything that does not fit, before any work; after it, the cells that failed, with their logs.
    """
    options, others = split_options("glue", overrides)
    if options["check"] is not None:
        return check_files(options["check"], overrides)
    place, unknown = split_place(others)
    defaults = split_options("study", [])[0]
    if unknown:
        known = (*options, *filter(says_place, defaults))
        raise ValueError(unknown_name("option", unknown[0].split("=", 1)[0], known))
    asked = read_asked(options)
    check_backend(place, options["device"], defaults)
    if not options["report"]:
        _check(asked, options)
        refuse_failed(*_work(asked, options, place, command, lambda cell: f"{cell.name}: finished"), "cells")
        return asked.folder
    with runs.writing(asked.folder, "results folder"):
        _run(asked, options, place, command)
    return asked.folder


def _run(asked: Asked, options: Mapping[str, Any], place: Mapping[str, Any], command: str) -> None:
    folder, cells = asked.folder, asked.every_cell
    _check(asked, options)
    tests = read_tests(asked, options)
    check_loads([cell for cell in cells if not cell.finished(options)], options)
    open_folder(folder, options, command)
    done = sum(cell.finished(options) for cell in cells)
    print(f"{folder}: {len(cells)} cells (a folder on a task), {done} of them finished before.", flush=True)
    if asked.left_out:
        print(f"Left out: {', '.join(f'{task} ({what})' for task, what in asked.left_out.items())}.", flush=True)

    def told(cell: Cell) -> str:
        report = gather(asked, options)
        _write(folder, report, command)
        return _said(cell, options)

    failed, count = _work(asked, options, place, command, told)
    report = replace(gather(asked, options), submissions=submit(asked, options, tests))
    _write(folder, report, command)
    glue_report.show(report)
    print(f"Written to {folder}", flush=True)
    refuse_failed(failed, count, "cells")


def _check(asked: Asked, options: Mapping[str, Any]) -> None:
    """Refuse results of something else, or of other options; cells alone, of ``report=false``, say it themselves."""
    if not asked.folder.is_dir() or {path.name for path in asked.folder.iterdir()} != {CELLS}:
        check_folder(asked.folder, options, KEPT, MARK, HOLDS)
    for cell in asked.every_cell:
        cell.check(options)


def _work(
    asked: Asked, options: Mapping[str, Any], place: Mapping[str, Any], command: str, told: Callable[[Cell], str]
) -> tuple[list[Child], int]:
    """Work on the cells that are not finished; those that failed, and how many there are."""
    todo = [cell for cell in asked.every_cell if not cell.finished(options)]
    cells = {cell.name: cell for cell in todo}
    kept = f"{asked.folder} keeps finished fine-tunings; the same command goes on with the others."
    with going_on(lambda: kept):
        if place["backend"] == LOCAL and (len(todo) < 2 or jobs_of(place) == 1):
            return _work_here(todo, options, place, command, told), len(todo)
        (asked.folder / CELLS).mkdir(parents=True, exist_ok=True)
        children = [Child(cell.name, (MODULE, "glue", *_words(cell, options, place)), cell.log) for cell in todo]
        with opened(place, asked.folder, None) as backend:
            failed = run_all(
                children, backend, shown=options["progress"], what="cells", told=lambda child: told(cells[child.name])
            )
    return failed, len(todo)


def _work_here(
    todo: Sequence[Cell],
    options: Mapping[str, Any],
    place: Mapping[str, Any],
    command: str,
    told: Callable[[Cell], str],
) -> list[Child]:
    """In this process, one after another; a single cell says itself what is wrong with it."""
    from cli.jobs.kinds.prepare import set_threads

    set_threads(place["cpus"])
    failed = []
    for cell in todo:
        try:
            cell.work(options, command)
        except USER_ERRORS as error:
            if len(todo) == 1:
                raise
            with cell.log.open("a", encoding="utf-8") as log:
                log.write(f"{error}\n")
            failed.append(Child(cell.name, (), cell.log))
            print(f"{cell.name} FAILED: {error}", flush=True)
        else:
            print(told(cell), flush=True)
    return failed


def _words(cell: Cell, options: Mapping[str, Any], place: Mapping[str, Any]) -> list[str]:
    """The same command for one cell, in a process of its own."""
    folder: Any = [str(cell.student.folder)]
    own = {
        **options,
        "students": {"student": {cell.task: folder} if options["evaluate_only"] else folder},
        **{"runs": None, "tasks": [cell.task], "train_rows": cell.rows, "report": False},
        **{"backend": LOCAL, "jobs": 1, "cpus": place["cpus"]},
    }
    return [f"{key}={json.dumps(value)}" for key, value in own.items()]


def gather(asked: Asked, options: Mapping[str, Any]) -> GlueReport:
    """What there is of the results."""
    judged: dict[str, dict[str, dict[int, list[dict[str, Any]]]]] = {}
    folders: dict[str, int] = {}
    choices, waiting = [], []
    for (name, task, place), cell in asked.cells.items():
        by_task = judged.setdefault(name, {})
        folders[name] = max(folders.get(name, 0), place + 1)
        if not cell.finished(options):
            waiting.append(cell.name)
            continue
        records = by_task.setdefault(task, {})[place] = cell.records(options)
        if not options["evaluate_only"]:
            choices.append(_choice(name, cell, records[0]["labels"]))
    return GlueReport(
        judged=judged,
        names=tuple(judged),
        folders=folders,
        tasks=asked.tasks,
        left_out=asked.left_out,
        seeds=() if options["evaluate_only"] else tuple(seeds_of(options)),
        choices=tuple(choices),
        open_cells=tuple(waiting),
    )


def _choice(name: str, cell: Cell, labels: int) -> Choice:
    found = cell.choice()
    point = Point(**found["chosen"])
    tried = [one for one in found["grid"] if Point(one["learning_rate"], one["epochs"]) == point]
    score = tried[0]["selection"]["selection"][found["headline"]] if tried else None
    return Choice(
        student=name,
        folder=str(cell.student.folder),
        task=cell.task,
        train_rows=labels,
        point=str(point),
        score=score,
        selection_rows=found["selection_rows"],
        edges=tuple(found["edges"]),
        grid=tuple(found["grid"]),
    )


def _said(cell: Cell, options: Mapping[str, Any]) -> str:
    """A finished cell in a line."""
    means = {
        f"{split} {metric}": 100 * sum(one["dev"][split][metric] for one in records) / len(records)
        for records in [cell.records(options)]
        for split, metric in columns_of(records)
    }
    how = "" if options["evaluate_only"] else f" ({Point(**cell.choice()['chosen'])})"
    return f"{cell.student.folder} on {cell.task}{how}: {', '.join(f'{k} {v:.1f}' for k, v in means.items())}"


def _write(folder: Path, report: GlueReport, command: str) -> None:
    write_json(folder / runs.RESULTS, {"command": command, **glue_report.to_json(report)})
    atomic_write(folder / "results.md", glue_report.markdown(report))
    atomic_write(folder / "results.csv", glue_report.to_csv(report))
