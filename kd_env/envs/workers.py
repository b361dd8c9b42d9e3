"""Replicas in worker processes, here or on Ray, and the rule that says when they are faster than stacked ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from kd_env.config.environment import EnvConfig
from kd_env.core.processes import end_with_parent, workers
from kd_env.core.registry import unknown_name
from kd_env.envs.build import build_problem
from kd_env.envs.remote.actors import DistillRayVectorEnv
from kd_env.envs.remote.elsewhere import ReplicaEnv, ReplicasElsewhere, cut
from kd_env.envs.run import Run
from kd_env.envs.vector import DistillVectorEnv
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import Effect

VECTORIZATIONS = ("auto", "stacked", "processes", "ray")
STACKED_BELOW = 8e7
"""Measured on two cores. At 3e7 (hidden size 384, one layer, short rows) stacked students win by 1.05 to 1.2;
at 2e8 (the same width, two layers, MRPC) processes win by 1.1 to 1.3."""


def choose_vectorization(name: str, *, device: torch.device, arithmetic: float, num_envs: int) -> str:
    """``stacked``, ``processes`` or ``ray``; ``auto`` is a fixed rule between the first two.

    On a GPU, with one replica or little arithmetic, replicas are stacked. On a CPU matrix products dominate a large
    student's update: stacking does not speed them up, and processes use the other cores better than threads do.

    Args:
        name: ``auto``, ``stacked``, ``processes`` or ``ray``.
        device: of the students.
        arithmetic: of one student's batch, :attr:`kd_env.mdp.problem.Problem.arithmetic`.
        num_envs: replicas N.

    Raises:
        ValueError: an unknown name.
    """
    if name not in VECTORIZATIONS:
        raise ValueError(unknown_name("vectorization", name, VECTORIZATIONS))
    if name != "auto":
        return name
    stacked = device.type != "cpu" or num_envs == 1 or arithmetic < STACKED_BELOW
    return "stacked" if stacked else "processes"


class DistillProcessVectorEnv(ReplicasElsewhere, AsyncVectorEnv):
    """N single environments, each in a process with one thread; the problem is also held here, to be read."""

    def __init__(self, problem: Problem, num_envs: int, options: Mapping[str, Any]) -> None:
        self.run = Run(problem, 1)
        super().__init__(
            [partial(_worker_env, dict(options), place, os.getpid(), dict(os.environ)) for place in range(num_envs)],
            context=workers().get_start_method(),
            autoreset_mode=AutoresetMode.SAME_STEP,
        )

    def step_async(self, actions: Any) -> None:
        """Raw actions ``[N, ...]``, or an effect in place of them, which is cut into one for each process."""
        super().step_async(cut(actions, self.num_envs) if isinstance(actions, Effect) else actions)


def make_vector(
    config: EnvConfig, num_envs: int, vectorization: str = "auto", problem: Problem | None = None
) -> VectorEnv[Any, Any, Any]:
    """A training environment with SAME_STEP autoreset.

    Args:
        config: options of the environment.
        num_envs: replicas N.
        vectorization: ``auto``, ``stacked``, ``processes`` or ``ray``; see :func:`choose_vectorization`.
        problem: an already built problem of the same configuration.

    Raises:
        ValueError: an unknown vectorization, processes without ``cache_dir`` (each would compute the teacher again),
            or Ray where it is absent or has no place.
    """
    problem = build_problem(config) if problem is None else problem
    if problem.ranks.world > 1:
        if vectorization not in ("auto", "stacked"):
            raise ValueError(
                f"vectorization={vectorization!r} has students in processes of their own, and data_parallel=True has "
                f"{problem.ranks.world} processes train each of them; set vectorization='stacked', or leave one out."
            )
        return DistillVectorEnv(num_envs, problem=problem)
    chosen = choose_vectorization(
        vectorization, device=problem.device, arithmetic=problem.arithmetic, num_envs=num_envs
    )
    if chosen == "stacked":
        return DistillVectorEnv(num_envs, problem=problem)
    if config.cache_dir is None:
        raise ValueError(
            f"vectorization={chosen} needs cache_dir=<folder>, so that the processes share teacher outputs."
        )
    options = {**config.to_dict(), "show_progress": False}
    kind = DistillRayVectorEnv if chosen == "ray" else DistillProcessVectorEnv
    return kind(problem, num_envs, options)


def _worker_env(options: dict[str, Any], place: int, asked_by: int, environment: dict[str, str]) -> gym.Env[Any, Any]:
    # Two processes with two threads each run several times slower than with one. AsyncVectorEnv also makes one of these
    # in its own process, to read the spaces: threads must stay as they are there.
    if os.getpid() != asked_by:
        end_with_parent(environment)
        torch.set_num_threads(1)
    return ReplicaEnv(place, **options)
