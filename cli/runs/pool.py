"""Processes of the command line side by side, each with one thread and a log file; they end with the one above them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from kd_env.core import processes

_POLL, _PATIENCE = 0.1, 10.0
"""Seconds between two looks at the processes, and those that a stopped one has to end by itself."""


class Child(NamedTuple):
    """One process."""

    name: str
    words: tuple[str, ...]
    """Module and its arguments, as after ``python -m``."""
    log: Path
    """Gets what it prints, after what is there."""


class _Running(NamedTuple):
    child: Child
    process: subprocess.Popen[Any]
    log: IO[bytes]


def run_all(children: Sequence[Child], jobs: int, *, shown: bool, end: str = "finished") -> list[Child]:
    """Run every process, ``jobs`` at a time; those that failed, which stop no other.

    Args:
        children: in the order in which they start.
        jobs: at the same time.
        shown: whether a progress bar is shown.
        end: what a process is that ended without an error, for the progress.
    """
    waiting, running, failed = list(children), list[_Running](), list[Child]()
    bar = _Bar(len(children), shown, end)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(0)))
            time.sleep(_POLL)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                one.log.close()
                if one.process.returncode != 0:
                    failed.append(one.child)
                bar.ended(one.child.name, one.process.returncode)
    finally:
        bar.close()
        _stop(running)
    return failed


def _start(child: Child) -> _Running:
    log = child.log.open("ab")
    # A session of its own: an interrupt from the terminal reaches it once, from here, and not its workers.
    process = processes.start(
        child.words,
        environment={"OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return _Running(child, process, log)


def _stop(running: Sequence[_Running]) -> None:
    """Terminate the processes, so that they close what they opened; kill those that stay, and so their workers."""
    for one in running:
        one.process.terminate()
    end = time.monotonic() + _PATIENCE
    for one in running:
        try:
            one.process.wait(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        one.log.close()


class _Bar:
    """Processes that ended and the time left; without a terminal a line for each."""

    def __init__(self, total: int, shown: bool, end: str) -> None:
        self._total, self._done, self._begin, self._shown, self._end = total, 0, time.monotonic(), shown, end
        self._progress = None
        if shown and total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._progress.add_task("trainings", total=total, text="")
            self._progress.start()

    def ended(self, name: str, status: int) -> None:
        self._done += 1
        left = (time.monotonic() - self._begin) / self._done * (self._total - self._done)
        shown = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        text = f"{name} {self._end if status == 0 else 'FAILED'}  ETA {shown}"
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, text=text)
        elif self._shown:
            print(f"trainings {self._done}/{self._total}  {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
