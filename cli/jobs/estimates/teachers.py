"""Teachers that a job would fine-tune first: what that needs, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.settings.kinds.base import Settings

if TYPE_CHECKING:
    from kd_env.finetuning.config import TrainingOptions


def missing_teachers(settings: Settings[Any]) -> list[str]:
    """A line for each teacher, or set of them, that is not there yet."""
    if settings.cofinetuned is not None:
        return _needed("set", settings.cofinetuned)
    return [
        text for name, teacher in settings.teachers if not isinstance(teacher, str) for text in _needed(name, teacher)
    ]


def _needed(name: str, options: TrainingOptions) -> list[str]:
    output = Path(options.output)
    if output.is_dir() and any(output.iterdir()):  # finished, or refused by whoever loads it
        return []
    from kd_env.data.loading import get_task
    from kd_env.finetuning.preparation import cut_rows

    rows = len(cut_rows(options, get_task(options.task, options.columns, options.data_dir))[1].train)
    updates = options.epochs * -(-rows // options.batch_size)
    return [
        f"The teacher {name} is missing: it would be fine-tuned first, {options.epochs} epochs of {rows:,} rows in "
        f"batches of {options.batch_size}, {updates:,} updates, into {output}. `kd-env teacher` does that alone."
    ]
