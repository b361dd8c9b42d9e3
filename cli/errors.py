"""Errors of the user in one line, errors of ours with a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, ModuleNotFoundError)


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
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"{program}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; go on with resume=true" if program.endswith(("train", "train_agent.py")) else ""
        print(f"\n{program}: stopped{hint}", file=sys.stderr)
        return 130
    return 0


def _short_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
