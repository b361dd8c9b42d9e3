"""What all commands share that fine-tune students on tasks: their options, and the folder of their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.runs import folder as runs
from cli.runs.config import read_config, to_yaml
from kd_env.core.checks import is_whole
from kd_env.core.registry import unknown_name
from kd_files.writing import atomic_write, write_json

if TYPE_CHECKING:
    from kd_env.finetuning.config import TeacherConfig

TRAINING = (
    *("data_dir", "columns", "epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "max_length"),
    *("split_seed", "feedback_rows", "selection_rows", "precision", "device"),
)
"""Options that fine-tuning has under the same names."""


def training_config(options: Mapping[str, Any], task: str, student: Path, seed: int) -> TeacherConfig:
    """Options of a fine-tuning on one task.

    Args:
        options: with those of :data:`TRAINING`; ``columns`` may be left out.
        task: its name.
        student: folder.
        seed: of the fine-tuning.

    Raises:
        ValueError: an unknown task, or a value outside its range.
    """
    from kd_env.data.loading import get_task
    from kd_env.finetuning.config import TeacherConfig

    given = {name: options.get(name) for name in TRAINING}
    if task != "custom":
        given["columns"] = None
    config = TeacherConfig.from_kwargs(**given, name_or_path=str(student), task=task, output="unused", seed=seed)
    get_task(task, config.columns, config.data_dir)
    return config


def read_rows(value: Any, tasks: Sequence[str]) -> dict[str, list[int | None]]:
    """Numbers of labels by task; None stands for all.

    Raises:
        ValueError: anything that is no such number, one that is named twice, or a task that is not among ``tasks``.
    """
    if isinstance(value, Mapping):
        for task in value:
            if task not in tasks:
                raise ValueError(unknown_name("task of train_rows", task, tasks))
        return {task: read_rows(value.get(task), [task])[task] for task in tasks}
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(rows is None or is_whole(rows, 2) for rows in numbers):
        raise ValueError(f"train_rows={value!r} must be a number of at least 2, a list of them, or null for all.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"train_rows={value!r} names a number twice.")
    return {task: list(numbers) for task in tasks}


def check_folder(folder: Path, options: Mapping[str, Any], kept: Sequence[str], mark: str, holds: str) -> None:
    """Refuse a folder of something else, or of other options.

    Args:
        folder: of the results.
        options: of now.
        kept: names of those that all results of a folder share.
        mark: an option that no other command has.
        holds: what the folder should hold, for the message.

    Raises:
        ValueError: naming what differs.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    before = read_config(folder / runs.CONFIG) if (folder / runs.CONFIG).is_file() else {}
    if mark not in before:
        raise ValueError(f"{folder} exists and holds no {holds}; choose another name with name=...")
    changed = [key for key in kept if before.get(key) != options[key]]
    if changed:
        raise ValueError(
            f"{folder} was started with other values of {', '.join(changed)}; choose another name with name=..."
        )


def open_folder(folder: Path, options: Mapping[str, Any], command: str) -> None:
    """Make a folder and write what describes its results."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / runs.CONFIG, to_yaml(options))
    atomic_write(folder / runs.COMMAND, command + "\n")
    write_json(folder / runs.VERSIONS, runs.versions())
