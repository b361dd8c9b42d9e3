"""Any algorithm of Stable-Baselines3 and, where installed, sb3-contrib, by its lower-case name.

An algorithm that cannot take the env's actions is refused before any work, with the action view that it needs. Defaults
fit short episodes (SB3's ``n_steps=2048`` would be 32,768 steps a rollout with 16 replicas); every hyper-parameter of
the algorithm can be given as a plain value. Saved as safetensors and JSON: SB3's own zip holds pickles.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from torch import Tensor

from agents.common import storage
from agents.common.base import (
    AnyEnv,
    Array,
    LearnCallback,
    RewardTransform,
    Spaces,
    episode_steps,
    spaces_of,
    unknown_name,
)
from agents.common.saved import SavedAgent
from agents.sb3 import storage as sb3_storage
from agents.sb3.algorithms import ALGORITHMS, Algorithm, algorithm, check_actions, defaults
from agents.sb3.options import check_values, policy_options


class SB3Agent(SavedAgent):
    """An SB3 algorithm with the learn-callback, the storage and the refusals of our own agents.

    Args:
        name: ``ppo``, ``dqn``, ...
        env: gymnasium env or vector env, or the :class:`Spaces` of one for an agent that only acts.
        seed: passed to the algorithm. SB3 seeds the global generators of Python, NumPy and torch with it and draws from
            them, so that two SB3 agents in one process disturb each other.
        device: of the networks.
        reward_transform: on-policy algorithms only; applied to the rewards ``[T, N]`` of each rollout before advantages
            are computed (SB3 has added the value of truncated ends to them).
        **hyperparameters: of the algorithm, plain values; also ``policy``, and for td3 and ddpg ``action_noise_std``.

    Raises:
        ValueError: an unknown algorithm or hyper-parameter, actions that it cannot take, values that are not plain.
    """

    def __init__(
        self,
        name: str,
        env: AnyEnv | Spaces,
        *,
        seed: int = 0,
        device: str = "cpu",
        reward_transform: RewardTransform | None = None,
        **hyperparameters: Any,
    ) -> None:
        entry = algorithm(name)
        self.spaces = env if isinstance(env, Spaces) else spaces_of(env)
        check_actions(name, self.spaces.action, env)
        try:
            json.dumps(hyperparameters)
        except TypeError as error:
            raise ValueError(f"Hyper-parameters of sb3/{name} must be plain values: {error}.") from None
        self.name, self.seed = f"sb3/{name}", seed
        module = importlib.import_module(entry.package)
        model_class: Any = getattr(module, entry.class_name)
        known = set(inspect.signature(model_class.__init__).parameters) - {"self", "env", "seed", "device"}
        known = {key for key in known if not key.startswith("_")} | {"action_noise_std"}
        for key in hyperparameters:
            if key not in known:
                raise ValueError(unknown_name(f"hyper-parameter of sb3/{name}", key, known))
        check_values(self.name, model_class.__init__, hyperparameters)
        self.reward_transform = reward_transform
        if reward_transform is not None and entry.family != "on":
            on = ", ".join(f"sb3/{key}" for key, other in ALGORITHMS.items() if other.family == "on")
            raise ValueError(f"sb3/{name} keeps no rollout whose rewards could be transformed; possible: {on}.")
        try:
            self._build(model_class, entry, env, device, hyperparameters)
        except (AssertionError, AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
            # SB3 looks at few of its options itself; whatever its constructor stumbles over was among these.
            raise ValueError(f"{self.name} cannot be made with {hyperparameters}: {error}.") from error

    def _build(
        self, model_class: Any, entry: Algorithm, env: AnyEnv | Spaces, device: str, given: Mapping[str, Any]
    ) -> None:
        from agents.sb3.adapter import VectorEnvToSB3

        adapter = None if isinstance(env, Spaces) else VectorEnvToSB3(env)
        length = None if isinstance(env, Spaces) else episode_steps(env)
        count = 1 if adapter is None else adapter.num_envs
        short = self.name.removeprefix("sb3/")
        self.given = dict(given)
        # Without an env the values are those of a saved agent, all of them resolved.
        self.hyperparameters = defaults(short, count, length, given) if adapter is not None else dict(given)
        options = dict(self.hyperparameters)
        policy = options.pop("policy", entry.policy)
        std = options.pop("action_noise_std", None)
        if std is not None:
            from stable_baselines3.common.noise import NormalActionNoise

            size = int(np.prod(self.spaces.action.shape or ()))
            options["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, float(std)))
        if isinstance(options.get("train_freq"), list):
            options["train_freq"] = tuple(options["train_freq"])
        # SB3 adds entries to the mapping that it is given; ours is saved.
        options["policy_kwargs"] = policy_options(self.name, options.get("policy_kwargs"))
        options |= {"seed": self.seed, "device": device}
        if adapter is not None:
            self.model = model_class(policy, adapter, **options)
        else:
            self.model = model_class(policy, None, _init_setup_model=False, **options)
            self.model.observation_space, self.model.action_space = self.spaces
            self.model.n_envs = 1
            # Some algorithms read the spaces from the env while they set up their networks.
            self.model.env = self._spaces_holder()
            self.model._setup_model()
            self.model.env = None
        if self.reward_transform is not None:
            self._transform_rewards()

    def _spaces_holder(self) -> Any:
        """What stands for the env while an agent that only acts is set up: its spaces and nothing else."""
        return SimpleNamespace(
            observation_space=self.spaces.observation,
            action_space=self.spaces.action,
            num_envs=1,
            seed=lambda seed: None,
        )

    def _transform_rewards(self) -> None:
        buffer = self.model.rollout_buffer
        compute = buffer.compute_returns_and_advantage

        def transformed(last_values: Any, dones: Array) -> None:
            buffer.rewards = self._transformed(buffer.rewards)
            compute(last_values, dones)

        buffer.compute_returns_and_advantage = transformed

    @property
    def num_timesteps(self) -> int:
        """Environment steps learned from, over all replicas."""
        return int(self.model.num_timesteps)

    def learn(
        self,
        total_timesteps: int,
        callback: LearnCallback | None = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for at least ``total_timesteps`` steps; arguments and errors as in
        :meth:`agents.common.learner.Learner.learn`.
        """
        from stable_baselines3.common.logger import Logger

        from agents.sb3.adapter import LearnCallbackBridge, StopLearning

        self._check_learns(self.model.env is not None, total_timesteps)
        # Without one SB3 makes its own, and with it an empty folder SB3-<date> in the temporary directory.
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        bridge = LearnCallbackBridge(callback, total_timesteps, progress_bar)
        try:
            # log_interval=None keeps SB3 from clearing the values that the bridge reads.
            self.model.learn(total_timesteps, bridge, log_interval=None, reset_num_timesteps=reset_num_timesteps)
        except StopLearning:
            pass
        finally:
            bridge.close()
        return self

    @property
    def explores_by_chance(self) -> bool:
        """DQN and its like: random actions beside the best one."""
        return hasattr(self.model, "exploration_rate")

    def seed_draws(self, seed: int) -> None:
        """SB3 draws from the global generators, which this seeds."""
        self.model.set_random_seed(seed)

    def forget_experience(self) -> None:
        """Drop the replay buffer."""
        self.model.replay_buffer = None

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, Any]:
        """Actions for ``[O]`` or ``[N, O]``; ``state`` is used by recurrent policies alone.

        ``maskableppo`` obeys the env's masks while it learns; here every action is allowed.
        """
        actions, state = self.model.predict(
            np.asarray(observation, dtype=np.float32), state, episode_start, deterministic
        )
        return np.asarray(actions).astype(self.spaces.action.dtype), state

    # -- saving: networks, optimisers, replay buffer, global generators; running episodes

    def _header(self) -> dict[str, Any]:
        return {
            "agent": self.name,
            "hyperparameters": self.given,
            "resolved": self.hyperparameters,
            "spaces": storage.spaces_to_json(self.spaces),
            "seed": self.seed,
            **sb3_storage.counters(self.model),
        }

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return sb3_storage.tensors(self.model)

    def _restore_policy(self, folder: Path) -> None:
        sb3_storage.restore_networks(self.model, folder)

    def _restore(self, folder: Path, header: dict[str, Any], *, force_reset: bool) -> None:
        learning = self.model.env is not None
        sb3_storage.restore(self.model, folder, header, learning=learning, force_reset=force_reset)

    @classmethod
    def _read_header(cls, folder: Path) -> dict[str, Any]:
        header = storage.read_header(folder)
        if not str(header["agent"]).startswith("sb3/"):
            raise ValueError(f"{folder} holds the agent {header['agent']!r}, not one of SB3; use agents.load_agent.")
        return header

    @classmethod
    def _fresh(cls, header: dict[str, Any], env: AnyEnv | Spaces, **options: Any) -> Self:
        given = header["resolved" if isinstance(env, Spaces) else "hyperparameters"]
        return cls(header["agent"].removeprefix("sb3/"), env, **options, **given)

    @classmethod
    def from_zip(cls, name: str, path: str | Path, env: AnyEnv, *, trust: bool = False, device: str = "cpu") -> Self:
        """An agent from a zip file of SB3's own ``save``.

        Raises:
            ValueError: without ``trust=True``: such files hold pickles, which can run any code when they are read.
        """
        if not trust:
            raise ValueError(f"{path} holds pickles, which can run any code; pass trust=True if you know who made it.")
        from agents.sb3.adapter import VectorEnvToSB3

        entry = algorithm(name)
        check_actions(name, spaces_of(env).action, env)
        model_class: Any = getattr(importlib.import_module(entry.package), entry.class_name)
        agent = cls(name, env, device=device)
        agent.model = model_class.load(path, env=VectorEnvToSB3(env), device=device)
        agent.seed = agent.model.seed or 0
        agent.given = agent.hyperparameters = sb3_storage.plain_hyperparameters(model_class, agent.model)
        return agent


def make_sb3(name: str, env: AnyEnv, *, seed: int, device: str = "cpu", **hyperparameters: Any) -> SB3Agent:
    """An SB3 agent by name; arguments as in :class:`SB3Agent`. The algorithm itself is ``.model``."""
    return SB3Agent(name, env, seed=seed, device=device, **hyperparameters)
