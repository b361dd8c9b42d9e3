"""What the policy-gradient agents share: the learning loop, acting, saving. The algorithms themselves are in
:mod:`agents.policy_gradient.reinforce` and :mod:`agents.policy_gradient.actor_critic`.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import (
    AnyEnv,
    Array,
    LearnCallback,
    Metrics,
    ProgressBar,
    RewardTransform,
    Spaces,
    as_path,
    as_vector_env,
    build_config,
    check_same_spaces,
    require,
    reset_seed,
    spaces_of,
)
from agents.common.networks import Policy, mlp
from agents.common.normalizer import ObservationNormalizer
from agents.common.rollout import NORMALIZATIONS, Collector, Floats, Rollout, successor_values
from agents.policy_gradient.row_policy import RowNormalizer, RowPolicy, RowValue
from agents.policy_gradient.rows import RowLayout, check_same_rows, find_rows, rows_from_json, rows_to_json


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """Options of both policy-gradient agents."""

    learning_rate: float = 1e-2
    """Step size of Adam for the policy, which makes one step a rollout."""
    value_learning_rate: float = 3e-3
    """Step size of Adam for the value network."""
    value_epochs: int = 8
    """Full-batch gradient steps of the value network after each rollout (the policy takes its own number)."""
    gamma: float = 1.0
    """Discount. 1 fits episodes of known length: then the return is what is reported."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus, beside advantages of deviation 1."""
    max_grad_norm: float = 0.5
    """Norm to which each network's gradient is clipped."""
    advantage_normalization: str = "per_step"
    """``per_step`` (over replicas at the same step of an episode), ``batch`` or ``none``."""
    normalize_observations: bool = True
    """Whether observations are shifted and scaled by running moments."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy and of the value network."""
    log_std_init: float = -0.5
    """Box actions only: first log standard deviation, in units of half the box."""
    row_shared: bool | str = "auto"
    """Whether one policy is applied to every row of the batch (:mod:`agents.policy_gradient.row_policy`): ``auto``
    where the env has ``row_features`` and actions for each row. An agent's own ``config`` says True or False."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.value_learning_rate > 0, "value_learning_rate", self.value_learning_rate, "above 0")
        require(self.value_epochs >= 1, "value_epochs", self.value_epochs, "at least 1")
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "in [0, 1]")
        require(self.ent_coef >= 0, "ent_coef", self.ent_coef, "at least 0")
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        allowed = "one of " + ", ".join(NORMALIZATIONS)
        mode = self.advantage_normalization
        require(mode in NORMALIZATIONS, "advantage_normalization", mode, allowed)
        sizes_ok = len(self.hidden_sizes) > 0 and all(size >= 1 for size in self.hidden_sizes)
        require(sizes_ok, "hidden_sizes", self.hidden_sizes, "a non-empty list of sizes of at least 1")
        require(self.row_shared in (True, False, "auto"), "row_shared", self.row_shared, "true, false or 'auto'")


class OnPolicyAgent(ABC):
    """Base of agents that collect a rollout with the present policy, learn from it once and drop it.

    Args:
        env: a gymnasium env or vector env (``autoreset_mode=SAME_STEP``) with flat observations, or the :class:`Spaces`
            or the rows of one for an agent that only acts.
        seed: of initial weights, of action noise and of the env's first reset.
        device: of the networks.
        reward_transform: applied to the rewards ``[T, N]`` of each rollout before learning (controls permute them);
            reported returns are those of the environment.
        **options: fields of ``config_class``.

    Raises:
        ValueError: an unknown option, a value outside its range, spaces that agents do not know, or
            ``row_shared=True`` where there are no rows.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[OnPolicyConfig]]

    def __init__(
        self,
        env: AnyEnv | Spaces | RowLayout,
        *,
        seed: int = 0,
        device: str = "cpu",
        reward_transform: RewardTransform | None = None,
        **options: Any,
    ) -> None:
        self.config = build_config(self.name, self.config_class, options)
        self.rows = self._find_rows(env)
        self.config = dataclasses.replace(self.config, row_shared=self.rows is not None)
        self.spaces = env if isinstance(env, Spaces) else env.spaces if isinstance(env, RowLayout) else spaces_of(env)
        self.seed = seed
        self.device = torch.device(device)
        self.reward_transform = reward_transform
        self.num_timesteps = 0
        self.num_episodes = 0
        init = torch.Generator().manual_seed(seed)
        c = self.config
        self.policy = self._make_policy(init).to(self.device)
        self.value = self._make_value(init).to(self.device)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=c.learning_rate)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=c.value_learning_rate)
        self.normalizer = self._make_normalizer()
        # Two generators: acting for an evaluation must not change what is learned afterwards.
        self._learn_generator = torch.Generator(self.device).manual_seed(seed + 1)
        self._act_generator = torch.Generator(self.device).manual_seed(seed + 2)
        self._collector = None if isinstance(env, Spaces | RowLayout) else Collector(as_vector_env(env))

    # -- the parts

    def _find_rows(self, env: AnyEnv | Spaces | RowLayout) -> RowLayout | None:
        """The rows that the policy is shared by, None for one policy on the whole observation."""
        return find_rows(env, self.config.row_shared)

    def _make_policy(self, init: torch.Generator) -> Policy | RowPolicy:
        c = self.config
        if self.rows is not None:
            return RowPolicy(self.rows, c.hidden_sizes, c.log_std_init, init)
        size = int(self.spaces.observation.shape[0])
        return Policy(size, self.spaces.action, c.hidden_sizes, c.log_std_init, init)

    def _make_value(self, init: torch.Generator) -> nn.Module:
        if self.rows is not None:
            return RowValue(self.rows, self.config.hidden_sizes, init)
        return mlp(int(self.spaces.observation.shape[0]), self.config.hidden_sizes, 1, output_gain=1.0, generator=init)

    def _make_normalizer(self) -> ObservationNormalizer | RowNormalizer:
        if self.rows is not None:
            return RowNormalizer(self.rows)
        return ObservationNormalizer(int(self.spaces.observation.shape[0]))

    # -- the algorithm

    @abstractmethod
    def _collect(self, collector: Collector) -> Rollout:
        """One rollout with the present policy."""

    @abstractmethod
    def _update(self, rollout: Rollout) -> Metrics:
        """Learn from one rollout; returns losses and the like."""

    # -- learning

    def learn(
        self,
        total_timesteps: int,
        callback: LearnCallback | None = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for at least ``total_timesteps`` environment steps (whole rollouts), counted over all replicas.

        Args:
            total_timesteps: steps of this call.
            callback: called after each rollout with plain floats: ``timesteps, episodes, fps, policy_loss, value_loss,
                entropy, explained_variance`` and, where an episode ended in the rollout, ``return_mean, return_std,
                length_mean``. Learning stops where it returns False.
            reset_num_timesteps: start counting at 0 and reset the env; False continues where the last call stopped.
            progress_bar: show a tqdm bar.

        Raises:
            ValueError: the agent has no env.
        """
        if self._collector is None:
            raise ValueError(f"This {self.name} agent has no env to learn in; give one to {type(self).__name__}.load.")
        if reset_num_timesteps:
            self.num_timesteps = 0
            self.num_episodes = 0
        if reset_num_timesteps or self._collector.observations is None:
            self._collector.reset(reset_seed(self.seed, self.num_timesteps))
        first, start = self.num_timesteps, time.perf_counter()
        with ProgressBar(total_timesteps, progress_bar) as bar:
            while self.num_timesteps - first < total_timesteps:
                rollout = self._collect(self._collector)
                self.num_timesteps += rollout.num_steps
                self.num_episodes += len(rollout.episode_returns)
                losses = self._update(self._transformed(rollout))
                # After the update: it must see the inputs on which the actions were chosen, or it is not on-policy.
                self.normalizer.update(rollout.observations)
                metrics = self._metrics(rollout, losses, first, start)
                bar.update(self.num_timesteps - first, metrics)
                if callback is not None and callback(metrics) is False:
                    break
        return self

    def _transformed(self, rollout: Rollout) -> Rollout:
        if self.reward_transform is None:
            return rollout
        rewards = np.asarray(self.reward_transform(rollout.rewards.copy()), dtype=np.float64)
        if rewards.shape != rollout.rewards.shape:
            raise ValueError(
                f"reward_transform gave shape {rewards.shape} for rewards of shape {rollout.rewards.shape}."
            )
        return rollout._replace(rewards=rewards)

    def _metrics(self, rollout: Rollout, losses: Metrics, first: int, start: float) -> Metrics:
        seconds = max(time.perf_counter() - start, 1e-9)
        metrics = {
            "timesteps": float(self.num_timesteps),
            "episodes": float(self.num_episodes),
            "fps": (self.num_timesteps - first) / seconds,
            **losses,
        }
        if len(rollout.episode_returns):
            metrics["return_mean"] = float(rollout.episode_returns.mean())
            metrics["return_std"] = float(rollout.episode_returns.std())
            metrics["length_mean"] = float(rollout.episode_lengths.mean())
        return metrics

    # -- parts that the algorithms use

    def _inputs(self, observations: NDArray[np.float32]) -> Tensor:
        values = self.normalizer(observations) if self.config.normalize_observations else observations
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def _act(self, observations: NDArray[np.float32]) -> tuple[Tensor, Array]:
        with torch.no_grad():
            raw = self.policy.head.sample(self.policy(self._inputs(observations)), self._learn_generator)
        return raw, self.policy.head.to_env(raw)

    def _values(self, observations: NDArray[np.float32]) -> Floats:
        if observations.shape[0] == 0:
            return np.zeros(0)
        with torch.no_grad():
            values = self.value(self._inputs(observations)).squeeze(-1)
        return np.asarray(values.cpu().numpy(), dtype=np.float64)

    def _rollout_values(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """Values of the rollout's observations and of what follows each step, both ``[T, N]``."""
        values = self._values(rollout.observations)
        last = self._values(rollout.last_observations)
        truncated = self._values(rollout.truncated_observations)
        return values, successor_values(values, last, rollout.truncated_at, truncated)

    def _fit_value(self, inputs: Tensor, targets: Tensor) -> float:
        """Mean squared error of the value network before fitting; then ``value_epochs`` gradient steps.

        Args:
            inputs: ``[M, O]`` as the networks take them.
            targets: ``[M]`` returns.
        """
        first = 0.0
        for epoch in range(self.config.value_epochs):
            loss = (self.value(inputs).squeeze(-1) - targets).square().mean()
            self.value_optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.value.parameters(), self.config.max_grad_norm)
            self.value_optimizer.step()
            first = loss.item() if epoch == 0 else first
        return first

    def _policy_step(self, inputs: Tensor, actions: Tensor, advantages: Tensor) -> Metrics:
        """One gradient step on ``-mean(log pi(a|s) * advantage) - ent_coef * mean(entropy)``."""
        outputs = self.policy(inputs)
        loss = -(self.policy.head.log_prob(outputs, actions) * advantages).mean()
        entropy = self.policy.head.entropy(outputs).mean()
        self.policy_optimizer.zero_grad()
        (loss - self.config.ent_coef * entropy).backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        self.policy_optimizer.step()
        return {"policy_loss": loss.item(), "entropy": entropy.item(), "policy_grad_norm": norm.item()}

    # -- acting

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, None]:
        """Actions for ``[O]`` or ``[N, O]``; the mode where ``deterministic``. There is no memory: the state is None.

        Raises:
            ValueError: an observation of another size.
        """
        observation = np.asarray(observation, dtype=np.float32)
        size = self.spaces.observation.shape[0]
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise ValueError(f"Observation of shape {observation.shape}; expected ({size},) or (N, {size}).")
        batch = observation.reshape(-1, size)
        head = self.policy.head
        with torch.no_grad():
            outputs = self.policy(self._inputs(batch))
            raw = head.mode(outputs) if deterministic else head.sample(outputs, self._act_generator)
        actions = head.to_env(raw)
        return (actions[0] if observation.ndim == 1 else actions), None

    # -- saving

    def save(self, path: str | Path) -> None:
        """Write a folder with everything that acting and continuing need, but not the environment."""
        tensors = storage.with_prefix("policy.", self.policy.state_dict())
        tensors |= storage.with_prefix("value.", self.value.state_dict())
        training = storage.flatten_optimizer("policy_optimizer", self.policy_optimizer)
        training |= storage.flatten_optimizer("value_optimizer", self.value_optimizer)
        training["learn_generator"] = self._learn_generator.get_state()
        training["act_generator"] = self._act_generator.get_state()
        if self._collector is not None:
            training |= storage.with_prefix("collector.", self._collector.state())
        header = storage.agent_header(self)
        if self.rows is not None:
            header["rows"] = rows_to_json(self.rows)
        with storage.new_folder(as_path(path)) as folder:
            storage.write_tensors(folder / "networks.safetensors", tensors)
            storage.write_tensors(folder / "training.safetensors", training)
            storage.write_tensors(folder / "normalizer.safetensors", self.normalizer.state())
            storage.write_header(folder, header)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: AnyEnv | None = None,
        *,
        device: str = "cpu",
        force_reset: bool = True,
        reward_transform: RewardTransform | None = None,
    ) -> Self:
        """Read a folder written by :meth:`save`.

        Args:
            path: the folder.
            env: where to continue; None for an agent that only acts.
            device: of the networks.
            force_reset: reset the env when learning continues. False continues the running episodes, bit-equal to an
                agent that was never saved: the env must be in the state that it had then.
            reward_transform: as in the constructor; it is not saved.

        Raises:
            ValueError: no complete agent of this kind, or spaces or rows that do not fit ``env`` (both are named); a
                policy that is shared by rows fits any batch size.
        """
        folder = as_path(path)
        header = storage.read_header(folder, cls.name)
        pair = storage.spaces_from_json(header["spaces"])
        rows = rows_from_json(header["rows"], pair) if "rows" in header else None
        if env is not None and rows is not None:
            check_same_rows(rows, env)
        elif env is not None:
            check_same_spaces(pair, env)
        options = {"seed": header["seed"], "device": device, "reward_transform": reward_transform, **header["config"]}
        agent = cls((rows or pair) if env is None else env, **options)
        tensors = storage.read_tensors(folder / "networks.safetensors")
        agent.policy.load_state_dict(storage.part(tensors, "policy."))
        agent.value.load_state_dict(storage.part(tensors, "value."))
        training = storage.read_tensors(folder / "training.safetensors")
        storage.restore_optimizer("policy_optimizer", agent.policy_optimizer, training)
        storage.restore_optimizer("value_optimizer", agent.value_optimizer, training)
        # A CPU generator's state means nothing to a CUDA generator; on another kind of device noise starts anew.
        if len(training["learn_generator"]) == len(agent._learn_generator.get_state()):
            agent._learn_generator.set_state(training["learn_generator"])
            agent._act_generator.set_state(training["act_generator"])
        agent.normalizer.restore(storage.read_tensors(folder / "normalizer.safetensors"))
        agent.num_timesteps, agent.num_episodes = header["num_timesteps"], header["num_episodes"]
        if agent._collector is not None and not force_reset:
            agent._collector.restore(storage.part(training, "collector."))
        return agent
