"""``kd-env teacher``: fine-tunes a teacher on train rows, with the split's fingerprint in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
