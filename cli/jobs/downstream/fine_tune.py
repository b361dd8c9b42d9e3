"""``kd-env evaluate students=...``: distilled students are fine-tuned on tasks and set beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.errors import going_on
from cli.jobs.downstream.shared import TRAINING, check_folder, open_folder, read_rows, training_config
from cli.jobs.students import Student, read_students
from cli.runs import folder as runs
from cli.settings.options import flag, folder_name, names_of, split_options, whole
from kd_env.core.registry import unknown_name
from kd_files.reading import read_json
from kd_files.writing import atomic_write, write_json

if TYPE_CHECKING:
    from kd_env.evaluation.downstream.fine_tuning import Material
    from kd_env.finetuning.config import TeacherConfig

_KEPT = (*(name for name in TRAINING if name != "device"), "min_updates")
"""Options that all fine-tunings of one folder share."""


class Job(NamedTuple):
    """One fine-tuning."""

    student: Student
    task: str
    rows: int | None
    seed: int

    def path(self, folder: Path) -> Path:
        """Where its result lies."""
        rows = "all" if self.rows is None else self.rows
        return folder / "finetuned" / f"{self.task}-{rows}" / f"{self.student.digest}-seed{self.seed}.json"

    def __str__(self) -> str:
        rows = "all labels" if self.rows is None else f"{self.rows} labels"
        return f"{self.student.folder} on {self.task}, {rows}, seed {self.seed}"


def downstream(overrides: Sequence[str], command: str) -> Path:
    """Fine-tune, compare and write; the results folder.

    Raises:
        ValueError: anything that does not fit, before any training; a training that diverged.
    """
    options, rest = split_options("downstream", overrides)
    for word in rest:
        if word.startswith("protocol="):
            raise ValueError(
                f"{word} is of env=tutor_token, where agents learn beside students. Here no agent learns, and students "
                "are given: leave it out, and give those that a run with env.protocol=joint has kept."
            )
        raise ValueError(unknown_name("option", word.split("=", 1)[0], options))
    folder = _check(options)
    students = read_students(options["students"])
    baseline = next(iter(students)) if options["baseline"] is None else options["baseline"]
    if baseline not in students:
        raise ValueError(unknown_name("baseline", baseline, students))
    tasks = names_of("tasks", options["tasks"])
    numbers = read_rows(options["train_rows"], tasks)
    configs = {
        task: training_config(options, task, students[baseline][0].folder, options["first_seed"]) for task in tasks
    }
    seeds = range(options["first_seed"], options["first_seed"] + options["seeds"])
    with runs.writing(folder):
        check_folder(folder, options, _KEPT, "min_updates", "fine-tuned students")
        jobs = [
            Job(student, task, rows, seed)
            for task in tasks
            for rows in numbers[task]
            for seed in seeds
            for student in {one.digest: one for folders in students.values() for one in folders}.values()
        ]
        todo = [job for job in jobs if not job.path(folder).is_file()]
        from cli.jobs.kinds.prepare import set_threads

        set_threads(options["threads"])
        materials = _materials(todo, configs)
        _check_same_rows(folder, jobs, materials)
        open_folder(folder, options, command)
        print(f"{folder}: {len(jobs)} fine-tunings, {len(jobs) - len(todo)} of them finished before.", flush=True)
        with going_on(lambda: f"{folder} keeps finished fine-tunings; the same command goes on with the others."):
            _run(folder, todo, configs, materials, options)
        _report(folder, students, baseline, {task: numbers[task] for task in tasks}, seeds, command)
    return folder


def _check(options: Mapping[str, Any]) -> Path:
    for name, low in {"seeds": 1, "first_seed": 0, "min_updates": 0}.items():
        whole(name, options[name], low)
    if options["threads"] is not None:
        whole("threads", options["threads"], 1)
    flag("progress", options["progress"])
    return Path(str(options["runs_dir"])).expanduser() / folder_name(options["name"])


def _for(job: Job, configs: Mapping[str, TeacherConfig]) -> TeacherConfig:
    import dataclasses

    return dataclasses.replace(configs[job.task], name_or_path=str(job.student.folder), seed=job.seed)


def _materials(todo: Sequence[Job], configs: Mapping[str, TeacherConfig]) -> dict[tuple[str, str], Material]:
    """Rows of every task for every vocabulary, all students and numbers of labels checked against them."""
    from kd_env.evaluation.downstream.fine_tuning import check_rows, check_student, load_material

    found: dict[tuple[str, str], Material] = {}
    checked = set()
    for job in todo:
        key = job.task, job.student.vocabulary
        if key not in found:
            found[key] = load_material(_for(job, configs))
        check_rows(job.rows, found[key])
        if (job.task, job.student.digest) not in checked:
            check_student(_for(job, configs), found[key])
            checked.add((job.task, job.student.digest))
    return found


def _check_same_rows(folder: Path, jobs: Sequence[Job], materials: Mapping[tuple[str, str], Material]) -> None:
    for job in jobs:
        material = materials.get((job.task, job.student.vocabulary))
        if material is None or not job.path(folder).is_file():
            continue
        if _read(job.path(folder))["fingerprint"] != material.data.cut.fingerprint:
            raise ValueError(
                f"{job.path(folder)} was made with other rows of {job.task}; choose another name with name=..."
            )


def _run(
    folder: Path,
    todo: Sequence[Job],
    configs: Mapping[str, TeacherConfig],
    materials: Mapping[tuple[str, str], Material],
    options: Mapping[str, Any],
) -> None:
    from tqdm import tqdm

    from kd_env.evaluation.downstream.fine_tuning import fine_tune, training_length

    least = options["min_updates"]
    total = sum(
        training_length(
            configs[job.task], job.rows or len(materials[job.task, job.student.vocabulary].data.train), least
        )[1]
        for job in todo
    )
    # None: a bar on a terminal alone.
    with tqdm(total=total, desc="fine-tuning", unit="update", disable=None if options["progress"] else True) as bar:
        for place, job in enumerate(todo):
            bar.set_postfix_str(f"{place + 1}/{len(todo)}: {job.task}, {job.rows or 'all'} labels", refresh=False)
            material = materials[job.task, job.student.vocabulary]
            try:
                found = fine_tune(_for(job, configs), material, rows=job.rows, min_updates=least, on_updates=bar.update)
            except FloatingPointError as error:
                raise ValueError(f"Fine-tuning {job} diverged: {error} Finished ones are kept.") from error
            record = {
                **{"folder": str(job.student.folder), "digest": job.student.digest, "task": job.task},
                **{"seed": job.seed, "fingerprint": material.data.cut.fingerprint, **found},
            }
            job.path(folder).parent.mkdir(parents=True, exist_ok=True)
            write_json(job.path(folder), record)


def _report(
    folder: Path,
    students: Mapping[str, Sequence[Student]],
    baseline: str,
    numbers: Mapping[str, Sequence[int | None]],
    seeds: Sequence[int],
    command: str,
) -> None:
    from kd_env.evaluation.downstream import report

    results = {
        (task, rows): {
            name: [[_read(Job(one, task, rows, seed).path(folder)) for seed in seeds] for one in each]
            for name, each in students.items()
        }
        for task, each_number in numbers.items()
        for rows in each_number
    }
    summaries = report.summarize(report.columns_of(results), baseline)
    words = report.plain_words(summaries, results, baseline, list(seeds))
    text = f"{report.markdown(summaries, baseline)}\n{words}\n"
    print(text)
    facts = {
        "command": command,
        "students": {name: [str(one.folder) for one in each] for name, each in students.items()},
        "seeds": list(seeds),
    }
    data = {**facts, **report.to_json(summaries, baseline), "words": words}
    write_json(folder / runs.RESULTS, data)
    atomic_write(folder / "results.md", text)
    curves = report.learning_curves(summaries)
    if curves is not None:
        atomic_write(folder / "learning_curves.png", curves)
    print(f"Written to {folder}", flush=True)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "delete it, and it is made again", {"fingerprint": str})
