"""``python -m tests.sleepers``: a job with one process of its own and two workers, all of which sleep."""

from __future__ import annotations

import os
import sys
import time

from cli.errors import going_on, guarded
from kd_env.core.processes import Tell, side_by_side, start


def sleep(seconds: float, tell: Tell) -> str:
    """Tell the process id, then sleep."""
    tell(os.getpid())
    time.sleep(seconds)
    return f"slept {seconds}"


def fail(error: Exception, tell: Tell) -> None:
    """Raise what is given."""
    raise error


def die(tell: Tell) -> None:
    """End as the system ends a process that takes too much memory."""
    os.kill(os.getpid(), 9)


def job() -> None:
    """Print the ids of all processes, and wait for them."""
    child = start(["timeit", "-n1", "-r1", "import time; time.sleep(100)"])
    print(child.pid, flush=True)
    with going_on(lambda: "all is kept."):
        side_by_side(sleep, [(100.0,), (100.0,)], lambda pid: print(pid, flush=True))


if __name__ == "__main__":
    sys.exit(guarded(job, "sleepers", debug=False))
