"""A decision: how large each update is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from kd_env.config.environment import EnvConfig
from kd_env.decisions.base import BOX, Decision, Parts
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect


class _Actions(NamedTuple):
    space: spaces.Space[Any]
    action_names: tuple[str, ...]


class Pace(Decision):
    """One number a step: -1 skips the update, 1 makes it with the full learning rate."""

    name = "pace"
    views = ((BOX, "native"),)  # agents that need a Box act in action_view=native
    default_features = ("progress", "term_losses", "gap")

    def make_actions(self, config: EnvConfig, parts: Parts) -> _Actions:
        """The action space of one replica."""
        return _Actions(spaces.Box(-1.0, 1.0, (1,), np.float32), ("pace",))

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """Actions ``[N, 1]`` scale the updates; every term and row has weight 1."""
        scale = (np.asarray(actions, np.float32).reshape(-1) + 1.0) / 2.0
        table = np.broadcast_to(self.parts.present[None, :, :, None], (len(scale), *self.parts.present.shape, 1))
        return Effect(weights=table.astype(np.float32), update_scale=scale)

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """The action for a scale in [0, 1], which rules give."""
        return np.array([2.0 * float(weights) - 1.0], np.float32)
