"""The nodes of a Ray cluster, asked before any work whether they can do that of a study."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import kd_env
from cli.runs.backends.shared import Marks, answer, locked, unanswered, unseen
from kd_env.core.clusters import connection as clusters


def look(marks: Marks, directory: str, node: str) -> tuple[str, str, bool]:
    """What a node does not see, the version of kd-env there, and whether locks of other machines hold there."""
    words = unseen(marks, directory)
    return words, kd_env.__version__, bool(words) or answer(marks, node)


def check_nodes(marks: Marks) -> None:
    """Have every node look for the marks of a study and write beside them.

    Raises:
        ValueError: a node without kd-env, of another version, that does not answer or does not see the folders.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    with locked(marks):
        for node in clusters.alive_nodes():
            on_it = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=on_it)
            asked.append((node, task.remote(dict(marks), os.getcwd(), node["NodeID"])))
        for node, answered in asked:
            _check(node, marks, answered)


def _check(node: Mapping[str, Any], marks: Marks, answered: Any) -> None:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    name = node["NodeManagerHostname"]
    try:
        words, version, locks = ray.get(answered, timeout=clusters.PATIENCE)
    except GetTimeoutError as error:
        raise ValueError(
            f"The node {name} of the Ray cluster gave no answer within {clusters.PATIENCE:.0f} s: take it out of the "
            "cluster, or start it anew."
        ) from error
    except RayError as error:
        reason = " ".join(str(error).split())[-300:]
        raise ValueError(
            f"The node {name} of the Ray cluster cannot run kd-env ({reason}): install it there, of the same version "
            f"({kd_env.__version__}), in the Python that runs Ray."
        ) from error
    if version != kd_env.__version__:
        raise ValueError(f"The node {name} has kd-env {version}, and this one {kd_env.__version__}: install the same.")
    if words or (words := unanswered(marks, node["NodeID"])):
        raise ValueError(words)
    if not locks:
        clusters.logger.warning(
            "Locks on files do not reach the node %s: nothing keeps two studies from writing the same runs.", name
        )
