"""Environments that are solved by repeating what is observed, one for each action space.

Observation: the answer of this step, as a flat Box. Reward: 1 for the observed answer (the share of right components
for several), minus the mean squared error for Box actions. Episodes end after ``length`` steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

KINDS = ("discrete", "multi_discrete", "multi_binary", "box")


class IdentityEnv(gym.Env[np.ndarray, Any]):
    """The answer is drawn anew in each step; the end is ``terminated`` or, on request, ``truncated``."""

    def __init__(self, kind: str, length: int = 8, truncate: bool = False) -> None:
        self.kind, self.length, self.truncate = kind, length, truncate
        size = {"discrete": 3, "multi_discrete": 5, "multi_binary": 3, "box": 2}[kind]
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = {
            "discrete": spaces.Discrete(3),
            "multi_discrete": spaces.MultiDiscrete([2, 3]),
            "multi_binary": spaces.MultiBinary(3),
            "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
        }[kind]
        self.episode_steps = length
        self.steps = 0
        self.answer: Any = None

    def _draw(self) -> np.ndarray:
        rng = self.np_random
        if self.kind == "discrete":
            self.answer = int(rng.integers(3))
            return np.eye(3, dtype=np.float32)[self.answer]
        if self.kind == "multi_discrete":
            self.answer = np.array([rng.integers(2), rng.integers(3)])
            parts = [np.eye(2)[self.answer[0]], np.eye(3)[self.answer[1]]]
            return np.concatenate(parts).astype(np.float32)
        if self.kind == "multi_binary":
            self.answer = rng.integers(0, 2, 3)
            return (2 * self.answer - 1).astype(np.float32)
        self.answer = rng.uniform(-0.8, 0.8, 2).astype(np.float32)
        return self.answer.copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        if self.kind == "box":
            reward = -float(np.mean((np.asarray(action) - self.answer) ** 2))
        else:
            reward = float(np.mean(np.asarray(action) == self.answer))
        self.steps += 1
        done = self.steps >= self.length
        return self._draw(), reward, done and not self.truncate, done and self.truncate, {}


def identity_vector_env(kind: str, count: int, **options: Any) -> SyncVectorEnv:
    """Several identity environments that reset in the step of their end."""
    makers = [lambda: IdentityEnv(kind, **options)] * count
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


class ScriptedVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """Episodes of given lengths and ends, so that every output can be worked out by hand.

    Observation of replica n in its e-th episode after s steps: ``[n, e, s]``. Reward: ``100 n + 10 e + s`` (s before
    the step). ``script[n][e]`` is ``(length, "terminated" | "truncated" | "both")``; the last entry repeats.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, script: list[list[tuple[int, str]]]) -> None:
        self.script = script
        self.num_envs = len(script)
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.num_envs, 3), np.float32)
        self.action_space = spaces.MultiDiscrete([2] * self.num_envs)
        self.render_mode = None
        self.places = np.zeros((self.num_envs, 2), dtype=int)  # episode, step

    def _observe(self) -> np.ndarray:
        return np.column_stack([np.arange(self.num_envs), self.places]).astype(np.float32)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.places = np.zeros((self.num_envs, 2), dtype=int)
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        n, e, s = np.arange(self.num_envs), *self.places.T
        rewards = (100 * n + 10 * e + s).astype(np.float64)
        self.places[:, 1] += 1
        kinds = [plan[min(self.places[i, 0], len(plan) - 1)] for i, plan in enumerate(self.script)]
        ends = np.array([self.places[i, 1] == kinds[i][0] for i in n])
        terminated = ends & np.array([kind in ("terminated", "both") for _, kind in kinds])
        truncated = ends & np.array([kind in ("truncated", "both") for _, kind in kinds])
        infos: dict[str, Any] = {"step": self.places[:, 1].copy(), "_step": np.ones(self.num_envs, dtype=bool)}
        if ends.any():
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(ends):
                final[i] = self._observe()[i]
            infos |= {"final_obs": final, "_final_obs": ends}
            infos |= {"final_info": {"step": infos["step"].copy(), "_step": ends}, "_final_info": ends}
            self.places[ends, 0] += 1
            self.places[ends, 1] = 0
            infos["step"] = self.places[:, 1].copy()
        return self._observe(), rewards, terminated, truncated, infos
