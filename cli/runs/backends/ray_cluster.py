"""``backend=ray``: each process under an actor of a Ray cluster, which places it where its resources are free."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from cli.runs.backends.base import Backend, Cell, Child, Ended
from cli.runs.backends.local import PATIENCE
from cli.runs.backends.ray_nodes import check_nodes
from cli.runs.backends.shared import marked
from cli.runs.backends.work import Work, run, work_of
from kd_env.core.clusters import connection as clusters


class Place:
    """What an actor is: it runs one process, on the node where Ray put it."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def ready(self) -> None:
        """Answers once the actor has its place."""

    def run(self, work: Work) -> tuple[int, str]:
        """Run a process to its end."""
        return run(Work(*work), self._stop.is_set)

    def stop(self) -> None:
        """Have the process end."""
        self._stop.set()


class RayCell(Cell):
    """A process under an actor."""

    def __init__(self, child: Child, actor: Any, work: Work) -> None:
        super().__init__(child)
        self.actor = actor
        self.placed, self.result = actor.ready.remote(), actor.run.remote(tuple(work))

    def waits(self) -> bool:
        """Whether the cluster has had no place for it."""
        return not _is_there(self.placed)

    def ended(self) -> Ended | None:
        """How it ended; None where it has not."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        if not _is_there(self.result):
            return None
        try:
            status, said = ray.get(self.result)
        except RayTaskError:
            raise
        except RayError as error:  # the node, the actor or the memory below it
            ray.kill(self.actor)  # one that is only out of reach writes no more, either, once it is heard of
            reason = str(error).partition("\n")[0][:200]
            return Ended(1, f"{type(error).__name__}: {reason}", lost=True)
        ray.kill(self.actor)
        return Ended(status, said)


class RayCluster(Backend):
    """A Ray cluster.

    Args:
        jobs: at the same time; None: as many as have a place.
        cpus: of each process, which are its threads.
        gpus: of each process; a share where several have one.
        retries: of a process that was lost.
        address: of the cluster, as :func:`kd_env.core.clusters.connection.connect` takes it.
        folders: that all nodes have to see, by the option that names them.
    """

    def __init__(
        self,
        jobs: int | None,
        cpus: int,
        gpus: float,
        retries: int,
        address: str | None,
        folders: Mapping[str, Path],
    ) -> None:
        self.jobs, self.retries = jobs, retries
        self.wanted = f"{cpus} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        self._cpus, self._gpus, self._address, self._folders = cpus, gpus, address, folders
        self._open = ExitStack()
        self._marks: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Connect, and refuse a cluster that could never run a process or does not see the folders.

        Raises:
            ValueError: with what is missing, where, and the remedy.
        """
        if clusters.connect(self._address):
            self._open.callback(clusters.disconnect)
        try:
            self._check_resources()
            print(f"Ray cluster: {clusters.size()}.", flush=True)
            self._marks = self._open.enter_context(marked(self._folders))
            check_nodes(self._marks)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start(self, child: Child) -> RayCell:
        """Ask the cluster for an actor that runs a process."""
        import ray

        options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_restarts": 0, "max_concurrency": 3}
        actor = ray.remote(Place).options(**options).remote()
        return RayCell(child, actor, work_of(child, self._cpus, self._gpus, self._marks))

    def stop(self, cells: Sequence[Cell]) -> None:
        """Have the processes end, and take their actors away; what has no place yet gets none."""
        import ray

        mine = [cell for cell in cells if isinstance(cell, RayCell)]
        for cell in mine:
            if not cell.waits():
                cell.actor.stop.remote()
        end = time.monotonic() + PATIENCE + 1
        for cell in mine:
            if not cell.waits():
                ray.wait([cell.result], timeout=max(0.0, end - time.monotonic()))
            ray.kill(cell.actor)

    def _check_resources(self) -> None:
        nodes = [node["Resources"] for node in clusters.alive_nodes()]
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        if any(all(node.get(name, 0) >= number for name, number in wanted.items()) for node in nodes):
            return
        there = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in wanted) for node in nodes)
        raise ValueError(
            f"No node of the Ray cluster has the {self.wanted} that each training is to have (its nodes: {there}): "
            "lower cpus=... or gpus=..., or add such a node."
        )


def _is_there(reference: Any) -> bool:
    import ray

    return bool(ray.wait([reference], timeout=0)[0])
