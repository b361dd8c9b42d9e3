"""``kd-env teacher``: fine-tunes a teacher, or a set together, on train rows; records hold the split's fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.compose import compose
from cli.teachers import set_config, teacher_config


def make_teacher(overrides: Sequence[str], command: str) -> Path:
    """Run the job; the folder of the teacher, or with ``members`` of the set.

    Raises:
        ValueError: anything that does not fit, before any training.
    """
    from cli.train import set_threads

    resolved = compose("finetune", overrides)
    _refuse_unread(resolved["teacher"])
    make = _make_one if resolved["members"] is None else _make_set
    set_threads(resolved["threads"])
    return make(resolved, command)


def _make_one(resolved: Mapping[str, Any], command: str) -> Path:
    from kd_env.finetune import finetune, teacher_record

    config = teacher_config(resolved, resolved["output"])
    folder = finetune(config)
    record = teacher_record(folder) or {}
    print(f"Teacher of {config.task}, fine-tuned by `{command}`: {folder}")
    for name in ("trained_on", "fingerprint", "selection"):
        if name in record:
            print(f"  {name}: {record[name]}")
    print(f"Use it: python train_agent.py task={config.task} teacher.path={folder}", flush=True)
    return folder


def _make_set(resolved: Mapping[str, Any], command: str) -> Path:
    from kd_env.cofinetune import cofinetune, members
    from kd_env.finetune import teacher_record

    config = set_config(resolved, resolved["members"], resolved["output"], key="members")
    folder = cofinetune(config)
    found = members(folder)
    records = [teacher_record(member) or {} for member in found]
    print(f"Set of {len(found)} teachers of {config.task}, co-fine-tuned by `{command}`: {folder}")
    for name in ("trained_on", "fingerprint"):
        print(f"  {name}: {records[0][name]}")
    for member, record in zip(found, records, strict=True):
        print(f"  {member.name}: {record['selection']}")
    print(f"Use it: python train_agent.py task={config.task} env=teacher_weighting cofinetuned={folder}")
    print(f"One alone: python train_agent.py task={config.task} teacher.path={found[0]}", flush=True)
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
