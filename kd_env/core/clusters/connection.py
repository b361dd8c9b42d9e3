"""The connection of this process to a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("kd_env")

PATIENCE = 60.0
"""Seconds in which a node has to answer."""


def connect(address: str | None = None) -> bool:
    """Connect this process to a Ray cluster, unless it is connected; whether it was not.

    Signals keep their handlers, which Ray would replace, and Ray reports nothing to anyone.

    Args:
        address: of the cluster. None takes that of ``RAY_ADDRESS`` or the one that runs here; where there is none, one
            of this machine's CPUs is started, which ends with this process.

    Raises:
        ValueError: no cluster answers at ``address``.
    """
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    given = address or os.environ.get("RAY_ADDRESS")
    if given is not None:
        _check_answers(given)
    with _own_signals():
        try:
            ray.init(address=address or "auto", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if given is not None or "multiple" in str(error):
                raise _no_cluster(given or "auto", str(error)) from error
            ray.init(include_dashboard=False, **options)
            logger.warning("No Ray cluster runs here: one of this machine alone was started.")
    return True


def disconnect() -> None:
    """Leave the cluster; what this process has there ends."""
    import ray

    ray.shutdown()


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that are there, with ``NodeID``, ``NodeManagerHostname`` and ``Resources``."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def size() -> str:
    """What the cluster has, in words."""
    nodes = alive_nodes()
    totals = {name: sum(node["Resources"].get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)} with {totals['CPU']:g} CPUs and {totals['GPU']:g} GPUs"


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> ValueError:
    return ValueError(
        f"No Ray cluster answers at {address!r} ({' '.join(reason.split())[:200]}). Give that of one that runs, as "
        "10.0.0.1:6379 (`ray start --head` starts one and says its address); where it asks for a token, set "
        "RAY_AUTH_MODE=token."
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handler of SIGTERM back; handlers are of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
