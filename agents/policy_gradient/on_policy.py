"""What the policy-gradient agents share: networks, rollouts, acting. The algorithms themselves are in
:mod:`agents.policy_gradient.reinforce` and :mod:`agents.policy_gradient.actor_critic`.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.common.base import AnyEnv, Array, Metrics, Spaces, require
from agents.common.learner import episode_metrics
from agents.common.networks import Policy, mlp
from agents.common.rollout import NORMALIZATIONS, Collector, Floats, Rollout, successor_values
from agents.policy_gradient.policy_agent import PolicyAgent
from agents.policy_gradient.row_policy import RowPolicy, RowValue
from agents.policy_gradient.rows import RowLayout


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


class OnPolicyAgent(PolicyAgent):
    """Base of agents that collect a rollout with the present policy, learn from it once and drop it.

    Arguments as in :class:`agents.policy_gradient.policy_agent.PolicyAgent`. It learns in whole rollouts, and reports
    ``policy_loss, value_loss, entropy, explained_variance`` after each.

    Raises:
        ValueError: as there, and ``row_shared=True`` where there are no rows.
    """

    config: OnPolicyConfig

    # -- the parts

    def _build(self, env: AnyEnv | Spaces | RowLayout, init: torch.Generator) -> None:
        super()._build(env, init)
        self.value = self._make_value(init).to(self.device)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.config.learning_rate)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=self.config.value_learning_rate)
        self.networks["value."] = self.value
        self.optimizers = {"policy_optimizer": self.policy_optimizer, "value_optimizer": self.value_optimizer}

    def _make_policy(self, init: torch.Generator) -> Policy | RowPolicy:
        return self._policy_of(self.config.hidden_sizes, self.config.log_std_init, init)

    def _make_value(self, init: torch.Generator) -> nn.Module:
        if self.rows is not None:
            return RowValue(self.rows, self.config.hidden_sizes, init)
        return mlp(int(self.spaces.observation.shape[0]), self.config.hidden_sizes, 1, output_gain=1.0, generator=init)

    # -- the algorithm

    @abstractmethod
    def _collect(self, collector: Collector) -> Rollout:
        """One rollout with the present policy."""

    @abstractmethod
    def _update(self, rollout: Rollout) -> Metrics:
        """Learn from one rollout; returns losses and the like."""

    def _advance(self, goal: int) -> Metrics:
        rollout = self._collect(self.collector)
        self._count(rollout)
        losses = self._update(rollout._replace(rewards=self._transformed(rollout.rewards)))
        # After the update: it must see the inputs on which the actions were chosen, or it is not on-policy.
        self.normalizer.update(rollout.observations)
        return {**losses, **episode_metrics([rollout])}

    # -- parts that the algorithms use

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

    def _actions(self, batch: NDArray[np.float32], deterministic: bool) -> Array:
        head = self.policy.head
        with torch.no_grad():
            outputs = self.policy(self._inputs(batch))
            raw = head.mode(outputs) if deterministic else head.sample(outputs, self._act_generator)
        return head.to_env(raw)
