"""Processes of the command line, as many at the same time as their backend takes, each with a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cli.runs.backends.base import Backend, Cell, Child, Ended
from cli.runs.shown.cells import ENDED, FAILED, RUNNING, WAITING
from cli.runs.shown.live import bar as progress

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
    cells: bool = False,
) -> list[Child]:
    """Run every process; those that failed, which stop no other. What was lost with its place starts anew elsewhere.

    Args:
        children: in the order in which they start.
        backend: where they run, and how many at the same time.
        shown: whether a progress bar is shown.
        end: what a process is that ended without an error, for the progress.
        what: the processes are, for the progress.
        told: called with each process that ended without an error; what it says is shown.
        cells: whether each is a run of the study in whose folder its log lies: what becomes of it is written there, for
            ``kd-env watch``, and a terminal shows how far each is.
    """
    waiting, running, failed = [(child, 0) for child in children], list[_Running](), list[Child]()
    bar, crowd = progress([child.log for child in children], shown, end, what, cells), _Crowd(backend.wanted)
    try:
        while waiting or running:
            while waiting and (backend.jobs is None or len(running) < backend.jobs):
                child, begun = waiting.pop(0)
                running.append(_Running(backend.start(child), begun))
            bar.look({one.cell.child.log: WAITING if one.cell.waits() else RUNNING for one in running})
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
                    bar.look({child.log: WAITING})
                    continue
                if ended.status != 0:
                    failed.append(child)
                bar.look({child.log: ENDED if ended.status == 0 else FAILED})
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
