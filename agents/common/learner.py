"""What our agents that learn share: construction, the loop around their updates, acting, and what is saved of them."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import (
    Array,
    LearnCallback,
    Metrics,
    ProgressBar,
    RewardTransform,
    as_vector_env,
    build_config,
    reset_seed,
)
from agents.common.rollout import Collector, Rollout
from agents.common.saved import SavedAgent


class Learner(SavedAgent):
    """Base of our agents that learn.

    Args:
        env: a gymnasium env or vector env (``autoreset_mode=SAME_STEP``), or for an agent that only acts what it has to
            know of one (:class:`agents.common.base.Spaces` and the like).
        seed: of initial weights, of noise and of the env's first reset.
        device: of the networks.
        reward_transform: applied to the rewards before the agent learns from them (controls permute them): ``[T, N]``
            of a rollout where nothing else is said; reported returns are those of the environment.
        **options: fields of ``config_class``.

    Raises:
        ValueError: an unknown option, a value outside its range, or an env in which the agent cannot act.
    """

    config_class: ClassVar[type[Any]]
    config: Any
    counters: ClassVar[tuple[str, ...]] = ("num_timesteps", "num_episodes")
    """Attributes that are saved in the header."""

    def __init__(
        self,
        env: Any,
        *,
        seed: int = 0,
        device: str = "cpu",
        reward_transform: RewardTransform | None = None,
        **options: Any,
    ) -> None:
        self.config = build_config(self.name, self.config_class, options)
        self.seed, self.device, self.reward_transform = seed, torch.device(device), reward_transform
        self.num_timesteps = 0
        self.num_episodes = 0
        # Two generators: acting for an evaluation must not change what is learned afterwards.
        self._learn_generator = torch.Generator(self.device).manual_seed(seed + 1)
        self._act_generator = torch.Generator(self.device).manual_seed(seed + 2)
        self.networks: dict[str, nn.Module] = {}
        """By the prefix of their tensors in the file ``networks``."""
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._build(env, torch.Generator().manual_seed(seed))
        is_env = isinstance(env, gym.Env | VectorEnv)
        self._collector = Collector(as_vector_env(env)) if is_env else None

    @property
    def collector(self) -> Collector:
        """Where the agent learns; only agents with an env have one."""
        assert self._collector is not None
        return self._collector

    # -- what an agent is

    @abstractmethod
    def _build(self, env: Any, init: torch.Generator) -> None:
        """Read what has to be known of ``env``; make the networks, with weights from ``init``."""

    @abstractmethod
    def _advance(self, goal: int) -> Metrics | None:
        """Gain experience and learn from it, up to about ``goal`` steps; losses and the like, None before an update."""

    @abstractmethod
    def _actions(self, batch: Any, deterministic: bool) -> Array:
        """Actions for a batch of observations, with the noise of ``_act_generator`` where not ``deterministic``."""

    def _begin(self, total_timesteps: int, anew: bool) -> None:
        """Before the first step of a call of :meth:`learn`; ``anew``: all counters are 0."""
        if anew or self.collector.observations is None:
            self.collector.reset(reset_seed(self.seed, self.num_timesteps))

    def _batch(self, observation: Any) -> tuple[Any, bool]:
        """The observation as a batch, and whether it was a single one."""
        observation = np.asarray(observation, dtype=np.float32)
        size = self.spaces.observation.shape[0]
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise ValueError(f"Observation of shape {observation.shape}; expected ({size},) or (N, {size}).")
        return observation.reshape(-1, size), observation.ndim == 1

    # -- learning and acting

    def learn(
        self,
        total_timesteps: int,
        callback: LearnCallback | None = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for at least ``total_timesteps`` environment steps, counted over all replicas.

        Args:
            total_timesteps: steps of this call.
            callback: called after each update, or some of them, with plain floats: ``timesteps, episodes, fps``, what
                the agent's class says of its updates and, where an episode ended, ``return_mean, return_std,
                length_mean``. Learning stops where it returns False.
            reset_num_timesteps: start counting at 0 and reset the env; what was learned stays. False continues where
                the last call stopped.
            progress_bar: show a tqdm bar.

        Raises:
            ValueError: the agent has no env, or ``total_timesteps`` is not a whole number of at least 1.
        """
        self._check_learns(self._collector is not None, total_timesteps)
        if reset_num_timesteps:
            self.num_timesteps = 0
            self.num_episodes = 0
        self._begin(total_timesteps, reset_num_timesteps)
        first, start = self.num_timesteps, time.perf_counter()
        goal = first + total_timesteps
        with ProgressBar(total_timesteps, progress_bar) as bar:
            while self.num_timesteps < goal:
                news = self._advance(goal)
                if news is None:
                    continue
                done, seconds = self.num_timesteps - first, max(time.perf_counter() - start, 1e-9)
                counts = {"timesteps": float(self.num_timesteps), "episodes": float(self.num_episodes)}
                metrics = {**counts, "fps": done / seconds, **news}
                bar.update(done, metrics)
                if callback is not None and callback(metrics) is False:
                    break
        return self

    def _count(self, rollout: Rollout) -> None:
        self.num_timesteps += rollout.num_steps
        self.num_episodes += len(rollout.episode_returns)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Array | None = None, deterministic: bool = False
    ) -> tuple[Array, None]:
        """Actions for one observation or a batch: the most likely ones where ``deterministic``, else with noise.

        There is no memory: the state is None.

        Raises:
            ValueError: an observation of another size.
        """
        batch, single = self._batch(observation)
        actions = self._actions(batch, deterministic)
        return (actions[0] if single else actions), None

    # -- saving

    @classmethod
    def _fresh(cls, header: dict[str, Any], env: Any, **options: Any) -> Self:
        return cls(env, **options, **header["config"])

    def _interface(self) -> dict[str, Any]:
        """What the agent knows of its env as plain values, from which :meth:`_saved_interface` makes it again."""
        return {"spaces": storage.spaces_to_json(self.spaces)}

    def _header(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in self.counters}
        config = dataclasses.asdict(self.config)
        return {"agent": self.name, "config": config, **self._interface(), "seed": self.seed, **counts}

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        networks: dict[str, Tensor] = {}
        training = {"learn_generator": self._learn_generator.get_state()}
        training["act_generator"] = self._act_generator.get_state()
        for prefix, network in self.networks.items():
            networks |= storage.with_prefix(prefix, network.state_dict())
        for name, optimizer in self.optimizers.items():
            training |= storage.flatten_optimizer(name, optimizer)
        if self._collector is not None:
            training |= storage.with_prefix("collector.", self._collector.state())
        return {"networks": networks, "training": training}

    def generator_states(self) -> list[Any]:
        """Where the draws of its actions stand, while it acts and does not learn."""
        return [self._act_generator.get_state().numpy()]

    def restore_generators(self, states: list[Any]) -> None:
        """Take back what :meth:`generator_states` gave."""
        self._act_generator.set_state(torch.from_numpy(states[0]))

    def _restore_policy(self, folder: Path) -> None:
        networks = storage.read_tensors(folder / "networks.safetensors")
        for prefix, network in self.networks.items():
            network.load_state_dict(storage.part(networks, prefix))

    def _restore(self, folder: Path, header: dict[str, Any], *, force_reset: bool) -> None:
        self._restore_counters(header)
        self._restore_policy(folder)
        training = storage.read_tensors(folder / "training.safetensors")
        for name, optimizer in self.optimizers.items():
            storage.restore_optimizer(name, optimizer, training)
        # A CPU generator's state means nothing to a CUDA generator; on another kind of device noise starts anew.
        if len(training["learn_generator"]) == len(self._learn_generator.get_state()):
            self._learn_generator.set_state(training["learn_generator"])
            self._act_generator.set_state(training["act_generator"])
        if self._collector is not None and not force_reset:
            self._collector.restore(storage.part(training, "collector."))

    def _restore_counters(self, header: dict[str, Any]) -> None:
        for name in self.counters:
            setattr(self, name, header[name])


def episode_metrics(rollouts: Sequence[Rollout]) -> Metrics:
    """Returns and lengths of the episodes that ended in the rollouts; empty where none did."""
    returns = np.concatenate([rollout.episode_returns for rollout in rollouts])
    if not len(returns):
        return {}
    lengths = np.concatenate([rollout.episode_lengths for rollout in rollouts])
    spread = {"return_mean": float(returns.mean()), "return_std": float(returns.std())}
    return {**spread, "length_mean": float(lengths.mean())}
