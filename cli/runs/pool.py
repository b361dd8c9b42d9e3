"""Processes of the command line, as many at the same time as their backend takes, each with a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cli.runs.backends.base import Backend, Cell, Child, Ended

SAID_AFTER, SAID_EVERY = 5.0, 60.0
"""Seconds that processes wait for a place before that is said, and then between two times."""


class _Running(NamedTuple):
    cell: Cell
    begun: int
    """How often it was handed in before."""


def run_all(
    children: Sequence[Child],
    backend: Backend,
    *,
    shown: bool,
    end: str = "finished",
    what: str = "trainings",
    told: Callable[[Child], str] | None = None,
) -> list[Child]:
    """Run every process; those that failed, which stop no other. What was lost with its place starts anew elsewhere.

    Args:
        children: in the order in which they start.
        backend: where they run, and how many at the same time.
        shown: whether a progress bar is shown.
        end: what a process is that ended without an error, for the progress.
        what: the processes are, for the progress.
        told: called with each process that ended without an error; what it says is shown.
    """
    waiting, running, failed = [(child, 0) for child in children], list[_Running](), list[Child]()
    bar, crowd = _Bar(len(children), shown, end, what), _Crowd(backend.wanted)
    try:
        while waiting or running:
            while waiting and (backend.jobs is None or len(running) < backend.jobs):
                child, begun = waiting.pop(0)
                running.append(_Running(backend.start(child), begun))
            time.sleep(backend.poll)
            for one in list(running):
                ended = one.cell.ended()
                if ended is None:
                    continue
                running.remove(one)
                child = one.cell.child
                _note(child, ended)
                if ended.lost and one.begun < backend.retries:
                    bar.say(f"{child.name} was lost ({ended.said}); it goes on, {one.begun + 1} of {backend.retries}")
                    waiting.insert(0, (child, one.begun + 1))
                    continue
                if ended.status != 0:
                    failed.append(child)
                bar.ended(child.name, ended.status)
                if ended.status == 0 and told is not None:
                    bar.say(told(child))
            if said := crowd.said([one.cell for one in running]):
                bar.say(said)
    finally:
        bar.close()
        backend.stop([one.cell for one in running])
    return failed


def refuse_failed(failed: Sequence[Child], count: int, what: str) -> None:
    """Tell the processes that failed, of ``count``, with their logs.

    Raises:
        ValueError: there are any.
    """
    if failed:
        logs = ", ".join(f"{child.log} ({_last_line(child.log)})" for child in failed)
        raise ValueError(
            f"{len(failed)} of {count} {what} failed; the others are kept, and the same command tries these again. "
            f"Logs: {logs}"
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "empty"


def _note(child: Child, ended: Ended) -> None:
    """What its place says of a process stands at the end of its log."""
    if ended.said:
        with child.log.open("a", encoding="utf-8") as log:
            log.write(f"{ended.said}\n")


class _Crowd:
    """Says at times that processes wait for a place."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._next: float | None = None

    def said(self, cells: Sequence[Cell]) -> str:
        """What there is to say now, mostly nothing."""
        count = sum(cell.waits() for cell in cells)
        now = time.monotonic()
        if count == 0:
            self._next = None
        elif self._next is None:
            self._next = now + SAID_AFTER
        elif now >= self._next:
            self._next = now + SAID_EVERY
            return f"waiting for {self._wanted} each: {count} queued, {len(cells) - count} running"
        return ""


class _Bar:
    """Processes that ended and the time left; without a terminal a line for each."""

    def __init__(self, total: int, shown: bool, end: str, what: str) -> None:
        self._total, self._done, self._begin, self._shown, self._end = total, 0, time.monotonic(), shown, end
        self._what, self._progress = what, None
        if shown and total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._progress.add_task(what, total=total, text="")
            self._progress.start()

    def ended(self, name: str, status: int) -> None:
        self._done += 1
        left = (time.monotonic() - self._begin) / self._done * (self._total - self._done)
        shown = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        text = f"{name} {self._end if status == 0 else 'FAILED'}  ETA {shown}"
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, text=text)
        elif self._shown:
            print(f"{self._what} {self._done}/{self._total}  {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that matters also where no progress is shown."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
