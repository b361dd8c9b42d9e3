"""A small environment with named terms, features and exact forks, for the rules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Place(NamedTuple):
    start: int
    low: float
    high: float


@dataclass(frozen=True)
class FakeDecision:
    """What agents and rules read of a decision."""

    name: str
    encode: Callable[..., np.ndarray]
    effect: Callable[..., Any] | None = None
    views: tuple[tuple[str, str], ...] = (
        ("Box", "box"),
        ("Discrete", "discrete"),
        ("MultiDiscrete", "native"),
        ("MultiBinary", "native"),
    )
    view_hints: Mapping[str, str] = field(default_factory=dict)
    shared_refusal: str = ""
    constant_refusal: str = ""


class _Names:
    """What rules ask of an env: three views of K weights, as a distillation env has them."""

    terms: tuple[str, ...]
    view: str
    gate: bool

    @property
    def term_names(self) -> tuple[str, ...]:
        return self.terms

    @property
    def action_view(self) -> str:
        return self.view

    @property
    def action_names(self) -> tuple[str, ...]:
        if self.view == "discrete":
            return ("none", *self.terms, "all")
        return (*self.terms, "gate") if self.view == "box" and self.gate else self.terms

    @property
    def decision(self) -> FakeDecision:
        refusal = "the env selects knowledge for the whole batch; make one that decides about each row."
        return FakeDecision("knowledge_selection", self.encode_action, shared_refusal=refusal)

    @property
    def observation_layout(self) -> dict[str, Place]:
        return {"progress": Place(0, 0.0, 1.0), "gap": Place(1, -10.0, 10.0)}

    def _action_space(self) -> Any:
        if self.view == "discrete":
            return spaces.Discrete(len(self.terms) + 2)
        if self.view == "native":
            return spaces.MultiBinary(len(self.terms))
        return spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)

    def encode_action(self, weights: Mapping[str, float], gate: float = 1.0) -> np.ndarray:
        values = np.array([weights.get(name, 0.0) for name in self.terms], dtype=np.float32)
        if self.view == "box":
            return np.append(2 * values - 1, [2 * gate - 1] if self.gate else []).astype(np.float32)
        if gate != 1.0 or not np.isin(values, (0, 1)).all():
            raise ValueError(f"the view {self.view} cannot express {dict(weights)}")
        if self.view == "native":
            return values.astype(np.int8)
        if values.sum() not in (0, 1, len(values)):
            raise ValueError(f"the view {self.view} cannot express {dict(weights)}")
        return np.asarray(
            len(values) + 1 if values.all() else 0 if not values.any() else 1 + values.argmax(), dtype=np.int64
        )

    def decode(self, action: Any) -> tuple[np.ndarray, float]:
        """Weights by term and gate of one raw action."""
        count = len(self.terms)
        if self.view == "discrete":
            return np.vstack([np.zeros(count), np.eye(count), np.ones(count)])[int(action)], 1.0
        if self.view == "native":
            return np.asarray(action, dtype=float), 1.0
        scaled = (np.asarray(action, dtype=float) + 1) / 2
        return scaled[:count], float(scaled[count]) if self.gate else 1.0


class TermsVectorEnv(_Names, VectorEnv[np.ndarray, Any, np.ndarray]):
    """N replicas; in each step a replica draws what every term is worth now. Observation ``[progress, gap]``.

    Reward: sum of weight times worth times gate; the gap falls by the reward. Replica n's episodes have ``lengths[n]``
    steps. Before a step, ``worth [N, K]`` can be read by the test.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        lengths: tuple[int, ...] = (4, 6),
        view: str = "native",
        gate: bool = True,
        terms: tuple[str, ...] = ("hard_label", "soft_label", "relation"),
    ) -> None:
        self.lengths, self.view, self.gate, self.terms = np.array(lengths), view, gate, terms
        self.num_envs = len(lengths)
        self.single_observation_space = spaces.Box(-10, 10, (2,), np.float32)
        self.single_action_space = self._action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = None
        self.taken = 0
        self.reset(seed=0)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self.rngs = [np.random.default_rng(seed + n) for n in range(self.num_envs)]
        self.steps = np.zeros(self.num_envs, dtype=int)
        self.gap = np.ones(self.num_envs)
        self._draw()
        return self._observe(), {}

    def _draw(self) -> None:
        self.worth = np.stack([rng.normal(size=len(self.terms)) for rng in self.rngs])

    def _observe(self) -> np.ndarray:
        return np.column_stack([self.steps / self.lengths, np.clip(self.gap, -10, 10)]).astype(np.float32)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.taken += 1
        decoded = [self.decode(action) for action in actions]
        rewards = np.array([gate * (w @ worth) for (w, gate), worth in zip(decoded, self.worth, strict=True)])
        self.gap -= rewards
        self.steps += 1
        ended = self.steps >= self.lengths
        infos: dict[str, Any] = {}
        if ended.any():
            infos = {"final_obs": self._observe(), "_final_obs": ended.copy(), "final_info": {}, "_final_info": ended}
            self.steps[ended], self.gap[ended] = 0, 1.0
        self._draw()
        return self._observe(), rewards, ended, np.zeros(self.num_envs, dtype=bool), infos

    def get_state(self) -> dict[str, Any]:
        return copy.deepcopy({k: getattr(self, k) for k in ("rngs", "steps", "gap", "worth")})

    def set_state(self, state: dict[str, Any]) -> None:
        for key, value in copy.deepcopy(state).items():
            setattr(self, key, value)


class TermsEnv(_Names, gym.Env[np.ndarray, Any]):
    """One replica of :class:`TermsVectorEnv`."""

    def __init__(self, length: int = 4, view: str = "native") -> None:
        self.many = TermsVectorEnv((length,), view)
        self.view, self.gate, self.terms = self.many.view, self.many.gate, self.many.terms
        self.observation_space, self.action_space = self.many.single_observation_space, self.many.single_action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.many.reset(seed=seed)[0][0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, truncated, _ = self.many.step([action])
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def get_state(self) -> Any:
        return self.many.get_state()

    def set_state(self, state: Any) -> None:
        self.many.set_state(state)
