"""Two ranks of a launcher, started as torchrun would start them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from typing import Any

from kd_env.core import processes


def two_ranks(words: Sequence[str], **environment: str) -> list[tuple[int, str]]:
    """Exit status and output of two processes ``python -m <words>``, the leader's first; ``{rank}`` is filled in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running: list[subprocess.Popen[Any]] = []
    for rank in "01":
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = {**environment, **place, "OMP_NUM_THREADS": "1"}
        filled = [word.replace("{rank}", rank) for word in words]
        running.append(
            processes.start(filled, environment=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    said = [process.communicate()[0] for process in running]
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]
