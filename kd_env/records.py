"""The record beside a fine-tuned teacher: what it was trained on, so that its provenance can be checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD = "kd_env_teacher.json"


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The record of a teacher folder, or None where there is none (a foreign teacher).

    Raises:
        ValueError: a record that cannot be read.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); fine-tune the teacher again or delete the file.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no record; fine-tune the teacher again or delete the file.")
    return record
