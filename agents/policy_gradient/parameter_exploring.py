"""Policy gradients with parameter-based exploration (PGPE), in symmetric pairs on the same students.

F. Sehnke, C. Osendorfer, T. Rueckstiess, A. Graves, J. Peters and J. Schmidhuber (2010), "Parameter-exploring policy
gradients", Neural Networks 23, with their symmetric sampling.

1. Draw noise ``z_m`` for the policy's weights; one replica plays a whole episode with ``w + std z_m``, its partner
   with ``w - std z_m`` on the same student, seed by seed. Both take the most likely action: all exploration is in the
   weights.
2. ``u_m = (R_m+ - R_m-) / 2``, divided by the root mean square of all u in the update.
3. One step ``w += learning_rate * mean(u_m z_m)``.

Why here: what weighs the rows of one batch changes the return of a whole distillation by far less than students
differ, and noise that is drawn anew at every step cancels over an episode. Noise that is kept for the episode adds
up, and partners have the same student and the same batches, so that their difference is the policy's.

Ours: the standard deviation stays as it is (the paper adapts it), u is scaled by its root mean square in place of the
largest return seen so far, and pairs share their environment's seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from agents.common.base import AnyEnv, Array, Metrics, Spaces, require, reset_seed
from agents.common.learner import episode_metrics
from agents.common.networks import Policy
from agents.common.rollout import Collector, Floats, Rollout
from agents.policy_gradient.policy_agent import PolicyAgent
from agents.policy_gradient.row_policy import RowPolicy
from agents.policy_gradient.rows import RowLayout


@dataclass(frozen=True)
class ParameterExploringConfig:
    """Options of :class:`ParameterExploring`."""

    learning_rate: float = 0.2
    """Length of a step along one noise vector of deviation 1, in units of the weights."""
    std: float = 0.3
    """Standard deviation of the noise on the weights; observations are normalised."""
    episodes_per_update: int = 16
    """Whole episodes for an update, at least: pairs are shared out evenly over the replicas, rounded up."""
    normalize_observations: bool = True
    """Whether observations are shifted and scaled by running moments."""
    hidden_sizes: tuple[int, ...] = ()
    """Hidden layers of the policy; none: it is linear, with few weights to explore."""
    row_shared: bool | str = "auto"
    """Whether one policy is applied to every row of the batch: ``auto`` where the env has ``row_features`` and actions
    for each row. An agent's own ``config`` says True or False."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.std > 0, "std", self.std, "above 0")
        require(self.episodes_per_update >= 2, "episodes_per_update", self.episodes_per_update, "at least 2")
        sizes_ok = all(size >= 1 for size in self.hidden_sizes)
        require(sizes_ok, "hidden_sizes", self.hidden_sizes, "a list of sizes of at least 1, or none")
        require(self.row_shared in (True, False, "auto"), "row_shared", self.row_shared, "true, false or 'auto'")


class ParameterExploring(PolicyAgent):
    """PGPE as an agent; arguments as in :class:`agents.policy_gradient.policy_agent.PolicyAgent`.

    It learns in whole episodes of an even number of replicas, and reports ``pair_difference`` (root mean square of u,
    before it is scaled) and ``step_norm`` after each update. It acts without noise, whatever ``deterministic`` says.

    Raises:
        ValueError: as there, and an env with an odd number of replicas.
    """

    name = "pgpe"
    config: ParameterExploringConfig
    config_class: ClassVar[type[Any]] = ParameterExploringConfig

    def _build(self, env: AnyEnv | Spaces | RowLayout, init: torch.Generator) -> None:
        super()._build(env, init)
        count = 1 if isinstance(env, gym.Env) else getattr(env, "num_envs", 2)
        if count % 2:
            raise ValueError(
                "pgpe plays pairs of episodes on the same student and needs an even number of replicas, not "
                f"num_envs={count}: make a vector env of, for example, num_envs=8."
            )
        # What the distribution adds to the outputs is no part of the most likely action.
        self._explored = {name: p for name, p in self.policy.named_parameters() if not name.startswith("head.")}

    def _make_policy(self, init: torch.Generator) -> Policy | RowPolicy:
        return self._policy_of(self.config.hidden_sizes, 0.0, init)

    # -- learning

    def _begin(self, total_timesteps: int, anew: bool) -> None:
        """Nothing: every update begins with episodes of its own."""

    def _advance(self, goal: int) -> Metrics:
        collector, rollouts = self.collector, list[Rollout]()
        pairs = collector.env.num_envs // 2
        noises, differences = list[dict[str, Tensor]](), list[Floats]()
        for part in range(math.ceil(self.config.episodes_per_update / collector.env.num_envs)):
            noise = self._noise(pairs)
            rollout = self._play(collector, noise, part)
            returns = np.where(rollout.valid, self._transformed(rollout.rewards), 0.0).sum(axis=0)
            noises.append(noise)
            differences.append((returns[0::2] - returns[1::2]) / 2)
            rollouts.append(rollout)
        for rollout in rollouts:
            self._count(rollout)
        metrics = self._step(noises, np.concatenate(differences))
        for rollout in rollouts:
            self.normalizer.update(rollout.observations)
        return {**metrics, **episode_metrics(rollouts)}

    def _noise(self, pairs: int) -> dict[str, Tensor]:
        """Standard normal noise for every explored weight, ``[pairs, ...]``."""
        return {
            name: torch.randn((pairs, *weight.shape), generator=self._learn_generator, device=self.device)
            for name, weight in self._explored.items()
        }

    def _play(self, collector: Collector, noise: dict[str, Tensor], part: int) -> Rollout:
        """One episode of every replica: pair m is replicas 2m and 2m + 1, with opposite noise and one seed."""
        # A seed of its own for every pair of the training, and those of a training that goes on are as without a stop.
        first = reset_seed(self.seed, self.num_timesteps) + part * collector.env.num_envs
        collector.reset([first + index // 2 for index in range(collector.env.num_envs)])
        with torch.no_grad():
            weights = {
                name: torch.stack([weight + self.config.std * z, weight - self.config.std * z], dim=1).flatten(0, 1)
                for (name, weight), z in zip(self._explored.items(), noise.values(), strict=True)
            }
        return collector.collect(lambda observations: self._act_with(weights, observations), episodes=1)

    def _act_with(self, weights: dict[str, Tensor], observations: NDArray[np.float32]) -> tuple[Tensor, Array]:
        """The most likely actions of every replica under weights of its own, ``[N, ...]`` each."""

        def outputs(own: dict[str, Tensor], inputs: Tensor) -> Tensor:
            found: Tensor = functional_call(self.policy, own, (inputs,))
            return found

        with torch.no_grad():
            raw = self.policy.head.mode(vmap(outputs)(weights, self._inputs(observations)))
        return raw, self.policy.head.to_env(raw)

    def _step(self, noises: Sequence[dict[str, Tensor]], differences: Floats) -> Metrics:
        """Move the weights along their noise; differences ``[M]`` in the order of the noise."""
        scale = float(np.sqrt(np.mean(differences**2)))
        if scale == 0.0:  # every pair ended alike: there is nothing to go by
            return {"pair_difference": 0.0, "step_norm": 0.0}
        u = torch.as_tensor(differences / scale, dtype=torch.float32, device=self.device)
        squares = 0.0
        with torch.no_grad():
            for name, weight in self._explored.items():
                z = torch.cat([noise[name] for noise in noises])
                step = self.config.learning_rate * torch.tensordot(u, z, dims=1) / len(u)
                weight.add_(step)
                squares += float(step.square().sum())
        return {"pair_difference": scale, "step_norm": math.sqrt(squares)}

    # -- acting

    def _actions(self, batch: NDArray[np.float32], deterministic: bool) -> Array:
        with torch.no_grad():
            return self.policy.head.to_env(self.policy.head.mode(self.policy(self._inputs(batch))))
