"""What the rows of a run were: files that change meanwhile would be other rows, silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_env.core.files import atomic_write

ROWS = "rows.json"


def write_rows(folder: Path, hashes: Mapping[str, str]) -> None:
    """Write the hash of what each split holds into a run folder."""
    atomic_write(folder / ROWS, json.dumps(dict(hashes), indent=2) + "\n")


def check_rows(folder: Path, hashes: Mapping[str, str], remedy: str) -> None:
    """Refuse rows that are not those of the run in ``folder``; runs of earlier versions do not say theirs.

    Raises:
        ValueError: the first split that differs, with both hashes and the remedy.
    """
    path = folder / ROWS
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to go on without this check of the rows.") from error
    for split, now in hashes.items():
        then = before.get(split, now) if isinstance(before, dict) else None
        if then != now:
            raise ValueError(
                f"The {split} rows are not those of the run {folder} (content hash {now}, then {then}): a file has "
                f"changed since. Put it back, or {remedy}."
            )


def same_sources(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two configurations read the same files, and cut them alike."""
    return bool(first["task"] == second["task"]) and all(
        first["env"].get(key) == second["env"].get(key) for key in ("text", "objective")
    )
