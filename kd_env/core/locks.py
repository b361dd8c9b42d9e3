"""Locks on files, so that of several processes that want to make the same thing one makes it and the others wait.

A lock file holds who has it, for those who wait or are refused. What is in it does not count: the system frees the
lock of a process that ends, however it ends, and the next one takes the file over.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("kd_env")

POLL_SECONDS = 0.2


def acquire(lock: Path) -> int | None:
    """Descriptor of the lock; None where another process has it. The system frees it when its holder ends.

    Raises:
        ModuleNotFoundError: the system has no file locks of Unix.
    """
    import fcntl

    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # held by another, or that has just finished and taken the file away
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def release(lock: Path, held: int) -> None:
    """Free a lock that :func:`acquire` gave, and take its file away."""
    lock.unlink(missing_ok=True)  # while it is held: who has opened it meanwhile sees that its name is gone
    os.close(held)


def owner(lock: Path) -> str:
    """Who holds a lock, in words."""
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, LookupError, TypeError):  # it has just ended, or is about to write its name
        return "another process"


@contextmanager
def alone(output: Path, what: str) -> Iterator[None]:
    """Be the only process that makes ``output``; waits for one that already does.

    Who waited has to look whether the other has finished it. Without file locks of Unix nobody waits.

    Args:
        output: what is made; the lock lies beside it as ``.<name>.lock``.
        what: for the line that is logged while another process is waited for.
    """
    lock = _beside(output)
    try:
        held = acquire(lock)
    except ModuleNotFoundError:
        yield
        return
    if held is None:
        logger.warning("The %s %s is being made by %s; waiting for it.", what, output, owner(lock))
        while (held := acquire(lock)) is None:
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        release(lock, held)


@contextmanager
def owned(folder: Path, what: str, remedy: str) -> Iterator[None]:
    """Be the only process that writes into ``folder``, from before it exists; refused where another one does.

    Without file locks of Unix nobody is refused.

    Args:
        folder: what is written; the lock lies beside it as ``.<name>.lock``.
        what: of the folder, for the message.
        remedy: what to do instead, for the message.

    Raises:
        ValueError: another process holds it, named with its host.
    """
    lock = _beside(folder)
    try:
        held = acquire(lock)
    except ModuleNotFoundError:
        yield
        return
    if held is None:
        raise ValueError(f"The {what} {folder} is being written by {owner(lock)}; {remedy}.")
    try:
        yield
    finally:
        release(lock, held)


def is_owned(folder: Path) -> bool:
    """Whether a process seems to write into a folder, without touching its lock.

    The process that the lock names is asked for on this host; that of another host counts as long as the lock is there.
    """
    try:
        holder = json.loads(_beside(folder, make=False).read_text(encoding="utf-8"))
        if holder["host"] != socket.gethostname():
            return True
        os.kill(int(holder["pid"]), 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return False
    return True


def _beside(output: Path, make: bool = True) -> Path:
    """The lock of a folder, the same by whatever links it is reached."""
    place = output.resolve()
    if make:
        place.parent.mkdir(parents=True, exist_ok=True)
    return place.with_name(f".{place.name}.lock")
