"""``backend=local``: processes of this one, each with a log file; they end with the one above them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from cli.runs.backends.base import Backend, Cell, Child, Ended
from kd_env.core import processes

PATIENCE = 10.0
"""Seconds that a process has to end by itself when it is stopped."""
PRELOADED = (f"{__name__.split('.', maxsplit=1)[0]}.jobs.train", "hydra", "matplotlib.figure")
"""Modules that every training needs, beside those of workers."""


class LocalCell(Cell):
    """A process of this one."""

    def __init__(self, child: Child, process: BaseProcess) -> None:
        super().__init__(child)
        self.process = process

    def ended(self) -> Ended | None:
        """How it ended; None where it has not."""
        status = self.process.exitcode
        return None if status is None else Ended(status)


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
        child.log.open("ab").close()  # where it cannot be written, that is said here
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._cpus)}
        context = processes.workers(*PRELOADED, threads=self._cpus)
        words = child.words, child.log, environment, self._cpus
        with processes.without_main():
            process = context.Process(target=processes.run_module, args=words)
            process.start()
        return LocalCell(child, process)

    def stop(self, cells: Sequence[Cell]) -> None:
        """Terminate the processes, so that they close what they opened; kill those that stay, and so their workers."""
        mine = [cell.process for cell in cells if isinstance(cell, LocalCell)]
        for process in mine:
            process.terminate()
        end = time.monotonic() + PATIENCE
        try:
            for process in mine:
                process.join(max(0.0, end - time.monotonic()))
        finally:  # also when it is interrupted once more: this process would wait for them at its end
            for process in mine:
                if process.exitcode is None:
                    process.kill()
                    process.join()
