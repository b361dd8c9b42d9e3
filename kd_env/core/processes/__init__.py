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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from kd_env.core.processes import server

Result = TypeVar("Result")
Tell = Callable[[Any], None]
Process = subprocess.Popen[Any]
_DEVICES = ("cuda", "hip", "xpu")
"""Versions that torch names where it was built for devices."""
PRELOADED = ("torch._dynamo", "transformers.modeling_utils", "transformers.models.auto", "kd_env.envs")
"""Modules that workers find imported: those of a student and of the optimiser that trains it."""


def workers(*modules: str, threads: int = 1) -> ForkServerContext | SpawnContext:
    """How workers are started: forked from a server of this process that has imported what they need, once for all.

    Spawned where nothing is won (torch is not imported here) and where a fork after these imports is not safe: on other
    systems than Linux, and with a torch that was built for devices, whose drivers do not outlive a fork.

    Args:
        *modules: names of more modules that they need, for a server that does not run yet.
        threads: of the arithmetic of numpy and scipy, for a server that does not run yet.
    """
    torch = sys.modules.get("torch")
    if sys.platform != "linux" or torch is None or any(getattr(torch.version, kind, None) for kind in _DEVICES):
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([server.__name__, *PRELOADED, *modules])
    own = {server.MARK: "1", "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    # It finds our packages before those of the folder in which the command is given.
    with _environment({**os.environ, **own, "PYTHONPATH": _path(), "PYTHONSAFEPATH": "1"}):
        ensure_running()
    return context


@contextmanager
def without_main() -> Iterator[None]:
    """Workers that are started meanwhile do not run the script of this process, which may do work without asking."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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
            _settle(environment)


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
    with log.open("ab") as file, open(os.devnull, "rb") as nothing:
        for source, target in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(source.fileno(), target)
    _settle(environment)
    import torch

    torch.set_num_threads(threads)
    multiprocessing.set_start_method(None, force=True)  # what the module starts, it starts as on its own
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        # Workers of multiprocessing end without these; loggers wait for them to send what they hold.
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()


def _settle(environment: Mapping[str, str]) -> None:
    """Give a forked process variables and random numbers of its own, in place of the server's."""
    _replace(environment)
    import numpy as np

    np.random.seed(None)  # it is this state that a fork copies


def _replace(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    _replace(environment)
    try:
        yield
    finally:
        _replace(before)


def _path() -> str:
    """``PYTHONPATH`` with the folder of our packages in front."""
    root = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def start(
    words: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """A process ``python -m <words>`` that ends with this one.

    Args:
        words: module and its arguments.
        environment: variables that it has beside, or in place of, those of this process.
        **options: of :class:`subprocess.Popen`.
    """
    lifeline = _lifeline()
    return subprocess.Popen(
        [sys.executable, "-m", "kd_env.core.processes.started", str(lifeline), *words],
        env={**os.environ, "PYTHONPATH": _path(), **(environment or {})},
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
