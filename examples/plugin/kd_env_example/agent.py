"""An agent: hill climbing on one constant action, an episode of all replicas for each try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from agents.common.base import Array, Metrics, Spaces, require, reset_seed, spaces_of
from agents.common.learner import Learner, episode_metrics


@dataclass(frozen=True)
class ClimberConfig:
    """Options, as ``agent.options.width=0.5``."""

    width: float = 0.3
    """Standard deviation of a step, in units of the action."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require(self.width > 0, "width", self.width, "above 0")


class Climber(Learner):
    """A try near the best action so far takes its place where its episodes have a higher mean return."""

    name = "climber"
    config: ClimberConfig
    config_class: ClassVar[type[ClimberConfig]] = ClimberConfig
    counters = (*Learner.counters, "best_return")  # saved with the counts

    def _build(self, env: Any, init: torch.Generator) -> None:
        self.spaces = env if isinstance(env, Spaces) else spaces_of(env)
        if not isinstance(self.spaces.action, spaces.Box):
            raise ValueError("climber acts in boxes; choose a view with a Box action, as agent.action_view=box.")
        self.best = nn.Parameter(torch.zeros(self.spaces.action.shape), requires_grad=False)
        self.best_return: float | None = None
        self.networks = {"best": nn.ParameterList([self.best])}  # what is saved, and restored in place

    def _begin(self, total_timesteps: int, anew: bool) -> None:
        """Nothing: every try begins with a reset."""

    def _advance(self, goal: int) -> Metrics:
        """Play one episode in every replica, and learn from it; the first try is the action that is there."""
        noise = torch.randn(self.best.shape, generator=self._learn_generator)
        width = 0.0 if self.best_return is None else self.config.width
        tried = (self.best + width * noise).clamp(-1.0, 1.0)
        actions = np.stack([tried.numpy()] * self.collector.env.num_envs)
        self.collector.reset(reset_seed(self.seed, self.num_timesteps))
        rollout = self.collector.collect(lambda _: (torch.zeros(len(actions), 1), actions), episodes=1)
        mean = float(np.where(rollout.valid, self._transformed(rollout.rewards), 0.0).sum(0).mean())
        if self.best_return is None or mean > self.best_return:
            self.best.copy_(tried)
            self.best_return = mean
        self._count(rollout)
        return {"best_return": self.best_return} | episode_metrics([rollout])

    def _actions(self, batch: Array, deterministic: bool) -> Array:
        """The best action for each of N observations, ``[N, A]``."""
        return np.stack([self.best.numpy()] * len(batch))
