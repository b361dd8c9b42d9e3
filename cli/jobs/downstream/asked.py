"""What ``kd-env glue`` is asked for: students, tasks and grid, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cli.jobs.downstream.cells import Cell, config_of, seeds_of
from cli.jobs.downstream.kept import students_of_runs
from cli.jobs.downstream.shared import read_rows
from cli.jobs.students import Student, read_students
from cli.settings.options import flag, folder_name, names_of, whole
from kd_env.core import checks
from kd_env.core.registry import unknown_name
from kd_env.data.files.places import find_tables
from kd_env.data.tasks import EMBEDDED, GLUE, TASKS, brings_rows
from kd_env.evaluation.downstream.grid import grid_of

AUTO = "auto"
REFUSE, MAJORITY = "refuse", "majority"


class Asked(NamedTuple):
    """What is to be done."""

    folder: Path
    cells: dict[tuple[str, str, int], Cell]
    """By name of the students, task, and place of the folder in its list."""
    tasks: tuple[str, ...]
    left_out: dict[str, str]
    """Tasks that have no files, and what is missing."""

    @property
    def every_cell(self) -> list[Cell]:
        """Each once, task by task."""
        order = sorted(self.cells, key=lambda key: self.tasks.index(key[1]))
        return list({self.cells[key].name: self.cells[key] for key in order}.values())


def read_asked(options: dict[str, Any]) -> Asked:
    """Check the options; one number of the grid becomes a list of one.

    Raises:
        ValueError: anything that does not fit.
    """
    for key in ("learning_rates", "epochs"):
        options[key] = options[key] if isinstance(options[key], list) else [options[key]]
    _check(options)
    _take_runs(options)
    folder = Path(str(options["runs_dir"])).expanduser() / folder_name(options["name"])
    students, named = _students(options)
    tasks, left_out = find_tasks(options["tasks"], options["data_dir"], named, options["evaluate_only"])
    numbers = read_rows(options["train_rows"], tasks)
    for task, rows in numbers.items():
        if len(rows) > 1:
            raise ValueError(f"train_rows={options['train_rows']!r} gives {task} several numbers; give one for a task.")
    cells = {
        (name, task, place): Cell(student, task, numbers[task][0], folder)
        for name, by_task in students.items()
        for task in tasks
        for place, student in enumerate(by_task.get(task, by_task.get(AUTO, [])))
    }
    asked = Asked(folder, cells, tuple(tasks), left_out)
    _check_grid(asked.every_cell, options)
    return asked


def _take_runs(options: dict[str, Any]) -> None:
    """Put the students that runs kept into the place of ``students``."""
    if options["runs"] is None:
        return
    if options["students"] is not None:
        raise ValueError("students=... names folders, and runs=... those that runs kept; give one of them.")
    options["students"], classifiers = students_of_runs(options["runs"])
    if options["evaluate_only"] and not classifiers:
        raise ValueError(
            f"runs={options['runs']!r} distilled students on text, which are no classifiers: leave evaluate_only out."
        )
    options["evaluate_only"] = classifiers


def check_loads(todo: Sequence[Cell], options: Mapping[str, Any]) -> None:
    """Refuse students without a model or a tokenizer, and numbers of rows that a task does not have.

    Raises:
        ValueError: the first of them.
    """
    from kd_env.data.loading import get_task
    from kd_env.evaluation.downstream.fine_tuning import check_number, start
    from kd_env.finetuning.preparation import cut_rows
    from kd_env.models.checks import check_vocabulary
    from kd_env.models.pretrained import load_tokenizer

    [first, *_] = grid_of(options["learning_rates"], options["epochs"])
    if options["evaluate_only"]:  # each is loaded once, and that is its work
        return
    for cell in {cell.student.digest: cell for cell in todo}.values():
        config, source = config_of(cell, options, first, options["grid_seed"]), str(cell.student.folder)
        check_vocabulary(load_tokenizer(source), start(config, get_task(cell.task)), source)
    for cell in {cell.task: cell for cell in todo if cell.rows is not None}.values():
        config, task = config_of(cell, options, first, options["grid_seed"]), get_task(cell.task)
        check_number(cell.rows, task, len(cut_rows(config, task)[1].train))


def find_tasks(
    asked: Any, data_dir: str | None, named: Sequence[str], evaluate_only: bool
) -> tuple[list[str], dict[str, str]]:
    """The tasks that are run, and those that are left out with what is missing.

    Args:
        asked: ``auto`` or names.
        data_dir: folder of the files; None for the hub, which has all of GLUE.
        named: tasks for which classifiers are given; empty where students are fine-tuned.
        evaluate_only: whether dev rows are enough.

    Raises:
        ValueError: an unknown task, one that is named and has no files, or no task at all.
    """
    known = (*GLUE, *EMBEDDED, *(name for name in TASKS if name not in (*GLUE, *EMBEDDED)))
    chosen = names_of("tasks", asked) if asked != AUTO else list(named or GLUE)
    for task in [*chosen, *named]:
        if task == "ax":
            raise ValueError(
                "ax is no task of its own, for it has no labels: a model of mnli answers it (submission=true)."
            )
        if task not in known:
            raise ValueError(unknown_name("task", task, (AUTO, *known)))
    for task in chosen:
        if named and task not in named:
            raise ValueError(
                f"tasks={asked!r}: students=... names no classifier of {task} (but of {', '.join(named)})."
            )
    missing = {task: words for task in chosen if (words := _missing(task, data_dir, evaluate_only))}
    if missing and (asked != AUTO or named or len(missing) == len(chosen)):
        told = ", ".join(f"{task} ({words})" for task, words in missing.items())
        raise ValueError(
            f"data_dir={data_dir!r} lacks files of {told}; expected <task>/train.parquet and dev splits (csv, tsv, "
            "jsonl too). Leave these tasks out, as tasks=auto does where others are there, or give another folder."
        )
    return [task for task in chosen if task not in missing], missing


def _missing(task: str, data_dir: str | None, evaluate_only: bool) -> str:
    """What there is not of a task's files, in words."""
    if brings_rows(task) or data_dir is None:
        return ""
    dev = any(find_tables(data_dir, task, split) for split in TASKS[task].dev_splits)
    train = evaluate_only or find_tables(data_dir, task, "train")
    return " and ".join([*([] if train else ["no train split"]), *([] if dev else ["no dev split"])])


def _students(options: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[Student]]], list[str]]:
    """Students by name and task (or ``auto``, for all tasks), and the tasks that are named with them."""
    value = options["students"]
    if not options["evaluate_only"]:
        return {name: {AUTO: each} for name, each in read_students(value).items()}, []
    example = '"students={tutor: {sst2: <folder>, rte: [<folder>, <folder>]}}"'
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(one, Mapping) and one for one in value.values())
    ):
        raise ValueError(
            f"students={value!r}: with evaluate_only=true folders are classifiers, each of one task: give {example}."
        )
    found = {str(name): read_students(by_task) for name, by_task in value.items()}
    named = {task for by_task in found.values() for task in by_task}
    return found, [*(task for task in (*GLUE, *EMBEDDED) if task in named), *sorted(named - {*GLUE, *EMBEDDED})]


def _check(options: Mapping[str, Any]) -> None:
    for name, low in {"seeds": 1, "first_seed": 0, "grid_seed": 0}.items():
        whole(name, options[name], low)
    for name in ("evaluate_only", "report", "submission"):
        flag(name, options[name])
    checks.one_of(REFUSE, MAJORITY)("submission_incomplete", options["submission_incomplete"])
    if options["submission_incomplete"] != REFUSE and not options["submission"]:
        raise ValueError(f"submission_incomplete={options['submission_incomplete']} is for submission=true.")
    for name in ("learning_rates", "epochs"):
        values = options[name]
        if not values:
            raise ValueError(f"{name}=[] is no grid; give at least one value.")
        for value in values:
            checks.positive(name, value) if name == "learning_rates" else whole(name, value, 1)
        if len(set(values)) < len(values):
            raise ValueError(f"{name}={values!r} names a value twice.")
    if options["grid_seed"] in seeds_of(options) and len(options["learning_rates"]) * len(options["epochs"]) > 1:
        raise ValueError(
            f"grid_seed={options['grid_seed']} is among the seeds that are reported, {options['first_seed']} to "
            f"{seeds_of(options)[-1]}: what was chosen with it would look too good there. Choose another."
        )


def _check_grid(cells: Sequence[Cell], options: Mapping[str, Any]) -> None:
    """Every fine-tuning has options within their ranges."""
    for cell in {cell.task: cell for cell in cells}.values():
        for point in grid_of(options["learning_rates"], options["epochs"]):
            config_of(cell, options, point, options["grid_seed"])
