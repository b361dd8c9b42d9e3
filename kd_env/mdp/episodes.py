"""What the episodes of every decision process share: their end, their rewards' bounds and their random streams."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, cast

import numpy as np

from kd_env.mdp import rewards


class Episode(Protocol):
    """The state of N replicas, as far as their end is concerned; every field ``[N]``."""

    @property
    def updates(self) -> np.ndarray:
        """Budget spent."""

    @property
    def budget(self) -> np.ndarray:
        """Student updates of the episode."""

    @property
    def steps(self) -> np.ndarray:
        """Elapsed steps."""

    @property
    def returns(self) -> np.ndarray:
        """Sum of the rewards so far."""

    @property
    def diverged(self) -> np.ndarray:
        """Whether the student is lost."""

    @property
    def loss_reset(self) -> np.ndarray:
        """Feedback loss at reset."""


S = TypeVar("S", bound=Episode)
_USUAL = rewards.Bounds()


def terminal(state: Episode) -> np.ndarray:
    """``[N]``: the budget is spent, or the student diverged."""
    return np.asarray((state.updates >= state.budget) | state.diverged)


def truncated(limit: int | None, state: Episode) -> np.ndarray:
    """``[N]``: ``limit`` steps (``max_episode_steps``) are reached; nothing else truncates."""
    return np.zeros(len(state.steps), bool) if limit is None else np.asarray(state.steps >= limit)


def bounded(
    value: np.ndarray, before: Episode, after: Episode, bounds: rewards.Bounds = _USUAL
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards ``[N]`` within their bounds, and whether they were clipped.

    A divergence brings the return to ``min(return so far, 0) - 1`` whatever that takes. Where every step costs, the
    steps that are left count, too, this one included: each as the dearer of the feedback loss at reset and the mean
    step so far.
    """
    clipped = np.abs(value) > bounds.limit
    left: np.ndarray | float = 0.0
    if bounds.cost:
        steps = np.ceil((before.budget - before.updates) / np.maximum(after.updates - before.updates, 1))
        left = steps * np.maximum(before.loss_reset, -before.returns / np.maximum(before.steps, 1))
    divergence_rewards = rewards.divergence_reward(before.returns, left)
    value = np.where(after.diverged, divergence_rewards, np.clip(value, -bounds.limit, bounds.limit))
    return value, clipped & ~after.diverged


def credit(state: S, value: np.ndarray) -> S:
    """The state with a step's rewards added to the returns."""
    changed: S = cast(Any, state)._replace(returns=state.returns + value)  # of a NamedTuple, which protocols cannot say
    return changed


def sub_seed(seed: int, purpose: int) -> int:
    """Independent random streams by purpose from one episode seed."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))
