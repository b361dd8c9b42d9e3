"""The record beside a fine-tuned teacher: what it was trained on, so that its provenance can be checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_files.reading import read_json

RECORD = "kd_env_teacher.json"
SET_RECORD = "kd_env_set.json"


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The record of a teacher folder, or None where there is none (a foreign teacher).

    Raises:
        ValueError: a record that cannot be read.
    """
    return _read(Path(folder) / RECORD)


def read_set_record(folder: str | Path) -> dict[str, Any] | None:
    """The record of a folder of co-fine-tuned teachers, or None where there is none.

    Raises:
        ValueError: a record that cannot be read, or that names no members.
    """
    record = _read(Path(folder) / SET_RECORD)
    names = None if record is None else record.get("members")
    if record is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{Path(folder) / SET_RECORD} names no members; fine-tune the set again.")
    return record


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path, "copy the folder again, or fine-tune the teacher again") if path.is_file() else None


def members(folder: str | Path) -> list[Path]:
    """Folders of the members of a set, in their order; each can be given as a teacher.

    Raises:
        ValueError: no set, or one that lacks a member.
    """
    record = read_set_record(folder)
    if record is None:
        raise ValueError(f"The folder {str(folder)!r} holds no set of teachers: it has no {SET_RECORD}.")
    folders = [Path(folder) / name for name in record["members"]]
    missing = [path.name for path in folders if not (path / "config.json").is_file()]
    if missing:
        raise ValueError(
            f"The set {str(folder)!r} lacks its members {', '.join(missing)}; copy the whole folder again."
        )
    return folders
