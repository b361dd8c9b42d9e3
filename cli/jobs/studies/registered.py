"""``kd-env study study=<name>``: a study that was fixed in a file, cell by cell, over as many sittings as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli import MODULE
from cli.errors import going_on
from cli.jobs.kinds.catalog import job_of
from cli.jobs.studies.grid import Planned, plan_grid, stages
from cli.jobs.studies.outcome import conclude
from cli.jobs.studies.record import registered
from cli.jobs.studies.registration import Registration, read_registration
from cli.jobs.studies.training import Training
from cli.runs import folder as runs
from cli.runs.backends.base import Child
from cli.runs.backends.catalog import LOCAL, check_backend, opened
from cli.runs.origin import check_source
from cli.runs.pool import refuse_failed, run_all
from cli.settings.cache import cache_folder
from cli.settings.options import folder_name, split_options
from kd_files.writing import atomic_write

PLACES = (
    *("task.data_dir", "teacher.name_or_path", "teacher.path", "cache_dir", "device", "agent_device", "progress"),
    *("logger", "logger_project"),
)
"""Options of the main job that say where things are or are shown, and change no number; others are for the file."""
_OF_THE_FILE = ("agents", "controls", "trainings", "first_seed", "pruning", "pruning_at")


def registration_of(options: Mapping[str, Any], main: Sequence[str], words: Sequence[str]) -> tuple[Registration, Path]:
    """The registration, and the folder of the study.

    Args:
        options: of ``kd-env study``.
        main: words for the main job.
        words: all words that were given.

    Raises:
        ValueError: an option that the file is to say, or a file that does not fit.
    """
    given = {word.partition("=")[0] for word in words}
    for key in (*_OF_THE_FILE, *(word.partition("=")[0] for word in main)):
        if key in given and key not in PLACES:
            raise ValueError(
                f"{key}=... has no place beside study={options['study']}, whose file says what is trained and judged: "
                f"change the file, and the report will tell it. Here may stand {', '.join(PLACES)}, and where it runs."
            )
    registration = read_registration(options["study"])
    return registration, Path(str(options["runs_dir"])).expanduser() / folder_name(options["name"] or registration.name)


def run_registered(options: Mapping[str, Any], main: Sequence[str], words: Sequence[str], command: str) -> Path:
    """Train and judge what is not finished, then conclude; the folder of the study.

    Raises:
        ValueError: anything that does not fit, before any work; after it, the cells that failed, with their logs.
    """
    registration, folder = registration_of(options, main, words)
    planned = plan_grid(registration, folder, main, options["cpus"])
    check_backend(options, planned[0].trainings[0].settings.env.device, split_options("study", [])[0])
    for need in stages(planned):  # refuses circles before any work
        for training in need:
            training.finished()  # refuses folders of other options
    if (folder / runs.CONFIG).is_file():
        raise ValueError(f"{folder} is a run folder; choose another name of the study with name=...")
    with runs.writing(folder, "study"):
        _run(folder, registration, planned, options, command)
    return folder


def _run(
    folder: Path, registration: Registration, planned: Sequence[Planned], options: Mapping[str, Any], command: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    every = [training for one in planned for training in one.trainings]
    c = every[0].settings.resolved
    done = sum(training.finished() for training in every)
    record = registered(folder, registration, planned)
    atomic_write(folder / runs.COMMAND, command + "\n")
    print(
        f"{folder}: registered as {record['hash'][:12]} on {record['registered']}; {len(planned)} problems, "
        f"{len(every)} cells, {done} of them finished before.",
        flush=True,
    )
    for change in record["departures"]:
        print(change, flush=True)
    failed: list[Child] = []
    keeps = f"{folder} keeps finished cells and the checkpoints of the others; the same command goes on with them."
    place_options = options if done < len(every) else {**options, "backend": LOCAL}
    with going_on(lambda: keeps), opened(place_options, folder, cache_folder(c["cache_dir"])) as place:
        for stage in stages(planned):
            todo = [training for training in stage if not training.finished()]
            ready = [training for training in todo if _can_begin(training)]
            if len(ready) < len(todo):
                print(
                    f"{len(todo) - len(ready)} cells would begin with the policies of cells that have not come to an "
                    "end, and wait for the next time that the command is given.",
                    flush=True,
                )
            _make_teachers(ready)
            for training in ready:
                training.folder.parent.mkdir(exist_ok=True)
                (training.folder / runs.RESULTS).unlink(missing_ok=True)  # of another evaluation, which is done again
            children = [
                Child(
                    f"{training.folder.parent.name}/{training.folder.name}",
                    (MODULE, "train", *training.overrides),
                    training.log,
                )
                for training in ready
            ]
            failed += run_all(children, place, shown=c["progress"], what="cells", cells=True)
    conclude(folder, planned, command)
    refuse_failed(failed, len(every), "cells")


def _can_begin(training: Training) -> bool:
    """False where the training with whose policy it would begin has failed; that one is told."""
    try:
        check_source(training.settings.resolved, training.folder)
    except ValueError:
        return False
    return True


def _make_teachers(todo: Sequence[Training]) -> None:
    """Fine-tune missing teachers here, each once: processes side by side would all begin to."""
    made = set[str]()
    for training in todo:
        teachers = str((training.settings.teachers, training.settings.cofinetuned))
        if teachers not in made:
            made.add(teachers)
            job_of(training.settings).make_teachers()
