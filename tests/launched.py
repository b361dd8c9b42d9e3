"""Two ranks of a launcher, with the variables that torchrun would give them."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch  # noqa: F401 - with it here, processes are forked, which spares each the seconds of its imports

from kd_env.core import processes


def two_ranks(words: Sequence[str], **environment: str) -> list[tuple[int, str]]:
    """Exit status and output of two processes ``python -m <words>``, the leader's first; ``{rank}`` is filled in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = processes.workers()
    running = []
    with tempfile.TemporaryDirectory() as folder:
        for rank in "01":
            place = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            own = {**os.environ, **environment, **place, "OMP_NUM_THREADS": "1"}
            filled, log = [word.replace("{rank}", rank) for word in words], Path(folder, rank)
            running.append((context.Process(target=processes.run_module, args=(filled, log, own, 1)), log))
            running[-1][0].start()
        for process, _ in running:
            process.join()
        return [(int(process.exitcode or 0), log.read_text(encoding="utf-8")) for process, log in running]
