"""``kd-env teacher``: fine-tunes a teacher on train rows, with the split's fingerprint in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.compose import compose
from cli.settings import teacher_config


def make_teacher(overrides: Sequence[str], command: str) -> Path:
    """Run the job; the teacher's folder.

    Raises:
        ValueError: anything that does not fit, before any training.
    """
    from cli.train import set_threads
    from kd_env.finetune import finetune, teacher_record

    resolved = compose("finetune", overrides)
    _refuse_unread(resolved["teacher"])
    config = teacher_config(resolved, resolved["output"])
    set_threads(resolved["threads"])
    folder = finetune(config)
    record = teacher_record(folder) or {}
    print(f"Teacher of {config.task}, fine-tuned by `{command}`: {folder}")
    for name in ("trained_on", "fingerprint", "selection"):
        if name in record:
            print(f"  {name}: {record[name]}")
    print(f"Use it: python train_agent.py task={config.task} teacher.path={folder}", flush=True)
    return folder


def _refuse_unread(teacher: Mapping[str, Any]) -> None:
    """Refuse options of a teacher in use, which its fine-tuning does not read."""
    default = compose("finetune", [])["teacher"]
    for name in ("path", "source", "cache_dtype"):
        if teacher[name] != default[name]:
            hint = " The encoder to start from is teacher.name_or_path." if name == "path" else ""
            raise ValueError(
                f"teacher.{name}={teacher[name]} says how a teacher is used, and kd-env teacher makes one: leave it "
                f"out.{hint}"
            )
