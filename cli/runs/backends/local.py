"""``backend=local``: processes of this one, each with a log file; they end with the one above them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import IO, Any

from cli.runs.backends.base import Backend, Cell, Child, Ended
from kd_env.core import processes

PATIENCE = 10.0
"""Seconds that a process has to end by itself when it is stopped."""


class LocalCell(Cell):
    """A process of this one."""

    def __init__(self, child: Child, process: subprocess.Popen[Any], log: IO[bytes]) -> None:
        super().__init__(child)
        self.process, self.log = process, log

    def ended(self) -> Ended | None:
        """How it ended; None where it has not."""
        status = self.process.poll()
        if status is None:
            return None
        self.log.close()
        return Ended(status)


class Local(Backend):
    """Processes of this one.

    Args:
        jobs: at the same time.
        cpus: threads of each.
    """

    def __init__(self, jobs: int, cpus: int = 1) -> None:
        self.jobs, self._cpus = jobs, cpus

    def start(self, child: Child) -> LocalCell:
        """Start a process."""
        log = child.log.open("ab")
        # A session of its own: an interrupt from the terminal reaches it once, from here, and not its workers.
        process = processes.start(
            child.words,
            environment={"OMP_NUM_THREADS": str(self._cpus)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return LocalCell(child, process, log)

    def stop(self, cells: Sequence[Cell]) -> None:
        """Terminate the processes, so that they close what they opened; kill those that stay, and so their workers."""
        mine = [cell for cell in cells if isinstance(cell, LocalCell)]
        for cell in mine:
            cell.process.terminate()
        end = time.monotonic() + PATIENCE
        for cell in mine:
            processes.end(cell.process, max(0.0, end - time.monotonic()))
            cell.log.close()
