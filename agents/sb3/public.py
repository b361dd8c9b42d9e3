"""A distillation as Stable-Baselines3 takes it, for its own scripts, wrappers and callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.common.base import AnyEnv

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def as_sb3(env: AnyEnv) -> VecEnv:
    """An environment as Stable-Baselines3's ``VecEnv``, without a process or a copy of the student for each replica.

    ``make_vec_env`` of Stable-Baselines3 makes its replicas one by one; here all ``N`` students of
    ``gymnasium.make_vec(..., num_envs=N)`` are distilled in one batch. ``info["episode"]`` is that of ``VecMonitor``:
    none is needed; masks for ``MaskablePPO`` are given where the environment has them.

    Args:
        env: a vector env (``autoreset_mode=SAME_STEP``, as kd-env's are), or a plain one, which becomes one replica.
            Observations are flat, float32 ``[N, O]``.

    Raises:
        ValueError: observations or actions of another kind, or another mode of automatic resets.
    """
    from agents.sb3.adapter import VectorEnvToSB3

    return VectorEnvToSB3(env)
