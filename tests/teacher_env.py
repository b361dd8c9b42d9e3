"""Small environments that decide about teachers, with what each row tells of the best decision.

A row's features say which of the T teachers is good on it: the loss of a good one is small. The best subset is the good
teachers, the best Box component 0.5 for a good one and -0.5 for another, and a gate should repeat the feature
``signal``, which belongs to no row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from terms import FakeDecision


class Place(NamedTuple):
    start: int
    stop: int
    shape: tuple[int, ...]
    low: float
    high: float


class FakeEffect(NamedTuple):
    """As the real one, a tuple: nothing may index it by mistake."""

    weights: np.ndarray  # [N, T] or [N, B, T]


class FakeAnswers(NamedTuple):
    """What teachers say of rows, as ``teacher_answers`` of the real environment."""

    train: np.ndarray
    feedback: np.ndarray
    feedback_labels: np.ndarray
    next_rows: Any


def experts(seed: int, teachers: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits ``[T, R, 2]``, labels and experts ``[R]``: of each row one teacher is sure and right, the others guess."""
    rng = np.random.default_rng(seed)
    labels, best = rng.integers(0, 2, rows), rng.integers(0, teachers, rows)
    sure = best == np.arange(teachers)[:, None]
    right = np.where(sure, rng.random(sure.shape) < 0.95, rng.random(sure.shape) < 0.5)
    margins = np.where(sure, 3.0, rng.uniform(0.0, 1.5, sure.shape)) * np.where(right, 1, -1) * np.where(labels, 1, -1)
    return np.stack([-margins / 2, margins / 2], axis=-1).astype(np.float32), labels, best


class TeacherVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """N replicas; in each step the good teachers of every row (or batch) are drawn anew.

    Reward: the share of right coins, or minus the mean squared error of Box components; with ``delay`` that of the
    action one step before. ``taken`` holds the last actions or effect.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        count: int = 4,
        *,
        view: str = "subset",
        weighting: str = "sample",
        rows: int = 4,
        teachers: tuple[str, ...] = ("small", "middle", "big"),
        length: int = 6,
        gate: bool = False,
        delay: bool = False,
        without: tuple[str, ...] = (),
        decision: str = "teacher_weighting",
    ) -> None:
        self.num_envs, self.action_view, self.weighting, self.batch_size = count, view, weighting, rows
        self.teacher_names, self.episode_steps, self.gate, self.delay = teachers, length, gate, delay
        by_terms = "the env selects knowledge for the whole batch; make one that decides about each row."
        by_batch = "the env takes one action a batch (weighting='batch'); make it with weighting='sample'."
        self.decision = FakeDecision(
            decision,
            self.encode_teachers,
            self.teacher_effect,
            views=(("Box", "simplex"), ("MultiBinary", "subset"), ("Discrete", "discrete")),
            view_hints={"discrete": "weighting='batch'"} if weighting == "sample" else {},
            shared_refusal={"knowledge_selection": by_terms}.get(decision, by_batch if weighting == "batch" else ""),
        )
        self.reference_teacher, self.num_labels = teachers[-1], 2
        train, _, self.experts = experts(1, len(teachers), 400)
        self.teacher_answers: Any = FakeAnswers(train, *experts(2, len(teachers), 200)[:2], self.next_rows)
        self.term_names = ("hard_label", "soft_label")
        prefix, lead = ("row_", (rows,)) if weighting == "sample" else ("", ())
        sizes = {
            "progress": (1,),
            f"{prefix}teacher_losses": (*lead, len(teachers)),
            "signal": (2,),
            "row_student" if prefix else "student_on_batch": (*lead, 3),
        }
        self.observation_layout: dict[str, Place] = {}
        end = 0
        for name, shape in sizes.items():
            if name not in without:
                start, end = end, end + int(np.prod(shape))
                self.observation_layout[name] = Place(start, end, shape, 0.0, 1.0 if name == "progress" else 5.0)
        self.row_features = tuple(name for name in self.observation_layout if name.startswith("row_"))
        self.shape = (*lead, len(teachers))
        size = int(np.prod(self.shape))
        self.action_names = tuple(f"w{i}" for i in range(size)) + (("gate",) if gate else ())
        if view == "discrete":
            action: Any = spaces.Discrete(len(teachers) + 2)
        elif view == "subset":
            action = spaces.MultiBinary(size)
        elif view == "multi":
            action = spaces.MultiDiscrete([2] * size)
        else:
            action = spaces.Box(-1.0, 1.0, (size + gate,), np.float32)
        self.single_action_space = action
        self.single_observation_space = spaces.Box(-5.0, 5.0, (end,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.render_mode = None
        self.reset(seed=0)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.steps = 0
        self.owed = np.zeros(self.num_envs)
        self._draw()
        return self._observe(), {}

    def _draw(self) -> None:
        self.good = self.rng.integers(0, 2, (self.num_envs, *self.shape))
        self.losses = np.where(self.good == 1, 0.1, 1.5) + self.rng.uniform(0, 0.3, self.good.shape)
        self.student = self.rng.uniform(0, 1, (self.num_envs, *self.shape[:-1], 3))
        self.signal = self.rng.uniform(-0.6, 0.6, (self.num_envs, 2))

    def next_rows(self) -> np.ndarray:
        """Rows of the next batch, others in each step."""
        places = np.arange(self.num_envs * self.batch_size).reshape(self.num_envs, self.batch_size)
        return (places + 37 * self.steps) % len(self.experts)

    def _observe(self) -> np.ndarray:
        values = {"progress": np.full((self.num_envs, 1), self.steps / self.episode_steps), "signal": self.signal}
        for name in self.observation_layout:
            values.setdefault(name, self.losses if "losses" in name else self.student)
        parts = [values[name].reshape(self.num_envs, -1) for name in self.observation_layout]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _value(self, actions: np.ndarray) -> np.ndarray:
        size = self.good[0].size
        if isinstance(self.single_action_space, spaces.Box):
            error = (actions[:, :size] - (self.good.reshape(self.num_envs, -1) - 0.5)) ** 2
            if self.gate:
                error = np.concatenate([error, size * (actions[:, size:] - self.signal[:, :1]) ** 2], axis=1)
            return -error.sum(axis=1) / size
        if self.action_view == "discrete":
            return np.zeros(self.num_envs)
        return (actions == self.good.reshape(self.num_envs, -1)).mean(axis=1)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.taken = actions
        if isinstance(actions, FakeEffect):
            now = np.zeros(self.num_envs)
        else:
            assert self.action_space.contains(actions), (actions, self.action_space)
            now = self._value(np.asarray(actions))
        rewards, self.owed = (self.owed, now) if self.delay else (now, self.owed)
        self.steps += 1
        ended = np.full(self.num_envs, self.steps >= self.episode_steps)
        infos: dict[str, Any] = {}
        if ended.any():
            infos = {"final_obs": self._observe(), "_final_obs": ended}
            self.steps, self.owed = 0, np.zeros(self.num_envs)
        self._draw()
        return self._observe(), rewards, ended, np.zeros(self.num_envs, dtype=bool), infos

    def teacher_effect(self, weights: np.ndarray) -> FakeEffect:
        assert weights.shape[1:] == self.shape
        assert (weights >= 0).all()
        return FakeEffect(weights)

    def encode_teachers(self, weights: np.ndarray, gate: float = 1.0) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        if self.action_view == "discrete":
            chosen = weights > 0
            return np.asarray(len(weights) + 1 if chosen.all() else chosen.argmax() + 1 if chosen.any() else 0)
        if self.action_view == "subset":
            return (weights > 0).astype(np.int8).ravel()
        count = len(self.teacher_names)
        if self.action_view == "box":
            raw = 2 * weights.ravel() * count - 1
            return np.append(raw, [2 * gate - 1] if self.gate else []).astype(np.float32)
        assert (weights.sum(axis=-1) > 0).all()
        logs = np.log(np.maximum(weights, 1e-9))
        return np.clip((logs - logs.max(axis=-1, keepdims=True)) / 4 + 1, -1, 1).astype(np.float32).ravel()

    def decode(self, actions: Any) -> np.ndarray:
        """Weights ``[N, T]`` or ``[N, B, T]`` of actions or an effect."""
        if isinstance(actions, FakeEffect):
            return actions.weights
        count = len(self.teacher_names)
        if self.action_view == "discrete":
            table = np.vstack([np.zeros(count), np.eye(count), np.full(count, 1 / count)])
            return table[np.asarray(actions, dtype=int)]
        raw = np.asarray(actions, dtype=np.float64)[:, : int(np.prod(self.shape))].reshape(-1, *self.shape)
        if self.action_view == "subset":
            return raw / np.maximum(raw.sum(axis=-1, keepdims=True), 1)
        if self.action_view == "box":
            return (raw + 1) / 2 / count
        powers = np.exp(4 * raw)
        return powers / powers.sum(axis=-1, keepdims=True)


class TeacherEnv(gym.Env[np.ndarray, Any]):
    """One replica of :class:`TeacherVectorEnv`."""

    def __init__(self, **options: Any) -> None:
        self.many = TeacherVectorEnv(1, **options)
        self.observation_space, self.action_space = self.many.single_observation_space, self.many.single_action_space

    def __getattr__(self, name: str) -> Any:
        if name == "many":
            raise AttributeError(name)
        return getattr(self.many, name)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.many.reset(seed=seed)[0][0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        given = action if isinstance(action, FakeEffect) else np.asarray(action)[None]
        observations, rewards, terminated, truncated, _ = self.many.step(given)
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}
