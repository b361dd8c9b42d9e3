"""The record beside a fine-tuned teacher: what it was trained on, so that its provenance can be checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); fine-tune the teacher again or delete the file.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no record; fine-tune the teacher again or delete the file.")
    return record


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
