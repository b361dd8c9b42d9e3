"""Cells of ``kd-env glue``: one student's folder on one task, each with a folder of its own and one writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.jobs.downstream.shared import check_folder, open_folder, training_config
from cli.jobs.students import Student
from cli.runs import folder as runs
from kd_env.data.files.places import find_tables
from kd_env.evaluation.downstream.grid import DIVERGED, Point, choose, edges, grid_of
from kd_env.evaluation.downstream.submission import ServerFile, tests_of
from kd_files.reading import read_json
from kd_files.writing import atomic_write, write_json

if TYPE_CHECKING:
    from tqdm import tqdm

    from kd_env.evaluation.downstream.fine_tuning import Material
    from kd_env.finetuning.config import TeacherConfig

KEPT = (
    *("evaluate_only", "data_dir", "learning_rates", "epochs", "grid_seed", "batch_size", "weight_decay", "warmup"),
    *("max_length", "split_seed", "feedback_rows", "selection_rows", "precision"),
)
"""Options that all results of one folder share."""
MARK, HOLDS = "learning_rates", "GLUE results"
CELLS = "cells"
"""Folder of all cells, in that of the command."""
_REMEDY = "delete it, and it is made again"
_CHOICE = "choice.json"


class Cell(NamedTuple):
    """One student's folder on one task."""

    student: Student
    task: str
    rows: int | None
    """Train rows; None: all."""
    results: Path
    """Folder of the command."""

    @property
    def name(self) -> str:
        """Of its folder and of its process."""
        return f"{self.task}-{self.student.digest}"

    @property
    def folder(self) -> Path:
        """What is written here alone."""
        return self.results / CELLS / self.name

    @property
    def log(self) -> Path:
        """What its process prints."""
        return self.folder.with_name(f"{self.name}.log")

    def files(self, options: Mapping[str, Any]) -> list[Path]:
        """What is there when it is finished: a file a seed, or one."""
        if options["evaluate_only"]:
            return [self.folder / "judged.json"]
        return [self.folder / "seeds" / f"seed{seed}.json" for seed in seeds_of(options)]

    def tests(self, options: Mapping[str, Any]) -> list[ServerFile]:
        """Files of the GLUE server for which it predicts."""
        return tests_of(self.task, options["data_dir"]) if options["submission"] else []

    def predicted(self, record: Path, title: str) -> Path:
        """Logits of test rows, beside a record."""
        return self.folder / "predictions" / f"{record.stem}-{title}.safetensors"

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse what was made with other options; raises ``ValueError``, naming them."""
        check_folder(self.folder, self._described(options), (*KEPT, "train_rows"), MARK, HOLDS)

    def finished(self, options: Mapping[str, Any]) -> bool:
        """Whether all that is asked for is there."""
        tests = self.tests(options)
        return all(self.done(path, tests) for path in self.files(options))

    def done(self, record: Path, tests: Sequence[ServerFile]) -> bool:
        """Whether one fine-tuning is finished, with what it says of test rows."""
        return record.is_file() and all(self.predicted(record, file.title).is_file() for file in tests)

    def records(self, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What it came to: a record a seed, or one."""
        schema = {"dev": dict, "test": dict} if self.tests(options) else {"dev": dict}
        return [read_json(path, _REMEDY, schema) for path in self.files(options)]

    def choice(self) -> dict[str, Any]:
        """How it is fine-tuned, and why."""
        return read_json(self.folder / _CHOICE, _REMEDY, {"chosen": dict, "edges": list, "fingerprint": str})

    def _described(self, options: Mapping[str, Any]) -> dict[str, Any]:
        facts = {"student": str(self.student.folder), "task": self.task, "train_rows": self.rows}
        return {**{key: options[key] for key in KEPT}, **facts}

    def work(self, options: Mapping[str, Any], command: str) -> None:
        """Do what is not done yet.

        Raises:
            ValueError: rows or a student that do not fit, another process that works here, or a training that diverged.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with runs.writing(self.folder, "cell"):
            self.check(options)
            if self.finished(options):
                return
            open_folder(self.folder, self._described(options), command)
            try:
                _judge(self, options) if options["evaluate_only"] else _fine_tune(self, options)
            except FloatingPointError as error:
                raise ValueError(f"{self.student.folder} on {self.task}: {error} What is finished is kept.") from error


def seeds_of(options: Mapping[str, Any]) -> range:
    """Seeds that are reported."""
    return range(options["first_seed"], options["first_seed"] + options["seeds"])


def config_of(cell: Cell, options: Mapping[str, Any], point: Point, seed: int) -> TeacherConfig:
    """Options of one fine-tuning; raises ``ValueError`` for a value outside its range."""
    return training_config({**options, **point._asdict()}, cell.task, cell.student.folder, seed)


def _judge(cell: Cell, options: Mapping[str, Any]) -> None:
    from kd_env.evaluation.downstream.fine_tuning import judge_classifier

    [path] = cell.files(options)
    tests, data_dir = cell.tests(options), options["data_dir"]
    selection = bool(tests) and (data_dir is None or bool(find_tables(data_dir, cell.task, "train")))
    found = judge_classifier(config_of(cell, options, _grid(options)[0], 0), tests, selection=selection)
    _write(cell, path, {**_facts(cell), **found})


def _write(cell: Cell, path: Path, record: dict[str, Any]) -> None:
    """A record, then what it says of test rows: predictions are never older than the record beside them."""
    import torch
    from safetensors.torch import save

    logits = record.pop("logits", {})
    write_json(path, record)
    for title, values in logits.items():
        target = cell.predicted(path, title)
        target.parent.mkdir(exist_ok=True)
        atomic_write(target, save({"logits": torch.as_tensor(values, dtype=torch.float32)}))


def _fine_tune(cell: Cell, options: Mapping[str, Any]) -> None:
    from tqdm import tqdm

    from kd_env.evaluation.downstream.fine_tuning import (
        check_rows,
        check_student,
        fine_tune,
        load_material,
        with_dev,
        with_tests,
    )

    config = config_of(cell, options, _grid(options)[0], options["grid_seed"])
    material = load_material(config, dev=False)
    check_rows(cell.rows, material)
    check_student(config, material)
    _check_same_rows(cell, material)
    # None: a bar on a terminal alone.
    with tqdm(desc=cell.name, unit="update", disable=None if options["progress"] else True) as bar:
        point = _chosen(cell, options, material, bar)
        tests = cell.tests(options)
        material = with_tests(config, with_dev(config, material), tests)  # nothing is chosen any more
        check_student(config, material)
        for seed, path in zip(seeds_of(options), cell.files(options), strict=True):
            if cell.done(path, tests):
                continue
            bar.set_postfix_str(f"seed {seed}", refresh=False)
            found = fine_tune(config_of(cell, options, point, seed), material, rows=cell.rows, on_updates=bar.update)
            path.parent.mkdir(exist_ok=True)
            fingerprint = {"seed": seed, "fingerprint": material.data.cut.fingerprint}
            _write(cell, path, {**_facts(cell), **fingerprint, **point._asdict(), **found})


def _chosen(cell: Cell, options: Mapping[str, Any], material: Material, bar: tqdm[Any]) -> Point:
    """The point of the grid that the selection split prefers; what was tried stays in files of its own."""
    if (cell.folder / _CHOICE).is_file():
        return Point(**cell.choice()["chosen"])
    points, fingerprint = _grid(options), material.data.cut.fingerprint
    found = {point: _tried(cell, options, point, material, bar) for point in points} if len(points) > 1 else {}
    point = choose(found, material.task.metrics[0]) if found else points[0]
    choice = {
        **{"chosen": point._asdict(), "edges": edges(point, options["learning_rates"], options["epochs"])},
        **{"headline": material.task.metrics[0], "selection_rows": len(material.selection), "fingerprint": fingerprint},
        "grid": [{**one._asdict(), **outcome} for one, outcome in found.items()],
    }
    write_json(cell.folder / _CHOICE, choice)
    return point


def _tried(cell: Cell, options: Mapping[str, Any], point: Point, material: Material, bar: tqdm[Any]) -> dict[str, Any]:
    """One point of the grid on the selection split; a training that diverged there is no error, and no choice."""
    from kd_env.evaluation.downstream.fine_tuning import fine_tune

    path = cell.folder / "grid" / f"{point.name}.json"
    if path.is_file():
        return read_json(path, _REMEDY, {"fingerprint": str})
    bar.set_postfix_str(f"grid: {point}", refresh=False)
    config = config_of(cell, options, point, options["grid_seed"])
    try:
        found = fine_tune(config, material, rows=cell.rows, on_updates=bar.update, judged="selection")
    except FloatingPointError as error:
        found = {DIVERGED: str(error)}
    found["fingerprint"] = material.data.cut.fingerprint
    path.parent.mkdir(exist_ok=True)
    write_json(path, found)
    return found


def _check_same_rows(cell: Cell, material: Material) -> None:
    """Refuse to go on with other rows than those of what is there."""
    for path in [cell.folder / _CHOICE, *cell.folder.glob("grid/*.json"), *cell.folder.glob("seeds/*.json")]:
        if not path.is_file():
            continue
        if read_json(path, _REMEDY, {"fingerprint": str})["fingerprint"] != material.data.cut.fingerprint:
            raise ValueError(f"{path} was made with other rows of {cell.task}; choose another name with name=...")


def _grid(options: Mapping[str, Any]) -> list[Point]:
    return grid_of(options["learning_rates"], options["epochs"])


def _facts(cell: Cell) -> dict[str, Any]:
    return {"folder": str(cell.student.folder), "digest": cell.student.digest, "task": cell.task}
