"""``backend=slurm``: each process under a job of Slurm, through submitit, which can also stand in for Slurm here."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from cli.runs.backends.base import Backend, Cell, Child, Ended
from cli.runs.backends.local import PATIENCE
from cli.runs.backends.shared import marked
from cli.runs.backends.work import Work, run, work_of
from kd_files.reading import read_json
from kd_files.writing import write_json

FOLDER = "slurm"
"""In the folder of a study: what submitit and the jobs write."""
_WORD = {"status": int, "said": str, "host": str}
_WAITING = ("PENDING", "REQUEUED", "UNKNOWN")


class Job:
    """What a job is: it runs one process, and says in a file how that ended. Slurm may run it again."""

    def __call__(self, work: Work, word: str) -> None:
        """Run a process to its end."""
        status, said = run(Work(*work))
        write_json(Path(word), {"status": status, "said": said, "host": socket.gethostname()})

    def checkpoint(self, work: Work, word: str) -> Any:
        """The job again, where it was preempted or its time has run out: a training goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, work, word)


class Limits(NamedTuple):
    """What a study asks Slurm for, beside CPUs and devices."""

    cluster: str
    """``slurm``, or ``local``: processes of this machine in its place."""
    partition: str | None
    account: str | None
    minutes: int
    memory_gb: float | None
    options: Mapping[str, Any]
    """Of ``sbatch``, by name."""


class SlurmCell(Cell):
    """A process under a job."""

    def __init__(self, child: Child, job: Any, word: Path) -> None:
        super().__init__(child)
        self.job, self._word = job, word

    def waits(self) -> bool:
        """Whether its job is queued."""
        return self.job.state in _WAITING

    def ended(self) -> Ended | None:
        """How it ended; None where it has not. A job that ends without a word was lost."""
        if not self.job.done():
            return None
        if not self._word.is_file():
            return Ended(
                1, f"its job {self.job.job_id} ended as {self.job.state}, see {self.job.paths.stderr}", lost=True
            )
        word = read_json(self._word, "delete it", _WORD)
        return Ended(word["status"], word["said"])


class Slurm(Backend):
    """Jobs of Slurm.

    Args:
        jobs: that are queued or run at the same time; None: all.
        cpus: of each process, which are its threads.
        gpus: of each process.
        retries: of a process whose job was lost, and of one whose time ran out.
        study: the folder of the study.
        folders: that all nodes have to see, by the option that names them.
        limits: of the jobs.
    """

    def __init__(
        self,
        jobs: int | None,
        cpus: int,
        gpus: int,
        retries: int,
        study: Path,
        folders: Mapping[str, Path],
        limits: Limits,
    ) -> None:
        self.jobs, self.retries, self.poll = jobs, retries, 0.1 if limits.cluster == "local" else 1.0
        self.wanted = f"{cpus} CPU" + (f" and {gpus} GPU" if gpus else "")
        self._cpus, self._gpus, self._study, self._folders, self._limits = cpus, gpus, study, folders, limits
        self._open = ExitStack()
        self._marks: dict[str, str] = {}
        self._executor: Any = None

    def __enter__(self) -> Self:
        """Make an executor; jobs themselves look whether they see the folders, since their nodes are not known yet.

        Raises:
            ValueError: there is no Slurm here, or it has no such option.
        """
        import submitit

        limits = self._limits
        if limits.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ValueError(
                "backend=slurm needs the commands of Slurm, and there is no sbatch here: start the study on a machine "
                "of the cluster, or set slurm_cluster=local for processes of this one."
            )
        self._marks = self._open.enter_context(marked(self._folders))
        self._folder = (self._study / FOLDER).resolve()
        self._executor = submitit.AutoExecutor(
            self._folder, cluster=limits.cluster, slurm_max_num_timeout=self.retries, local_max_num_timeout=self.retries
        )
        self._executor.update_parameters(
            name=f"kd-env-{self._study.name}",
            timeout_min=limits.minutes,
            cpus_per_task=self._cpus,
            gpus_per_node=self._gpus,
            mem_gb=limits.memory_gb,
            slurm_partition=limits.partition,
            slurm_account=limits.account,
            slurm_additional_parameters=dict(limits.options),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start(self, child: Child) -> SlurmCell:
        """Hand in a job that runs a process."""
        word = self._folder / f"{child.name}.json"
        word.unlink(missing_ok=True)
        work = work_of(child, self._cpus, self._gpus, self._marks)
        with _interruptible():
            return SlurmCell(child, self._executor.submit(Job(), tuple(work), str(word)), word)

    def stop(self, cells: Sequence[Cell]) -> None:
        """Cancel the jobs; those of this machine are waited for."""
        mine = [cell for cell in cells if isinstance(cell, SlurmCell)]
        for cell in mine:
            cell.job.cancel(check=False)
        end = time.monotonic() + PATIENCE
        while self._limits.cluster == "local" and time.monotonic() < end and not all(cell.job.done() for cell in mine):
            time.sleep(self.poll)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let processes that are started be interrupted, by which submitit cancels the jobs of this machine.

    What a shell starts in the background ignores interrupts, and so would what it starts itself.
    """
    ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignores or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
