"""Locks on files, so that of several processes that want to make the same thing one makes it and the others wait."""

from __future__ import annotations

import logging
import os
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


@contextmanager
def alone(output: Path, what: str) -> Iterator[None]:
    """Be the only process that makes ``output``; waits for one that already does.

    Who waited has to look whether the other has finished it. Without file locks of Unix nobody waits.

    Args:
        output: what is made; the lock lies beside it as ``.<name>.lock``.
        what: for the line that is logged while another process is waited for.
    """
    lock = output.with_name(f".{output.name}.lock")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = acquire(lock)
    except ModuleNotFoundError:
        yield
        return
    if held is None:
        logger.warning("Another process makes the %s %s; waiting for it.", what, output)
        while (held := acquire(lock)) is None:
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        release(lock, held)
