"""``python -m tests.sleepers``: a job with one process of its own and two workers, all of which sleep."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
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


def surroundings(tell: Tell) -> tuple[str | None, str | None, bool, float]:
    """Two variables, whether PyTorch was imported before anybody asked for it, and a random number of numpy's own."""
    import_was_made = "torch" in sys.modules
    import numpy as np

    return os.environ.get("KD_ENV_SAID"), os.environ.get("HF_HUB_OFFLINE"), import_was_made, np.random.rand()


def said(status: str) -> None:
    """Print what a process has of its own, and end with a status."""
    import torch

    atexit.register(print, "left", flush=True)
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread has ended", flush=True))).start()
    own = os.getpid() == os.getsid(0), multiprocessing.get_start_method(), sys.stdin.read(), os.read(0, 1)
    print(sys.argv[1:], os.environ["KD_ENV_SAID"], torch.get_num_threads(), *own, flush=True)
    sys.exit(int(status))


def slow(status: str) -> None:
    """Take long to close what is open."""
    try:
        print("works", flush=True)
        time.sleep(100)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(float(status))
        print("closed", flush=True)


def job() -> None:
    """Print the ids of all processes, and wait for them."""
    child = start(["timeit", "-n1", "-r1", "import time; time.sleep(100)"])
    print(child.pid, flush=True)
    with going_on(lambda: "all is kept."):
        side_by_side(sleep, [(100.0,), (100.0,)], lambda pid: print(pid, flush=True))


if __name__ == "__main__":
    if sys.argv[1:2] == ["said"]:
        said(sys.argv[2])
    if sys.argv[1:2] == ["slow"]:
        sys.exit(guarded(lambda: slow(sys.argv[2]), "sleepers", debug=False))
    sys.exit(guarded(job, "sleepers", debug=False))
