"""Students that finished runs kept, by the names of their agents and by task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.jobs.compare import find_runs
from cli.jobs.students import STUDENTS
from cli.runs import folder as runs
from cli.settings.options import names_of
from cli.settings.read import agent_label

TEXT = "text"


def students_of_runs(value: Any) -> tuple[dict[str, Any], bool]:
    """What ``students=...`` would be for finished runs, and whether they are classifiers, to be judged as they are.

    Args:
        value: folders or patterns of ``runs=...``. The first students of a run's agent are kept with
            ``save_students``; where those of every policy are, each has the name of its policy.

    Raises:
        ValueError: no run, one that is not finished or kept no students, or runs on labels beside runs on text.
    """
    folders = find_runs(names_of("runs", value))
    configs = [runs.run_config(folder) for folder in folders]
    on_text = {config["env"].get("objective") == TEXT for config in configs}
    if len(on_text) > 1:
        raise ValueError(
            f"runs={value!r}: students distilled on text are fine-tuned, and those distilled on labels are judged as "
            "they are; name them apart."
        )
    found: dict[str, Any] = {}
    for folder, config in zip(folders, configs, strict=True):
        kept = _kept(folder)
        if not kept:
            raise ValueError(
                f"The run {folder} kept no students; those of a run with save_students=<number> can be named."
            )
        control = "" if config.get("control", "none") == "none" else f"-{config['control']}"
        own = f"{agent_label(config['agent'])}{control}".replace("/", "-")
        for student in kept:
            name = own if student.parent.name == STUDENTS else student.parent.name
            if on_text == {True}:
                found.setdefault(name, []).append(str(student))
            else:
                found.setdefault(name, {}).setdefault(config["task"]["name"], []).append(str(student))
    return found, on_text == {False}


def _kept(folder: Path) -> Sequence[Path]:
    """Folders of models in that of a run, seeds in their order."""
    found = [path.parent for path in (folder / STUDENTS).glob("**/config.json")]
    return sorted(found, key=lambda path: (path.parent.name, len(path.name), path.name))
