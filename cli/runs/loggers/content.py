"""What loggers are given: lines of a training's log in groups, then what was judged and the pictures of the report."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.runs.loggers.base import Logger
from cli.runs.shown.groups import EVAL, NO_METRICS, group_of

if TYPE_CHECKING:
    from kd_env.evaluation.reports.report import Report


def show_point(logger: Logger, point: Mapping[str, float]) -> None:
    """Show one line of the log at its step."""
    values = {f"{group_of(name)}/{name}": value for name, value in point.items() if name not in NO_METRICS}
    logger.scalars(values, int(point["timesteps"]))


def show_report(logger: Logger, report: Report, pictures: Path, step: int) -> None:
    """Show every mean of ``results.csv`` as ``eval/<split>/<measure>/<policy>``, and the pictures of the report.

    Args:
        logger: of a run that was judged.
        report: what was judged.
        pictures: the folder with the report's PNG files.
        step: the last of the training.
    """
    from kd_env.evaluation.reports.report_files import to_csv

    values = {}
    for row in csv.DictReader(io.StringIO(to_csv(report))):
        if row["mean"]:
            parts = filter(None, (EVAL, row["split"], row["measure"], row["policy"]))
            values["/".join(map(_tag, parts))] = float(row["mean"])
    logger.scalars(values, step)
    logger.pictures({f"{EVAL}/{_tag(path.stem)}": path for path in sorted(pictures.glob("*.png"))}, step)


def _tag(text: str) -> str:
    """A name as services take it: words with dashes, and no further levels."""
    return re.sub(r"[^\w.=-]+", "_", text).strip("_")
