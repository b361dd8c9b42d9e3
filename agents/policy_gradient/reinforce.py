"""REINFORCE with a learned baseline.

R. J. Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning";
Sutton & Barto (2018), "Reinforcement Learning: An Introduction", section 13.4.

1. Play whole episodes in all replicas with the present policy.
2. Return to go ``G_t = r_t + gamma * G_{t+1}``; advantage ``A_t = G_t - b(s_t)`` with the learned baseline ``b``.
3. Normalise the advantages at each step of the episode (:func:`agents.common.rollout.normalize_advantages`).
4. One gradient step on ``-mean(A_t * log pi(a_t | s_t)) - ent_coef * mean(entropy)``; fit ``b`` to ``G``.

The gradient is undiscounted by default, and unlike the textbook's it has no factor ``gamma^t``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from agents.common.base import Metrics, require, reset_seed
from agents.common.rollout import (
    Collector,
    Floats,
    Rollout,
    discounted_returns,
    explained_variance,
    normalize_advantages,
)
from agents.policy_gradient.on_policy import OnPolicyAgent, OnPolicyConfig


@dataclass(frozen=True)
class ReinforceConfig(OnPolicyConfig):
    """Options of :class:`Reinforce`."""

    episodes_per_update: int = 16
    """Whole episodes in a rollout, at least; shared out evenly over the replicas, rounded up."""
    learned_baseline: bool = True
    """Whether a value network is taken off the returns. False leaves it to the normalisation of the advantages, which
    takes off the mean over episodes at the same step: better in short trainings on small returns, where what an
    untrained network says drowns them. Truncated episodes then count as if nothing followed."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        super().__post_init__()
        require(self.episodes_per_update >= 1, "episodes_per_update", self.episodes_per_update, "at least 1")


class Reinforce(OnPolicyAgent):
    """Monte-Carlo policy gradient with a learned baseline; arguments as in
    :class:`agents.policy_gradient.on_policy.OnPolicyAgent`.

    A truncated episode is continued by the baseline at its last observation; a terminated one has no continuation.
    """

    name = "reinforce"
    config: ReinforceConfig
    config_class: ClassVar[type[ReinforceConfig]] = ReinforceConfig

    def _collect(self, collector: Collector) -> Rollout:
        # Replicas that ended early are in the middle of their next episode, begun under the old policy: drop those.
        if not collector.at_start:
            collector.reset(reset_seed(self.seed, self.num_timesteps))
        each = math.ceil(self.config.episodes_per_update / collector.env.num_envs)
        return collector.collect(self._act, episodes=each)

    def _update(self, rollout: Rollout) -> Metrics:
        c = self.config
        none = np.zeros_like(rollout.rewards)
        values, following = self._rollout_values(rollout) if c.learned_baseline else (none, none)
        returns = discounted_returns(rollout.rewards, following, rollout.terminated, rollout.truncated, c.gamma)
        advantages = self._advantages(returns, values, rollout)
        used = torch.from_numpy(rollout.valid).to(self.device)
        inputs = self._inputs(rollout.observations)[used]
        targets = torch.from_numpy(returns).float().to(self.device)[used]
        weights = torch.from_numpy(advantages).float().to(self.device)[used]
        metrics = self._policy_step(inputs, rollout.actions[used], weights)
        metrics["value_loss"] = self._fit_value(inputs, targets) if c.learned_baseline else 0.0
        return {**metrics, "explained_variance": explained_variance(values[rollout.valid], returns[rollout.valid])}

    def _advantages(self, returns: Floats, values: Floats, rollout: Rollout) -> Floats:
        """Normalised advantages ``[T, N]`` of returns over the values of the baseline."""
        mode = self.config.advantage_normalization
        return normalize_advantages(returns - values, mode, rollout.step_index, rollout.valid)
