"""Replicas in worker processes, and the fixed rule that says when they are faster than stacked ones."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from kd_env.config.environment import EnvConfig
from kd_env.core import trees
from kd_env.core.processes import end_with_parent
from kd_env.core.registry import unknown_name
from kd_env.envs.build import build_problem
from kd_env.envs.env import DistillEnv
from kd_env.envs.run import Run, check_replicas
from kd_env.envs.shells.replicas import EnvState
from kd_env.envs.vector import DistillVectorEnv
from kd_env.envs.view import RunView
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import Effect
from kd_files.writing import new_folder

VECTORIZATIONS = ("auto", "stacked", "processes")
STACKED_BELOW = 8e7
"""Measured on two cores. At 3e7 (hidden size 384, one layer, short rows) stacked students win by 1.05 to 1.2;
at 2e8 (the same width, two layers, MRPC) processes win by 1.1 to 1.3."""


def choose_vectorization(name: str, *, device: torch.device, arithmetic: float, num_envs: int) -> str:
    """``stacked`` or ``processes``; ``auto`` is a fixed rule.

    On a GPU, with one replica or little arithmetic, replicas are stacked. On a CPU matrix products dominate a large
    student's update: stacking does not speed them up, and processes use the other cores better than threads do.

    Args:
        name: ``auto``, ``stacked`` or ``processes``.
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


class DistillProcessVectorEnv(RunView, AsyncVectorEnv):
    """N single environments, each in a spawned process with one thread; the problem is also held here, to be read.

    States cannot be forked or students read across processes: use the stacked environment for that.
    """

    def __init__(self, problem: Problem, num_envs: int, options: Mapping[str, Any]) -> None:
        self.run = Run(problem, 1)
        super().__init__(
            [partial(_worker_env, dict(options), place) for place in range(num_envs)],
            context="spawn",
            autoreset_mode=AutoresetMode.SAME_STEP,
        )

    def step_async(self, actions: Any) -> None:
        """Raw actions ``[N, ...]``, or an effect in place of them, which is cut into one for each process."""
        if isinstance(actions, Effect):
            check_replicas(actions, self.num_envs)
            actions = [trees.take(actions, [i]) for i in range(self.num_envs)]
        super().step_async(actions)

    def row_influence(self) -> np.ndarray:
        """Drop of the feedback loss per unit of weight of each row of the next batch, ``[N, B]``, by all processes."""
        return np.concatenate(self.call("row_influence"))

    def get_state(self) -> EnvState:
        """Refused, since the state is in other processes."""
        raise ValueError("States of worker processes cannot be copied; use vectorization=stacked.")

    def set_state(self, state: EnvState) -> None:
        """Refused, since the state is in other processes."""
        raise ValueError("States of worker processes cannot be set; use vectorization=stacked.")

    def save_state(self, folder: str | Path) -> None:
        """Write the state of every process into a folder of its own in ``folder``, all of them or none."""
        with new_folder(Path(folder)) as fresh:
            self.call("save_part", str(fresh))

    def load_state(self, folder: str | Path) -> None:
        """Restore in every process what :meth:`save_state` wrote.

        Raises:
            ValueError: another number of processes, or as :meth:`kd_env.envs.view.RunView.load_state`.
        """
        count = sum(path.is_dir() and path.name.isdigit() for path in Path(folder).iterdir())
        if count != self.num_envs:
            raise ValueError(f"The state in {folder} is of {count} processes, this environment has {self.num_envs}.")
        self.call("load_part", str(folder))

    def predict(self, table: Any) -> np.ndarray:
        """Refused, since the students are in other processes."""
        raise ValueError("Students in worker processes cannot be read; use vectorization=stacked.")


def make_vector(
    config: EnvConfig, num_envs: int, vectorization: str = "auto", problem: Problem | None = None
) -> VectorEnv[Any, Any, Any]:
    """A training environment with SAME_STEP autoreset.

    Args:
        config: options of the environment.
        num_envs: replicas N.
        vectorization: ``auto``, ``stacked`` or ``processes``; see :func:`choose_vectorization`.
        problem: an already built problem of the same configuration.

    Raises:
        ValueError: an unknown vectorization, or processes without ``cache_dir`` (each would compute the teacher again).
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
            "vectorization=processes needs cache_dir=<folder>, so that the processes share teacher outputs."
        )
    options = {**config.to_dict(), "show_progress": False}
    return DistillProcessVectorEnv(problem, num_envs, options)


class _WorkerEnv(DistillEnv):
    """One of several environments, which knows where its part of their state belongs."""

    def __init__(self, place: int, **options: Any) -> None:
        super().__init__(**options)
        self.place = str(place)

    def save_part(self, folder: str) -> None:
        self.save_state(Path(folder) / self.place)

    def load_part(self, folder: str) -> None:
        self.load_state(Path(folder) / self.place)


def _worker_env(options: dict[str, Any], place: int) -> gym.Env[Any, Any]:
    # Two processes with two threads each run several times slower than with one. AsyncVectorEnv also makes one of these
    # in its own process, to read the spaces: threads must stay as they are there.
    if multiprocessing.parent_process() is not None:
        end_with_parent()
        torch.set_num_threads(1)
    return _WorkerEnv(place, **options)
