"""Errors of the user in one line, errors of ours with a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

USER_ERRORS = (ValueError, OSError, ModuleNotFoundError)
_FULL = "the disk or the quota is full: free some room, and go on with the same command"
_PLACE = "choose another place, or change its rights"
_KIND = "a file is where a folder should be, or the other way round"
_REMEDIES = {
    **{errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EFBIG: _FULL},
    **{errno.EROFS: _PLACE, errno.EACCES: _PLACE, errno.EPERM: _PLACE},
    **{errno.ENOTDIR: _KIND, errno.EISDIR: _KIND, errno.EEXIST: _KIND, errno.ENOTEMPTY: _KIND},
    **{errno.ENOENT: "check the path", errno.ESTALE: _PLACE},
    **{errno.ENAMETOOLONG: "choose a shorter name or place", errno.ELOOP: "links on the way to it lead in a circle"},
    **{errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or use fewer processes"},
}
"""By the number that the system gives an error."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: stopped like by an interrupt from the terminal, so that everything is closed."""


@contextmanager
def going_on(kept: Callable[[], str]) -> Iterator[None]:
    """Where the block is stopped from outside, have it told what is kept and how to go on.

    Args:
        kept: says so; called when it is stopped.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(kept())
        raise


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM raise :class:`Terminated`; by itself it would end this process without a word.

    A second one is ignored while everything is closed. Handlers exist in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminated(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def guarded(job: Callable[[], object], program: str, *, debug: bool) -> int:
    """Run a job; the exit status: 0, 2 after an error of the user, 130 after an interrupt, 143 after SIGTERM.

    Args:
        job: what to do.
        program: name in front of messages.
        debug: show the traceback of errors that are otherwise told in one line; so does ``HYDRA_FULL_ERROR=1``.
    """
    warnings.showwarning = _short_warning
    try:
        with terminated_as_interrupted():
            job()
    except USER_ERRORS as error:
        if debug or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = " ".join(_words(error).split()) or type(error).__name__
        print(f"{program}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", ["nothing was begun."])
        print(f"\n{program}: stopped: {' '.join(notes)}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0


def _words(error: Exception) -> str:
    """What an error says; of the system, with the file that it is about and the remedy."""
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or 'the system refused it'}; {_REMEDIES[error.errno]}."


def _short_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
