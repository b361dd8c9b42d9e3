"""What the rows of a run were: files that change meanwhile would be other rows, silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_files.reading import read_json
from kd_files.writing import write_json

ROWS = "rows.json"


def write_rows(folder: Path, hashes: Mapping[str, str]) -> None:
    """Write the hash of what each split holds into a run folder."""
    write_json(folder / ROWS, hashes)


def check_rows(folder: Path, hashes: Mapping[str, str], remedy: str) -> None:
    """Refuse rows that are not those of the run in ``folder``; runs of earlier versions do not say theirs.

    Raises:
        ValueError: the first split that differs, with both hashes and the remedy.
    """
    path = folder / ROWS
    if not path.is_file():
        return
    before = read_json(path, "remove it to go on without this check of the rows")
    for split, now in hashes.items():
        then = before.get(split, now)
        if then != now:
            raise ValueError(
                f"The {split} rows are not those of the run {folder} (content hash {now}, then {then}): a file has "
                f"changed since. Put it back, or {remedy}."
            )


def same_sources(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two configurations read the same files, and cut them alike."""
    return bool(first["task"] == second["task"]) and all(
        (first["env"].get(key) or None) == (second["env"].get(key) or None) for key in ("text", "objective", "packing")
    )
