"""What is known of the rows that a teacher has seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from kd_env.core.records import read_record


def provenance(teacher: str, task: str, fingerprint: str) -> str:
    """Whether the teacher saw feedback rows of a task (or text): ``no`` or ``unknown``.

    A teacher is trusted as far as its record reaches: what it was fine-tuned from must be clean as well.

    Raises:
        ValueError: its own record, or that of an encoder that it was made from, says that it did.
    """
    record: Any = read_record(teacher)
    clean = record is not None
    while record is not None:
        # A record that is no mapping, or one without these keys, tells nothing.
        known: Mapping[str, Any] = record if isinstance(record, Mapping) else {}
        trained_on, same_split = known.get("trained_on"), known.get("fingerprint") == fingerprint
        apart = trained_on == "rows apart from every split" and known.get("task") == task
        if same_split and trained_on != "train" and not apart:
            raise ValueError(
                f"The teacher {teacher!r}, or an encoder that it was made from, was trained on {trained_on!r} of this "
                "very split, so it saw feedback rows. Fine-tune one on train rows: "
                f"`kd-env teacher task={task} teacher.name_or_path=...`."
            )
        clean = clean and (apart or (same_split and trained_on == "train"))
        record = known.get("source")
    return "no" if clean else "unknown"


def warn_other_rows(teacher: str, task: str, content_hash: str) -> None:
    """Say that a teacher was made from other rows of its task than are read now: a file has changed since.

    Args:
        teacher: its folder or hub name.
        task: by name.
        content_hash: of the official train split.
    """
    record = read_record(teacher) or {}
    then = record.get("content_hash", content_hash)
    if record.get("task") == task and then != content_hash:
        warnings.warn(
            f"The teacher {teacher!r} was made from other rows of task {task!r} than are read now (content hash "
            f"{content_hash}, then {then}): a file has changed since, or it is one of another data set. Fine-tune it "
            "again, or put the file back.",
            UserWarning,
            stacklevel=3,
        )
