"""What an off-policy agent remembers: transitions, and the scale of their rewards.

Both keep raw values: observations are normalised and rewards scaled with the moments of the moment in which they are
sampled, so that one batch never mixes two scales. Shapes: M transitions, O observation components, A action components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.common.base import require
from agents.common.rollout import Bools, Floats, Ints, Rollout

Singles = NDArray[np.float32]

REWARD_NORMALIZATIONS = ("per_step", "running", "none")
MIN_GROUP = 4


class Transitions(NamedTuple):
    """M transitions, as they came from the environment."""

    observations: Singles  # [M, O]
    actions: Singles  # [M, A], as executed
    rewards: Floats  # [M], of the environment, discounted sums over ``spans`` steps
    bonuses: Floats  # [M], alike; added to the reward in training only
    spans: Ints  # [M], steps that are summed, at least 1
    terminated: Bools  # [M], whether nothing is worth anything after the last of them
    next_observations: Singles  # [M, O], what follows the last of them, within the episode
    steps: Ints  # [M], step within the episode, from 0

    def part(self, rows: slice | Ints) -> Transitions:
        """Some of them."""
        return Transitions(*(values[rows] for values in self))  # type: ignore[arg-type]


def transitions_of(
    rollout: Rollout, rewards: Floats, bonuses: Floats, td_steps: int = 1, gamma: float = 1.0
) -> Transitions:
    """The T x N transitions of a rollout, step by step; ``rewards`` and ``bonuses`` are ``[T, N]``.

    Each sums ``td_steps`` steps, fewer where the episode or the rollout ends. What follows a truncated step is the last
    observation of its episode; what follows a terminated one means nothing.
    """
    ended = rollout.terminated | rollout.truncated
    count, replicas = ended.shape
    last = np.arange(count)[:, None].repeat(replicas, axis=1)  # [T, N], last step of each sum
    summed = [rewards.copy(), bonuses.copy()]
    columns = np.arange(replicas)[None, :]
    for ahead in range(1, td_steps):
        goes_on = (last + 1 < count) & ~ended[last, columns]
        last = last + goes_on
        for values, total in zip((rewards, bonuses), summed, strict=True):
            total += np.where(goes_on, gamma**ahead * values[last, columns], 0.0)
    following = np.concatenate([rollout.observations[1:], rollout.last_observations[None]], axis=0)
    following[rollout.truncated_at[:, 0], rollout.truncated_at[:, 1]] = rollout.truncated_observations
    actions = rollout.actions.cpu().numpy().astype(np.float32)
    return Transitions(
        observations=rollout.observations.reshape(-1, rollout.observations.shape[-1]),
        actions=actions.reshape(-1, actions.shape[-1]),
        rewards=summed[0].ravel(),
        bonuses=summed[1].ravel(),
        spans=(last - np.arange(count)[:, None] + 1).ravel(),
        terminated=rollout.terminated[last, columns].ravel(),
        next_observations=following[last, columns].reshape(-1, following.shape[-1]),
        steps=rollout.step_index.ravel(),
    )


class ReplayBuffer:
    """The last ``capacity`` transitions, sampled uniformly with replacement."""

    def __init__(self, capacity: int, observation_size: int, action_size: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._place = 0  # where the next transition goes
        self._data = Transitions(
            observations=np.zeros((capacity, observation_size), np.float32),
            actions=np.zeros((capacity, action_size), np.float32),
            rewards=np.zeros(capacity),
            bonuses=np.zeros(capacity),
            spans=np.ones(capacity, np.int64),
            terminated=np.zeros(capacity, np.bool_),
            next_observations=np.zeros((capacity, observation_size), np.float32),
            steps=np.zeros(capacity, np.int64),
        )

    def __len__(self) -> int:
        return self.size

    def add(self, new: Transitions) -> None:
        """Append transitions; the oldest go where there is no room."""
        count = len(new.rewards)
        # Of more than there is room for only the last would stay; writing all would leave their order undefined.
        kept = min(count, self.capacity)
        rows = (self._place + np.arange(count - kept, count)) % self.capacity
        for name in Transitions._fields:
            getattr(self._data, name)[rows] = getattr(new, name)[count - kept :]
        self._place = (self._place + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """``count`` transitions, drawn with ``generator`` (on the CPU).

        Raises:
            ValueError: the buffer is empty.
        """
        if self.size == 0:
            raise ValueError("ReplayBuffer.sample before anything was added.")
        rows = torch.randint(self.size, (count,), generator=generator).numpy()
        return self._data.part(rows)

    def state(self) -> dict[str, Tensor]:
        """The part that is used, and the place of the next transition; exact."""
        used = {name: torch.from_numpy(store[: self.size].copy()) for name, store in self._data._asdict().items()}
        return {**used, "place": torch.tensor(self._place)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave to a buffer of the same capacity and sizes."""
        self.size, self._place = len(state["rewards"]), int(state["place"])
        for name, store in self._data._asdict().items():
            store[: self.size] = state[name].numpy()


class RewardScale:
    """Brings rewards to a scale of about 1 by running moments of all rewards seen.

    Rewards of distillation shrink as the student converges, by orders of magnitude over an episode.

    ============ =====================================================================================================
    mode         what becomes of a reward
    ============ =====================================================================================================
    ``running``  divided by the standard deviation of all rewards: which policy is best does not change
    ``per_step`` mean 0 and deviation 1 at each step of an episode: late steps count as much as early ones. Steps seen
                 fewer than 4 times take mean and deviation of all
    ``none``     unchanged
    ============ =====================================================================================================
    """

    def __init__(self, mode: str) -> None:
        allowed = "one of " + ", ".join(REWARD_NORMALIZATIONS)
        require(mode in REWARD_NORMALIZATIONS, "reward_normalization", mode, allowed)
        self.mode = mode
        # Rows: one for each step of an episode; columns: count, mean, sum of squared differences from the mean.
        self.moments: Floats = np.zeros((0, 3))

    def update(self, rewards: Floats, steps: Ints) -> None:
        """Take rewards ``[M]`` at the steps ``[M]`` of their episodes into the moments (Welford 1962)."""
        missing = int(steps.max()) + 1 - len(self.moments)
        if missing > 0:
            self.moments = np.concatenate([self.moments, np.zeros((missing, 3))])
        for reward, step in zip(rewards, steps, strict=True):
            count, mean, squares = self.moments[step]
            count += 1.0
            shifted = mean + (reward - mean) / count
            self.moments[step] = count, shifted, squares + (reward - mean) * (reward - shifted)

    def overall(self) -> tuple[float, float]:
        """Mean and standard deviation over all steps; 0 and 1 before the first update."""
        counts, means, squares = self.moments.T
        total = counts.sum()
        if total == 0:
            return 0.0, 1.0
        mean = float((counts * means).sum() / total)
        variance = float((squares + counts * (means - mean) ** 2).sum() / total)
        return mean, variance**0.5

    def __call__(self, rewards: Floats, steps: Ints) -> Floats:
        """Scaled rewards ``[M]``; all their steps must have been in an update."""
        if self.mode == "none":
            return rewards
        mean, deviation = self.overall()
        # The floors keep rewards that are all equal finite.
        if self.mode == "running":
            return np.asarray(rewards / (deviation + 1e-8))
        counts, means, squares = self.moments.T
        enough = counts >= MIN_GROUP
        step_means = np.where(enough, means, mean)
        step_deviations = np.where(enough, np.sqrt(squares / np.maximum(counts, 1.0)), deviation)
        return np.asarray((rewards - step_means[steps]) / (step_deviations[steps] + 1e-8))
