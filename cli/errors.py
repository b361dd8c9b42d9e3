"""Errors of the user in one line, errors of ours with a traceback."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable

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


def guarded(job: Callable[[], object], program: str, *, debug: bool) -> int:
    """Run a job; the exit status.

    Args:
        job: what to do.
        program: name in front of messages.
        debug: show the traceback of errors that are otherwise told in one line; so does ``HYDRA_FULL_ERROR=1``.
    """
    warnings.showwarning = _short_warning
    try:
        job()
    except USER_ERRORS as error:
        if debug or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = " ".join(_words(error).split()) or type(error).__name__
        print(f"{program}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; go on with resume=true" if program.endswith(("train", "train_agent.py")) else ""
        print(f"\n{program}: stopped{hint}", file=sys.stderr)
        return 130
    return 0


def _words(error: Exception) -> str:
    """What an error says; of the system, with the file that it is about and the remedy."""
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or 'the system refused it'}; {_REMEDIES[error.errno]}."


def _short_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
