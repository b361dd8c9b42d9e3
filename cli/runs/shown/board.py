"""TensorBoard's event files of a run: the training in groups, then what was judged and the pictures of the report."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.runs.shown.groups import EVAL, NO_METRICS, group_of

if TYPE_CHECKING:
    from kd_env.evaluation.reports.report import Report

_SUFFIX = ".eval"


class Board:
    """Scalars of a training.

    Args:
        folder: of the event files.
        done: steps that were taken before (resume); later scalars of an old file are not shown.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._writer = _writer(folder, purge_step=done + 1 if done else None)

    def add(self, point: Mapping[str, float]) -> None:
        """Show one line of the log at its step."""
        for name, value in point.items():
            if name not in NO_METRICS:
                self._writer.add_scalar(f"{group_of(name)}/{name}", value, int(point["timesteps"]))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def add_report(folder: Path, report: Report, pictures: Path, step: int) -> None:
    """Show every mean of ``results.csv`` as ``eval/<split>/<measure>/<policy>``, and the pictures of the report.

    Those of an evaluation before are deleted.

    Args:
        folder: of the event files.
        report: what was judged.
        pictures: the folder with the report's PNG files.
        step: the last of the training.
    """
    from matplotlib.image import imread

    from kd_env.evaluation.reports.report_files import to_csv

    for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
        path.unlink()
    writer = _writer(folder, filename_suffix=_SUFFIX)
    try:
        for row in csv.DictReader(io.StringIO(to_csv(report))):
            if row["mean"]:
                parts = filter(None, (EVAL, row["split"], row["measure"], row["policy"]))
                writer.add_scalar("/".join(map(_tag, parts)), float(row["mean"]), step)
        for path in sorted(pictures.glob("*.png")):
            writer.add_image(f"{EVAL}/{_tag(path.stem)}", imread(path)[..., :3], step, dataformats="HWC")
    finally:
        writer.close()


def _tag(text: str) -> str:
    """A name as TensorBoard takes it: words with dashes, and no further levels."""
    return re.sub(r"[^\w.=-]+", "_", text).strip("_")


def _writer(folder: Path, **options: Any) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), **options)
