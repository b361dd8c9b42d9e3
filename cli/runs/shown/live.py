"""Progress of many processes: a bar or lines, and of a study's cells a view that is kept up to date."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.runs.shown.cells import Cells
from cli.runs.shown.studies import Reader
from cli.runs.shown.view import render

EVERY = 1.0
"""Seconds between two looks at the files of a study."""


class Bar:
    """Processes that ended and the time left; without a terminal a line for each."""

    def __init__(self, total: int, shown: bool, end: str, what: str) -> None:
        self._total, self._done, self._begin, self._shown, self._end = total, 0, time.monotonic(), shown, end
        self._what, self._progress = what, None
        if shown and total and sys.stderr.isatty():
            self._progress = self._open()

    def _open(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn(self._what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._task = progress.add_task(self._what, total=self._total, text="")
        progress.start()
        return progress

    def ended(self, name: str, status: int) -> None:
        """A process has ended."""
        self._done += 1
        left = (time.monotonic() - self._begin) / self._done * (self._total - self._done)
        shown = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        text = f"{name} {self._end if status == 0 else 'FAILED'}  ETA {shown}"
        if self._progress is not None:
            self._tell(text)
        elif self._shown:
            print(f"{self._what} {self._done}/{self._total}  {text}", file=sys.stderr, flush=True)

    def _tell(self, text: str) -> None:
        assert self._progress is not None
        self._progress.update(self._task, completed=self._done, text=text)

    def say(self, text: str) -> None:
        """A line that matters also where no progress is shown."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def look(self, states: Mapping[Path, str]) -> None:
        """Take the states of the processes that have changed, by their logs."""

    def close(self) -> None:
        """Leave what is shown as it is."""
        if self._progress is not None:
            self._progress.stop()


class StudyBar(Bar):
    """Of the cells of a study: keeps ``cells.json``, and on a terminal shows all that it and the other files say.

    Args:
        logs: of all cells.
        shown: whether progress is shown.
        end: what a cell is that ended without an error.
        what: the cells are.
    """

    def __init__(self, logs: Sequence[Path], shown: bool, end: str, what: str) -> None:
        self._cells = Cells(logs, lambda folder: _reader([folder]).read().share)
        self._cells.write()
        self._reader, self._next = _reader(self._cells.folders), 0.0
        super().__init__(len(logs), shown, end, what)

    def _open(self) -> Any:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        live = Live(console=console, auto_refresh=False)
        live.start()
        return live

    def _tell(self, text: str) -> None:
        self._next = 0.0

    def look(self, states: Mapping[Path, str]) -> None:
        """Keep the states, and show the study anew once a second."""
        for log, state in states.items():
            self._cells.become(log, state)
        self._cells.write()
        self._draw(time.monotonic() >= self._next)

    def _draw(self, due: bool) -> None:
        if self._progress is not None and due:
            self._next = time.monotonic() + EVERY
            self._progress.update(render(self._reader.read(), self._progress.console.width), refresh=True)

    def close(self) -> None:
        """Leave the last view as it is."""
        self._draw(True)
        super().close()


def bar(logs: Sequence[Path], shown: bool, end: str, what: str, cells: bool) -> Bar:
    """The progress of processes with these logs; ``cells`` says whether each is a run of a study."""
    return StudyBar(logs, shown, end, what) if cells and logs else Bar(len(logs), shown, end, what)


def _reader(folders: Sequence[Path]) -> Reader:
    root = folders[0] if len(folders) == 1 else folders[0].parent
    return Reader(root.name, {folder.name: folder for folder in folders}, root)
