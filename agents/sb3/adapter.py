"""The two bridges to Stable-Baselines3: a Gymnasium vector env as its ``VecEnv``, our learn-callback as its callback.

Imported only where an SB3 algorithm is made, since it imports Stable-Baselines3.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.common.base import (
    AnyEnv,
    Array,
    LearnCallback,
    Metrics,
    ProgressBar,
    as_vector_env,
    final_observation,
    spaces_of,
)


def replica_info(infos: Mapping[str, Any], replica: int) -> dict[str, Any]:
    """One replica's part of a vector env's ``info``: the entries whose mask (``_name``) is set for it."""
    part: dict[str, Any] = {}
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[replica]:
            continue
        part[key] = replica_info(value, replica) if isinstance(value, Mapping) else value[replica]
    return part


class VectorEnvToSB3(VecEnv):
    """A Gymnasium vector env (``autoreset_mode=SAME_STEP``; one replica around a plain env) for SB3's algorithms.

    Where an episode ends, ``info`` is that of the ended episode, with ``terminal_observation``, ``TimeLimit.truncated``
    (truncated and not terminated: SB3 then bootstraps) and ``episode`` (``r``, ``l``, ``t``, as ``VecMonitor`` gives).
    Masks for ``MaskablePPO`` come from ``env.unwrapped.action_masks()`` (``[N, M]``) where it exists; else all actions
    are allowed.
    """

    def __init__(self, env: AnyEnv) -> None:
        self.env = as_vector_env(env)
        pair = spaces_of(self.env)
        super().__init__(self.env.num_envs, pair.observation, pair.action)
        self._actions: Array = np.zeros(0)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._start = time.perf_counter()

    def reset(self) -> Array:
        """Reset all replicas with the seeds and options that were set before; observations ``[N, O]``."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("A vector env takes the same reset options for all replicas.")
        observations, infos = self.env.reset(seed=cast(Any, seeds), options=dict(options) or None)
        self.reset_infos = [replica_info(infos, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return np.array(observations, dtype=np.float32)

    def step_async(self, actions: Array) -> None:
        """Remember the actions."""
        self._actions = np.asarray(actions).astype(self.action_space.dtype)

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Take the step; rewards ``[N]`` are float32, as SB3 stores them."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = np.asarray(terminated) | np.asarray(truncated)
        self._returns += rewards
        self._lengths += 1
        parts = [replica_info(infos, i) for i in range(self.num_envs)]
        for i in np.flatnonzero(dones):
            begun = {k: v for k, v in parts[i].items() if k not in ("final_obs", "final_info")}
            self.reset_infos[i] = begun
            ended = dict(parts[i].get("final_info", {}))
            ended["terminal_observation"] = final_observation(infos, int(i))
            ended["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            seconds = round(time.perf_counter() - self._start, 6)
            ended["episode"] = {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": seconds}
            parts[i] = ended
            self._returns[i], self._lengths[i] = 0.0, 0
        # Copies: SB3 keeps the last observations and adds to the rewards in place.
        return np.array(observations, dtype=np.float32), np.array(rewards, dtype=np.float32), dones, parts

    def close(self) -> None:
        """Close the vector env."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute of the vector env, once for each replica asked for."""
        count = len(list(self._get_indices(indices)))
        if attr_name == "action_masks":
            return [self.env_method("action_masks", indices=i)[0] for i in self._get_indices(indices)]
        source = self.env if hasattr(self.env, attr_name) else self.env.unwrapped
        return [getattr(source, attr_name)] * count

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the vector env, which its replicas share."""
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Only ``action_masks``: the replicas of a batched env are no objects with methods of their own."""
        if method_name != "action_masks":
            raise AttributeError(f"The replicas have no method {method_name!r}; call it on `.env`, the vector env.")
        own = getattr(self.env.unwrapped, "action_masks", None)
        masks = np.asarray(own()) if own is not None else np.ones((self.num_envs, self._mask_size()), dtype=np.bool_)
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        """True for ``Monitor`` alone, whose statistics are given."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def _mask_size(self) -> int:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.n)
        if isinstance(space, spaces.MultiDiscrete):
            return int(space.nvec.sum())
        if isinstance(space, spaces.MultiBinary):
            return 2 * int(space.shape[0])
        raise ValueError(f"Actions of {space} cannot be masked.")


class StopLearning(Exception):
    """Raised where the user's callback asks to stop: SB3 has no other way out after an update."""


_NAMES = {"policy_gradient_loss": "policy_loss", "actor_loss": "policy_loss", "critic_loss": "value_loss"}


class LearnCallbackBridge(BaseCallback):
    """Calls our learn-callback with the same keys as our own agents, after each rollout and the update that follows it.

    Algorithms that learn after every step (off-policy) report when an episode has ended since the last report.
    """

    def __init__(self, callback: LearnCallback | None, total_timesteps: int, progress_bar: bool) -> None:
        super().__init__()
        self._user = callback
        self._bar = ProgressBar(total_timesteps, progress_bar)
        self._ended: list[Mapping[str, float]] = []
        self._first = self._reported = self._episodes = 0
        self._begin = 0.0

    def _on_training_start(self) -> None:
        self._first = self._reported = self.model.num_timesteps
        self._begin = time.perf_counter()

    def _on_step(self) -> bool:
        # ARS steps without telling its local variables; its episodes are read at the end of a rollout.
        infos: Sequence[Mapping[str, Any]] = self.locals.get("infos", ()) if self._has_step_infos() else ()
        self._ended += [info["episode"] for info in infos if "episode" in info]
        return True

    def _has_step_infos(self) -> bool:
        return hasattr(self.model, "rollout_buffer") or hasattr(self.model, "replay_buffer")

    def _on_rollout_end(self) -> None:
        if not self._has_step_infos():
            self._ended += list(self.model.ep_info_buffer or ())

    def _on_rollout_start(self) -> None:
        waits = not isinstance(self.model, OnPolicyAlgorithm) and not self._ended
        if self.model.num_timesteps > self._reported and not waits:
            self._report()

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._reported:
            self._report()

    def _report(self) -> None:
        self._reported = self.model.num_timesteps
        self._episodes += len(self._ended)
        done = self.model.num_timesteps - self._first
        metrics: Metrics = {
            "timesteps": float(self.model.num_timesteps),
            "episodes": float(self._episodes),
            "fps": done / max(time.perf_counter() - self._begin, 1e-9),
        }
        for key, value in self.logger.name_to_value.items():
            if key.startswith("train/") and isinstance(value, float | int | np.number):
                name = key.removeprefix("train/")
                metrics[_NAMES.get(name, name)] = float(value)
        if "entropy_loss" in metrics:
            metrics["entropy"] = -metrics["entropy_loss"]
        if self._ended:
            returns = np.array([episode["r"] for episode in self._ended], dtype=np.float64)
            metrics["return_mean"], metrics["return_std"] = float(returns.mean()), float(returns.std())
            metrics["length_mean"] = float(np.mean([episode["l"] for episode in self._ended]))
        self._ended = []
        self._bar.update(done, metrics)
        if self._user is not None and self._user(metrics) is False:
            raise StopLearning

    def close(self) -> None:
        """Close the progress bar."""
        self._bar.__exit__()
