"""Advantage actor-critic with generalised advantage estimation.

V. Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning" (the synchronous form, A2C);
J. Schulman et al. (2016), "High-dimensional continuous control using generalized advantage estimation".

1. Take ``n_steps`` steps in all replicas with the present policy; episodes may end anywhere in them.
2. ``d_t = r_t + gamma * V(s_{t+1}) - V(s_t)`` and ``A_t = d_t + gamma * lambda * A_{t+1}`` within the episode. After a
   terminated step nothing follows; after a truncated one, and at the edge of the rollout, the value stands in.
3. Normalise the advantages at each step of the episode (:func:`agents.common.rollout.normalize_advantages`).
4. One gradient step on ``-mean(A_t * log pi(a_t | s_t)) - ent_coef * mean(entropy)``; fit ``V`` to ``A + V``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from agents.common.base import Metrics, episode_steps, require
from agents.common.rollout import Collector, Rollout, explained_variance, generalized_advantages, normalize_advantages
from agents.policy_gradient.on_policy import OnPolicyAgent, OnPolicyConfig

MIN_BATCH = 128


@dataclass(frozen=True)
class ActorCriticConfig(OnPolicyConfig):
    """Options of :class:`ActorCritic`."""

    n_steps: int | None = None
    """Steps of each replica in a rollout. None: one episode, or with few replicas as many as make 128 steps over all of
    them, where the env names its length (``env.unwrapped.episode_steps`` or the registered step limit; else 40)."""
    gae_lambda: float = 0.95
    """0 trusts the value network (one-step advantages), 1 the observed return."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        super().__post_init__()
        require(self.n_steps is None or self.n_steps >= 1, "n_steps", self.n_steps, "at least 1, or None")
        require(0 <= self.gae_lambda <= 1, "gae_lambda", self.gae_lambda, "in [0, 1]")


class ActorCritic(OnPolicyAgent):
    """Advantage actor-critic; arguments as in :class:`agents.policy_gradient.on_policy.OnPolicyAgent`."""

    name = "actor_critic"
    config: ActorCriticConfig
    config_class: ClassVar[type[ActorCriticConfig]] = ActorCriticConfig

    def _collect(self, collector: Collector) -> Rollout:
        episode = episode_steps(collector.env) or 40
        episodes = math.ceil(MIN_BATCH / (episode * collector.env.num_envs))
        return collector.collect(self._act, n_steps=self.config.n_steps or episode * episodes)

    def _update(self, rollout: Rollout) -> Metrics:
        c = self.config
        values, following = self._rollout_values(rollout)
        ends = (rollout.terminated, rollout.truncated)
        raw = generalized_advantages(rollout.rewards, values, following, *ends, c.gamma, c.gae_lambda)
        advantages = normalize_advantages(raw, c.advantage_normalization, rollout.step_index, rollout.valid)
        returns = raw + values
        inputs = self._inputs(rollout.observations).flatten(0, 1)
        targets = torch.from_numpy(returns).float().to(self.device).flatten()
        weights = torch.from_numpy(advantages).float().to(self.device).flatten()
        metrics = self._policy_step(inputs, rollout.actions.flatten(0, 1), weights)
        metrics["value_loss"] = self._fit_value(inputs, targets)
        return {**metrics, "explained_variance": explained_variance(values.ravel(), returns.ravel())}
