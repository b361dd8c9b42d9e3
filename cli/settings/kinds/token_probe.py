"""Spaces and names of a tutor's environment that is not built yet, for agents to be made on."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kd_env.config.environment import EnvConfig
from kd_env.decisions.base import Parts
from kd_env.decisions.catalog import make_decision
from kd_env.decisions.tutor_token import features
from kd_env.knowledge import TERMS, reads_teacher, term_entries

_SLOTS, _LENGTH, _HIDDEN, _VOCABULARY = 2, 8, 8, 64
"""Sizes that text and teacher would say: those of networks mean nothing here."""


class TokenProbe(VectorEnv[Any, Any, Any]):
    """What agents and rules ask for when they are made; never stepped."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, config: EnvConfig, num_envs: int) -> None:
        self.num_envs = num_envs
        self.mode, self.action_view = config.mode, config.action_view
        self.batch_size, self.num_candidates = config.batch_size, config.num_candidates
        self.slots = config.slots if isinstance(config.slots, int) else _SLOTS
        self.hidden_size, self.vocab_size = _HIDDEN, max(_VOCABULARY, config.num_candidates)
        entries = term_entries(config.terms)
        self.term_names = tuple(entry.name for entry in entries)
        taught = tuple(reads_teacher(TERMS[entry.kind]) for entry in entries)
        self.decision = make_decision(
            config, Parts(self.term_names, ("teacher",), taught, (self.slots, self.vocab_size))
        )
        self.action_names = self.decision.action_names
        sizes = features.Sizes(
            config.observation,
            config.batch_size,
            self.slots,
            _LENGTH,
            self.vocab_size,
            config.num_candidates,
            _HIDDEN,
        )
        self.single_observation_space = features.space(sizes)
        self.observation_layout = features.layout(sizes) if config.observation == "flat" else {}
        self.single_action_space = self.decision.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.ordinary_tokens = np.arange(self.vocab_size)
        steps = config.budget * (1 if config.mode == "joint" else self.slots)
        self.episode_steps = steps if config.max_episode_steps is None else min(steps, config.max_episode_steps)

    def log_probabilities(self) -> Any:
        """Exists, because rules ask whether it does."""
        raise RuntimeError("A probe has no text.")

    def original_tokens(self) -> Any:
        """Exists, because rules ask whether it does."""
        raise RuntimeError("A probe has no text.")

    def student_errors(self, tokens: Any) -> Any:
        """Exists, because rules ask whether it does."""
        raise RuntimeError("A probe has no student.")
