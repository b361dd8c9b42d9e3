"""A process of a study on another machine: what is sent there, all of it plain values, and what is done with it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cli.runs.backends.base import Child
from cli.runs.backends.local import PATIENCE
from cli.runs.backends.shared import unseen
from kd_env.core import processes

POLL = 0.1
_PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "XDG_CACHE_HOME")
"""Variables that say where files are, beside our own; no others: some hold secrets."""


class Work(NamedTuple):
    """One process."""

    words: tuple[str, ...]
    log: str
    directory: str
    """In which the study was started, to which paths in the words are relative."""
    environment: dict[str, str]
    marks: dict[str, str]
    """Files that are seen from everywhere (:mod:`cli.runs.backends.shared`)."""
    gpus: bool
    """Whether the process was given a device."""


def work_of(child: Child, cpus: int, gpus: float, marks: Mapping[str, str]) -> Work:
    """What is sent for a process that has ``cpus`` threads and ``gpus`` devices."""
    environment = {
        name: value for name, value in os.environ.items() if name.startswith("KD_ENV_") or name in _PASSED_ON
    }
    environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # homes may differ
    environment["OMP_NUM_THREADS"] = str(cpus)
    if not gpus:  # device=auto takes none that it was not given
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return Work(child.words, str(child.log.resolve()), os.getcwd(), environment, dict(marks), gpus > 0)


def run(work: Work, stopped: Callable[[], bool] = lambda: False) -> tuple[int, str]:
    """Run a process here until it ends or is stopped; its status, and what stood in its way.

    Args:
        work: which.
        stopped: asked now and then.
    """
    if words := unseen(work.marks, work.directory) or _without_device(work):
        return 1, words
    with Path(work.log).open("ab") as log:
        process = processes.start(
            work.words,
            environment=work.environment,
            cwd=work.directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and not stopped():
                time.sleep(POLL)
        finally:
            process.terminate()
            processes.end(process, PATIENCE)
    return int(process.returncode), ""


def _without_device(work: Work) -> str:
    """What to say where a device was given that torch does not see; nothing where all is well."""
    if work.gpus:
        from kd_env.models.devices import resolve_device

        try:
            resolve_device("cuda")
        except ValueError as error:
            return f"gpus=... gave a device, and torch sees none there: {error}"
    return ""
