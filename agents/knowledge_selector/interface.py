"""What the knowledge selector reads and acts on, and its exploration rewards (KS; Wang et al. 2022, Findings of EMNLP).

The algorithm itself is in :mod:`agents.knowledge_selector.agent`. Shapes: T steps, N replicas, K knowledge terms, A
action components (K, or K + 1 where the agent acts on the gate). Actions of the agent are weights in [0, 1] (soft) or
{0, 1} (hard).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.common.base import AnyEnv, Array, Spaces, check_same_spaces, inner_env, spaces_of

TEACHER, STUDENT = "teacher_cls", "student_cls"
EPSILON = 1e-8


class Interface(NamedTuple):
    """What the selector needs to know of an environment."""

    spaces: Spaces
    layout: dict[str, tuple[int, int]]  # feature -> its first component and the one behind its last
    gated: bool  # whether the last component of a Box action scales the student's update


def check_same_interface(saved: Interface, env: AnyEnv) -> None:
    """Raise ``ValueError`` where a saved selector does not fit an environment: spaces, or places of the features."""
    check_same_spaces(saved.spaces, env)
    present = read_interface(env)
    if (saved.layout, saved.gated) != (present.layout, present.gated):
        raise ValueError(
            f"The agent was trained with the features {_describe(saved)}, the env has {_describe(present)}; make the "
            "env with the same features in the same order, and the same gate."
        )


def _describe(interface: Interface) -> str:
    parts = ", ".join(f"{name} [{start}:{stop}]" for name, (start, stop) in interface.layout.items())
    return f"{parts} and {'a' if interface.gated else 'no'} gate"


def read_interface(env: AnyEnv) -> Interface:
    """Spaces, places of the features and whether there is a gate, from ``env.unwrapped``.

    Raises:
        ValueError: spaces that agents do not know, or an env that does not observe both [CLS] vectors.
    """
    inner = inner_env(env)
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

    def begin(self) -> None:
        """Forget the previous actions: every replica starts a new episode."""
        self.previous = None

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

    def begin(self) -> None:
        """Nothing to forget: the counts run over all episodes."""

    def state(self) -> dict[str, Tensor]:
        """Actions and their counts as tensors."""
        if not self.counts:
            return {}
        return {"actions": torch.tensor(list(self.counts)), "counts": torch.tensor(list(self.counts.values()))}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        keys, counts = (state[name].tolist() for name in ("actions", "counts")) if state else ([], [])
        self.counts = {tuple(key): count for key, count in zip(keys, counts, strict=True)}
