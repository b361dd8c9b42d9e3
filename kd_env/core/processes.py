"""Processes that end with the one that started them, whatever ends it.

A process cannot tell those that it started when it is killed. So each of them watches a pipe whose other end only the
first one holds: the system closes it, and then they end, too.

Workers of :mod:`multiprocessing` are forked from a server that has imported what they need: a new interpreter spends
seconds of processor on torch and transformers before it does any work.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")
Tell = Callable[[Any], None]
Process = subprocess.Popen[Any]


PRELOADED = ("torch._dynamo", "transformers.modeling_utils", "transformers.models.auto", "kd_env.envs")
"""Modules that workers find imported: those of a student and of the optimiser that trains it."""


def workers(*modules: str) -> ForkServerContext | SpawnContext:
    """How workers are started: forked from a server of this process that has imported what they need, once for all.

    Spawned where nothing is won (torch is not imported here) and where a fork after these imports is not safe: on other
    systems than Linux, and with a torch that was built for devices, whose drivers do not outlive a fork.

    Args:
        *modules: names of more modules that they need, for a server that does not run yet.
    """
    torch = sys.modules.get("torch")
    if sys.platform != "linux" or torch is None or torch.version.cuda or getattr(torch.version, "hip", None):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *modules])
    return context


def end_with_parent(environment: Mapping[str, str] | None = None) -> None:
    """In a worker of :mod:`multiprocessing`: end when the process that started it has ended.

    An interrupt from the terminal reaches every process of its group; workers leave it to the one that started them.
    In a process that nobody started so nothing happens.

    Args:
        environment: variables that it has in place of those of the server that it was forked from.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_when_ready(parent.sentinel)
        if environment is not None:
            replace_environment(environment)


def replace_environment(environment: Mapping[str, str]) -> None:
    """Give this process these variables in place of its own."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def run_module(words: Sequence[str], log: Path, environment: Mapping[str, str], threads: int) -> None:
    """In a worker: ``python -m <words>``, in a session of its own; it ends with the process that started it.

    Args:
        words: module and its arguments.
        log: gets what it prints, after what is there.
        environment: all its variables.
        threads: of torch. Where torch was imported before the fork, ``OMP_NUM_THREADS`` comes too late.
    """
    if hasattr(os, "setsid"):  # an interrupt from the terminal reaches it once, from the process above
        os.setsid()
    above = multiprocessing.parent_process()
    assert above is not None
    end_when_ready(above.sentinel)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    replace_environment(environment)
    import torch

    torch.set_num_threads(threads)
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        # Workers of multiprocessing end without it; loggers wait for it to send what they hold.
        atexit._run_exitfuncs()


def start(
    words: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """A process ``python -m <words>`` that ends with this one.

    Args:
        words: module and its arguments.
        environment: variables that it has beside, or in place of, those of this process.
        **options: of :class:`subprocess.Popen`.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    lifeline = _lifeline()
    return subprocess.Popen(
        [sys.executable, "-m", "kd_env.core.started", str(lifeline), *words],
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        pass_fds=(lifeline,),
        stdin=subprocess.DEVNULL,
        **options,
    )


def output(words: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any) -> str:
    """What a process like that of :func:`start` prints.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    process = start(
        words, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    with process:
        try:
            printed, said = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RuntimeError(f"The process `python -m {' '.join(words)[:200]}` failed:\n{said}")
    return str(printed)


def end(process: Process, patience: float) -> None:
    """Wait for a process that was told to end; kill it after ``patience`` seconds."""
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def side_by_side(work: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], told: Tell) -> list[Result]:
    """Results of ``work(*task, tell)`` for every task, each in a process of its own, all at once.

    Whatever ends this function ends the processes: an error in one of them, an interrupt, or a kill from outside.

    Args:
        work: a function of a module; it can tell things while it works.
        tasks: its arguments.
        told: called in this process with what is told.

    Raises:
        ChildProcessError: a process was ended from outside.
        Exception: what ``work`` raised, with the traceback of its process as a note.
    """
    context = workers()
    processes: dict[Connection, tuple[int, Any]] = {}
    results: dict[int, Result] = {}
    try:
        for place, task in enumerate(tasks):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(work, task, there, dict(os.environ)))
            process.start()
            there.close()
            processes[here] = place, process
        while len(results) < len(tasks):
            for ready in wait([here for here, (place, _) in processes.items() if place not in results]):
                assert isinstance(ready, Connection)
                place, process = processes[ready]
                kind, value = _received(ready, process)
                if kind == "result":
                    results[place] = value
                else:
                    told(value)
    finally:
        for _, process in processes.values():
            process.kill()
        for here, (_, process) in processes.items():
            process.join()
            here.close()
    return [results[place] for place in range(len(tasks))]


def _received(connection: Connection, process: Any) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"A worker process was ended from outside (exit status {process.exitcode}); where the system had too "
            "little memory, use fewer processes."
        ) from None
    if kind == "error":
        raise value
    return kind, value


def _worker(
    work: Callable[..., Any], task: tuple[Any, ...], connection: Connection, environment: Mapping[str, str]
) -> None:
    end_with_parent(environment)
    try:
        connection.send(("result", work(*task, lambda value: connection.send(("told", value)))))
    except Exception as error:
        error.add_note(traceback.format_exc())
        connection.send(("error", error))


@cache
def _lifeline() -> int:
    """The end of a pipe that is read by those that this process starts; the other end is open until it has ended."""
    reading, _ = os.pipe()
    return reading


def end_when_ready(watched: int) -> None:
    """Kill this process when a pipe is closed at its other end; files are written so that a kill harms none."""

    def watch() -> NoReturn:
        wait([watched])
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit

    threading.Thread(target=watch, name="ends with parent", daemon=True).start()
