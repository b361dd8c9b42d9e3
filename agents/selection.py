"""The parts of the knowledge selector (KS; Wang et al. 2022, Findings of EMNLP): what it reads and acts on, its networks,
the targets it learns from and its exploration rewards. The algorithm itself is in :mod:`agents.knowledge_selector`.

Shapes: N replicas or M transitions, O observation components, K knowledge terms, A action components (K, or K + 1 where
the agent acts on the gate). Actions of the agent are weights in [0, 1] (soft) or {0, 1} (hard).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from torch import Tensor, nn
from torch.nn import functional as F

from agents.base import AnyEnv, Array, Spaces, spaces_of
from agents.networks import mlp

TEACHER, STUDENT = "teacher_cls", "student_cls"
EPSILON = 1e-8


class Interface(NamedTuple):
    """What the selector needs to know of an environment."""

    spaces: Spaces
    layout: dict[str, tuple[int, int]]  # feature -> its first component and the one behind its last
    gated: bool  # whether the last component of a Box action scales the student's update


def read_interface(env: AnyEnv) -> Interface:
    """Spaces, places of the features and whether there is a gate, from ``env.unwrapped``.

    Raises:
        ValueError: spaces that agents do not know, or an env that does not observe both [CLS] vectors.
    """
    inner: Any = env.unwrapped.envs[0].unwrapped if isinstance(env.unwrapped, SyncVectorEnv) else env.unwrapped
    layout = {name: (int(p.start), int(p.stop)) for name, p in getattr(inner, "observation_layout", {}).items()}
    missing = [name for name in (TEACHER, STUDENT) if name not in layout]
    if missing:
        raise ValueError(
            f"knowledge_selector reads the features {TEACHER!r} and {STUDENT!r}; {' and '.join(map(repr, missing))} "
            f"missing in the observation, which has {', '.join(layout) or 'no named features'}. Make the env with "
            f"them, for example env.features=[{', '.join([*layout, *missing])}]."
        )
    names = tuple(getattr(inner, "action_names", ()))
    found = spaces_of(env)
    gated = isinstance(found.action, spaces.Box) and bool(names) and names[-1] == "gate"
    return Interface(found, layout, gated)


class ActionMap:
    """From the agent's weights to the actions of one environment.

    Args:
        interface: of the environment.
        mode: ``soft`` (a Box of finite bounds; 0 and 1 are its ends) or ``hard`` (MultiBinary).
        act_on_gate: whether the gate is one more component of the agent's action; else it stays open.

    Raises:
        ValueError: a mode that the action space cannot express, or a gate that is not there.
    """

    def __init__(self, interface: Interface, mode: str, act_on_gate: bool) -> None:
        space = interface.spaces.action
        wanted, view, other = (spaces.Box, "box", "hard") if mode == "soft" else (spaces.MultiBinary, "native", "soft")
        if not isinstance(space, wanted):
            raise ValueError(
                f"knowledge_selector with mode={mode!r} needs {wanted.__name__} actions, but the env has {space}; make "
                f"the env with action_view={view!r}, or set mode={other!r} where its actions fit that."
            )
        if act_on_gate and not interface.gated:
            raise ValueError(
                "act_on_gate=True needs mode='soft' and an env whose last action component is a gate; make the env "
                "with action_view='box' and gate=true, or set act_on_gate=False."
            )
        if isinstance(space, spaces.Box) and not (np.isfinite(space.low) & np.isfinite(space.high)).all():
            raise ValueError(f"knowledge_selector needs a Box action of finite bounds, got {space}; rescale it.")
        self._space = space
        self._gate_open = interface.gated and not act_on_gate
        self.size = int(np.prod(space.shape or ())) - int(self._gate_open)
        self.hard = mode == "hard"

    def to_env(self, actions: Tensor) -> Array:
        """What the environment takes for weights ``[N, A]``."""
        weights = actions.detach().cpu().numpy().astype(np.float64)
        if self._gate_open:
            weights = np.concatenate([weights, np.ones((len(weights), 1))], axis=1)
        if isinstance(self._space, spaces.Box):
            low, high = self._space.low.astype(np.float64), self._space.high.astype(np.float64)
            # Clipped after the cast: rounding may step over a bound, and the env refuses what lies outside.
            cast = (low + weights * (high - low)).astype(self._space.dtype)
            return np.asarray(np.clip(cast, self._space.low, self._space.high))
        return weights.astype(self._space.dtype)


class StateEncoder(nn.Module):
    """The state: teacher's and student's [CLS], each through its own 2-layer MLP, and the other features as they are."""

    def __init__(
        self, layout: Mapping[str, tuple[int, int]], size: int, use_other_features: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._parts = [slice(*layout[TEACHER]), slice(*layout[STUDENT])]
        sizes = [part.stop - part.start for part in self._parts]
        self.teacher, self.student = (mlp(n, [size], size, output_gain=1.0, generator=generator) for n in sizes)
        others = [i for k, v in layout.items() if k not in (TEACHER, STUDENT) for i in range(*v)]
        self._others = others if use_other_features else []
        self.num_outputs = 2 * size + len(self._others)

    def forward(self, observations: Tensor) -> Tensor:
        """States ``[..., S]`` of observations ``[..., O]``."""
        teacher, student = (observations[..., part] for part in self._parts)
        parts = [torch.tanh(self.teacher(teacher)), torch.tanh(self.student(student))]
        if self._others:
            parts.append(observations[..., self._others])
        return torch.cat(parts, dim=-1)


class Selector(nn.Module):
    """Actor and critic with their encoders; the target networks are a second one.

    Args:
        layout: of the observation.
        actions: components A.
        hidden: sizes of the two hidden layers of the actor and of the critic, which have three layers each.
        encoder_size: outputs of each [CLS] encoder.
        use_other_features: whether features beside the two [CLS] vectors are part of the state.
        share_encoders: one pair of encoders, trained by the critic alone; else each network trains its own.
        generator: source of the initial weights (on the CPU).
    """

    def __init__(
        self,
        layout: Mapping[str, tuple[int, int]],
        actions: int,
        *,
        hidden: Sequence[int],
        encoder_size: int,
        use_other_features: bool,
        share_encoders: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shared = share_encoders
        self.critic_encoder = StateEncoder(layout, encoder_size, use_other_features, generator)
        size = self.critic_encoder.num_outputs
        self.critic = mlp(size + actions, hidden, 1, output_gain=1.0, generator=generator)
        self.actor_encoder = (
            self.critic_encoder
            if share_encoders
            else StateEncoder(layout, encoder_size, use_other_features, generator)
        )
        self.actor = mlp(size, hidden, actions, output_gain=0.01, generator=generator)

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the actor's loss trains."""
        return [*self.actor.parameters(), *(() if self.shared else self.actor_encoder.parameters())]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's loss trains."""
        return [*self.critic.parameters(), *self.critic_encoder.parameters()]

    def logits(self, observations: Tensor) -> Tensor:
        """The actor before its sigmoid, ``[..., A]``."""
        state = self.actor_encoder(observations)
        outputs: Tensor = self.actor(state.detach() if self.shared else state)
        return outputs

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a), ``[...]``."""
        values: Tensor = self.critic(torch.cat([self.critic_encoder(observations), actions], dim=-1))
        return values.squeeze(-1)


def select(logits: Tensor, hard: bool) -> Tensor:
    """The deterministic policy mu: ``sigmoid(logits)``, thresholded at 0.5 where ``hard``."""
    return (logits > 0).to(logits.dtype) if hard else torch.sigmoid(logits)


def critic_target(rewards: Tensor, terminated: Tensor, next_values: Tensor, gamma: float) -> Tensor:
    """TD target ``r + gamma * Q'(s', mu'(s'))``, ``[M]``; nothing follows a terminated step."""
    return rewards + gamma * torch.where(terminated, torch.zeros_like(next_values), next_values)


def critic_loss(selector: Selector, observations: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared TD error."""
    return F.mse_loss(selector.q(observations, actions), targets)


def actor_loss(selector: Selector, observations: Tensor, hard: bool, hard_gradient: str, logit_penalty: float) -> Tensor:
    """``-mean Q(s, mu(s)) + logit_penalty * mean logit^2``; its gradient counts for the actor's parameters alone.

    Args:
        selector: both networks.
        observations: ``[M, O]``.
        hard: whether actions are thresholded.
        hard_gradient: ``straight_through``: the critic sees the thresholded action, whose gradient is handed to the
            sigmoid as if there were no threshold (Bengio et al. 2013); ``soft``: the critic sees the sigmoid.
        logit_penalty: see :class:`agents.knowledge_selector.KnowledgeSelectorConfig`.
    """
    logits = selector.logits(observations)
    actions = torch.sigmoid(logits)
    if hard and hard_gradient == "straight_through":
        actions = select(logits, hard=True) + actions - actions.detach()
    # The state is a constant of the actor's loss: with shared encoders only the critic's loss may train them.
    return -selector.q(observations, actions).mean() + logit_penalty * logits.square().mean()


def cosine_similarity(first: Array, second: Array) -> Array:
    """Cosine similarity of weights ``[..., A]``, ``[...]``; 0 where one of the two is all zero."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    product = (first * second).sum(axis=-1)
    return np.asarray(np.where(norms > EPSILON, product / np.maximum(norms, EPSILON), 0.0))


class SoftExploration:
    """Exploration reward of soft actions: ``-coefficient * cosine(a_t, a_{t-1})`` within an episode (KS).

    The first phase of an episode has no previous action and gets 0.
    """

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.previous: Array | None = None  # [N, A], the last actions that were seen

    def __call__(self, actions: Array, steps: Array) -> Array:
        """Bonuses ``[T, N]`` of actions ``[T, N, A]`` at the steps ``[T, N]`` of their episodes, in order."""
        earlier = actions[:1] if self.previous is None else self.previous[None]
        before = np.concatenate([earlier, actions[:-1]], axis=0)
        self.previous = actions[-1].copy()
        return np.where(steps > 0, -self.coefficient * cosine_similarity(actions, before), 0.0)

    def state(self) -> dict[str, Tensor]:
        """The previous actions as tensors."""
        return {} if self.previous is None else {"previous": torch.from_numpy(self.previous.copy())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.previous = state["previous"].numpy().copy() if "previous" in state else None


class HardExploration:
    """Exploration reward of hard actions: ``coefficient / sqrt(N(a))`` (KS).

    ``N(a)`` is how often the whole action has been taken in training, this time included, in all replicas and episodes.
    """

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.counts: dict[tuple[int, ...], int] = {}

    def __call__(self, actions: Array, steps: Array) -> Array:
        """Bonuses ``[T, N]`` of actions ``[T, N, A]``, counted step by step and within a step by replica."""
        bonuses = np.zeros(actions.shape[:2])
        for place in np.ndindex(*bonuses.shape):
            key = tuple(int(part) for part in actions[place])
            self.counts[key] = self.counts.get(key, 0) + 1
            bonuses[place] = self.coefficient / math.sqrt(self.counts[key])
        return bonuses

    def state(self) -> dict[str, Tensor]:
        """Actions and their counts as tensors."""
        if not self.counts:
            return {}
        return {"actions": torch.tensor(list(self.counts)), "counts": torch.tensor(list(self.counts.values()))}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        keys, counts = (state[name].tolist() for name in ("actions", "counts")) if state else ([], [])
        self.counts = {tuple(key): count for key, count in zip(keys, counts, strict=True)}
