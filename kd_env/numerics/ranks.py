"""Processes that train one student together, as ``torchrun`` or ``accelerate launch`` start them.

Each of them, a *rank*, runs the whole program from the same seeds and computes its share of the rows; sums and gathered
rows are the same to the bit in all of them, so that they keep the same student and decide alike.
"""

from __future__ import annotations

import atexit
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kd_env.core import trees

Tree = TypeVar("Tree")
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_BUCKET = 2**25
"""Numbers that are added up at once: a copy of them is held meanwhile."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share the rows of a batch; one alone by default."""

    world: int = 1
    """How many there are."""
    rank: int = 0
    """Which of them this one is."""

    def share(self, count: int) -> slice:
        """This rank's of ``count`` rows, which :attr:`world` divides."""
        size = count // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up what the ranks have, in place; all of one type and device."""
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            together = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(together)
            for tensor, values in zip(bucket, together.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def gather(self, tree: Tree, axis: int) -> Tree:
        """What all ranks have, one after another along an axis, on which all have the same size."""
        return tree if self.world == 1 else trees.map_leaves(lambda leaf: self._gathered(leaf, axis), tree)

    def check_same(self, what: str, *values: bytes) -> None:
        """Refuse to go on where this rank has another value than another one.

        Raises:
            RuntimeError: they differ.
        """
        if self.world == 1:
            return
        mine = zlib.crc32(b"".join(values))
        on_gpu = torch.cuda.is_available()
        everyone = torch.zeros(self.world, dtype=torch.int64, device="cuda" if on_gpu else "cpu")
        everyone[self.rank] = mine
        dist.all_reduce(everyone)
        others = everyone.tolist()
        if any(other != mine for other in others):
            raise RuntimeError(
                f"Rank {self.rank} of {self.world} has other {what} than rank "
                f"{next(place for place, other in enumerate(others) if other != mine)}: the ranks have not done the "
                "same. Give all of them the same command and files, on hardware of one kind, and let the agent's "
                "networks run on the CPU (agent_device=cpu)."
            )

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.world > 1:
            dist.barrier()

    def _gathered(self, value: Tensor, axis: int) -> Tensor:
        held = value.contiguous()
        sent = held.view(torch.uint8) if held.dtype == torch.bool else held
        parts = [torch.empty_like(sent) for _ in range(self.world)]
        dist.all_gather(parts, sent)
        whole = torch.cat(parts, axis)
        return whole.view(torch.bool) if held.dtype == torch.bool else whole


ALONE = Ranks()


def world_size() -> int:
    """Processes that a launcher started with this one; 1 without a launcher.

    Raises:
        ValueError: its variables are no numbers.
    """
    value = os.environ.get("WORLD_SIZE", "1")
    if not value.isdigit() or int(value) < 1:
        raise ValueError(
            f"WORLD_SIZE={value!r} must be a number of processes; let torchrun or accelerate launch set it."
        )
    return int(value)


@cache
def join() -> Ranks:
    """Meet the processes that a launcher started with this one; waits for them.

    On machines with GPUs each takes that of its place on the machine.

    Raises:
        ValueError: no launcher started this process, or the machine has fewer GPUs than the launcher started processes.
    """
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing and not dist.is_initialized():
        raise ValueError(
            f"data_parallel=True shares the rows of a batch between processes that a launcher starts, and "
            f"{', '.join(missing)} is not set: start them with `torchrun --nproc-per-node 2 train_agent.py ...` or "
            "`accelerate launch train_agent.py ...`, or leave data_parallel out."
        )
    if not dist.is_initialized():
        if torch.cuda.is_available():
            _take_gpu(int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))))
        # Numbers on the host, such as what is compared, go by gloo also where GPUs talk by NCCL.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(leave)
    return Ranks(dist.get_world_size(), dist.get_rank())


def leave() -> None:
    """Part from the others; at the end of a process."""
    join.cache_clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _take_gpu(place: int) -> None:
    count = torch.cuda.device_count()
    if place >= count:
        raise ValueError(
            f"The launcher started a process for GPU {place}, and this machine has {count}; start at most {count} "
            "processes a machine (--nproc-per-node, --num_processes)."
        )
    torch.cuda.set_device(place)


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in groups of at most :data:`_BUCKET` numbers, in order; a larger one alone."""
    found: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if tensor.numel() > room:
            found.append([])
            room = _BUCKET
        found[-1].append(tensor)
        room -= tensor.numel()
    return found
