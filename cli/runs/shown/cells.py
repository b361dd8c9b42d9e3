"""What became of the cells of a study, in a file of its folder, so that who watches it need not ask its process.

A cell is one run of a study. The file names those that are not begun, too, which nothing else in the folder does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kd_files.writing import write_json

CELLS = "cells.json"
WAITING, RUNNING, FAILED, ENDED = "waiting", "running", "failed", "ended"


class Record(NamedTuple):
    """The file of one study."""

    begun: float
    """When its process began, in seconds since 1970."""
    before: float
    """How many cells' worth of work was done by then."""
    cells: Mapping[str, str]
    """By the name of the run folder what became of it: waiting, running, failed, or ended without an error."""


class Cells:
    """Writes the files of the studies whose cells one process runs; a study's folder is that of its cells' logs.

    Args:
        logs: of all cells, ``<study>/<run folder>.log``.
        before: by study, how many cells' worth of work is done.
    """

    def __init__(self, logs: Iterable[Path], before: Callable[[Path], float]) -> None:
        self.begun = time.time()
        self._states = {log: WAITING for log in logs}
        self._written: dict[Path, dict[str, str]] = {}
        self._before = {folder: before(folder) for folder in self.folders}

    @property
    def folders(self) -> tuple[Path, ...]:
        """The studies."""
        return tuple(dict.fromkeys(log.parent for log in self._states))

    def become(self, log: Path, state: str) -> None:
        """Note the state of a cell; :meth:`write` keeps it."""
        self._states[log] = state

    def write(self) -> None:
        """Bring the files up to date."""
        for folder in self.folders:
            cells = {log.stem: state for log, state in self._states.items() if log.parent == folder}
            if cells != self._written.get(folder):
                write_json(folder / CELLS, {"begun": self.begun, "before": self._before[folder], "cells": cells})
                self._written[folder] = cells


def read_record(folder: Path) -> Record | None:
    """What stands in a study's folder; None where nothing does, or something else."""
    try:
        values = json.loads((folder / CELLS).read_text(encoding="utf-8"))
        cells = {str(name): str(state) for name, state in values["cells"].items()}
        return Record(float(values["begun"]), float(values["before"]), cells)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
