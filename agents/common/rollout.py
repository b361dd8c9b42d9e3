"""Experience from a vector env, and the returns and advantages computed from it.

Everything below :class:`Collector` is a pure function of arrays ``[T, N]`` (T steps of N replicas), so that it can be
compared with a loop. Replicas end their episodes at different steps; the two kinds of end differ in one point: what
follows a *terminated* step is worth 0, what follows a *truncated* one is worth the value of the last observation of
that episode, not of the first of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.common.base import AnyVectorEnv, Array, check_same_replicas, final_observation, spaces_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

NORMALIZATIONS = ("per_step", "batch", "none")
MIN_GROUP = 4
MAX_STEPS = 1_000_000


class Rollout(NamedTuple):
    """T steps of N replicas, as they came from the environment (observations not normalised)."""

    observations: NDArray[np.float32]  # [T, N, O], what the action was chosen on
    actions: Tensor  # [T, N, A] raw actions of the policy
    rewards: Floats  # [T, N]
    terminated: Bools  # [T, N]
    truncated: Bools  # [T, N]
    step_index: Ints  # [T, N], step within the episode, from 0
    valid: Bools  # [T, N], False after the last whole episode that counts
    last_observations: NDArray[np.float32]  # [N, O], what the next action will be chosen on
    truncated_at: Ints  # [M, 2], (t, n) of the truncated and not terminated steps
    truncated_observations: NDArray[np.float32]  # [M, O], last observations of those episodes
    episode_returns: Floats  # [E], of the valid episodes that ended, undiscounted
    episode_lengths: Ints  # [E]

    @property
    def num_steps(self) -> int:
        """Environment steps taken, over all replicas."""
        return int(self.rewards.size)


class Collector:
    """Steps a vector env (``autoreset_mode=SAME_STEP``) and remembers where each replica stands in its episode."""

    def __init__(self, env: AnyVectorEnv) -> None:
        self.env = env
        self.observations: NDArray[np.float32] | None = None  # [N, O]
        self.steps: Ints = np.zeros(env.num_envs, dtype=np.int64)  # [N] steps taken in the running episodes
        self.returns: Floats = np.zeros(env.num_envs)  # [N] their returns so far

    @property
    def at_start(self) -> bool:
        """Whether every replica stands at the start of an episode."""
        return self.observations is not None and not self.steps.any()

    def reset(self, seed: int | list[int] | None) -> None:
        """Start new episodes in all replicas; a list has a seed for each."""
        observations, _ = self.env.reset(seed=seed)  # type: ignore[arg-type]  # gymnasium 1.2 takes lists
        self.observations = np.array(observations, dtype=np.float32)
        self.steps = np.zeros(self.env.num_envs, dtype=np.int64)
        self.returns = np.zeros(self.env.num_envs)

    def state(self) -> dict[str, Tensor]:
        """Where the running episodes stand; empty before the first reset."""
        if self.observations is None:
            return {}
        values = {"observations": self.observations, "steps": self.steps, "returns": self.returns}
        return {name: torch.from_numpy(value) for name, value in values.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave; the env must be in the state that it had then.

        Raises:
            ValueError: episodes of another number of replicas, or with observations of another size.
        """
        if not state:
            return
        check_same_replicas(len(state["steps"]), self.env.num_envs)
        saved, size = state["observations"].shape[-1], spaces_of(self.env).observation.shape[0]
        if saved != size:
            raise ValueError(
                f"The agent stopped before observations of {saved} components, the env has {size}: running episodes "
                "cannot continue; make the env with the same batch size, or use force_reset=True."
            )
        self.observations = state["observations"].numpy().copy()
        self.steps = state["steps"].numpy().copy()
        self.returns = state["returns"].numpy().copy()

    def collect(
        self,
        act: Callable[[NDArray[np.float32]], tuple[Tensor, Array]],
        *,
        n_steps: int | None = None,
        episodes: int | None = None,
    ) -> Rollout:
        """Take exactly ``n_steps`` steps, or go on until each replica has ended ``episodes`` episodes.

        With ``episodes``, replicas that are done earlier go on until the last one is; what they do then is
        not ``valid``.

        Args:
            act: observations ``[N, O]`` to raw actions ``[N, A]`` and the actions that the env takes.
            n_steps: number of steps.
            episodes: number of whole episodes of each replica.

        Raises:
            ValueError: not exactly one of the two, or episodes that never end.
        """
        if (n_steps is None) == (episodes is None):
            raise ValueError(f"Give n_steps or episodes, not both: got n_steps={n_steps}, episodes={episodes}.")
        if self.observations is None:
            raise ValueError("Collector.collect before reset.")
        count = self.env.num_envs
        ended_episodes = np.zeros(count, dtype=np.int64)
        observations, actions, rewards, terminations, truncations, indices, valid = [], [], [], [], [], [], []
        truncated_at: list[tuple[int, int]] = []
        truncated_observations: list[Array] = []
        episode_returns: list[float] = []
        episode_lengths: list[int] = []
        t = 0
        while t < n_steps if n_steps is not None else bool((ended_episodes < (episodes or 0)).any()):
            if t >= MAX_STEPS:
                raise ValueError(f"No replica ended its episode within {MAX_STEPS} steps; give the env a step limit.")
            counted = ended_episodes < episodes if episodes is not None else np.ones(count, dtype=np.bool_)
            raw, env_actions = act(self.observations)
            following, reward, terminated, truncated, infos = self.env.step(env_actions)
            observations.append(self.observations)
            actions.append(raw)
            rewards.append(np.array(reward, dtype=np.float64))
            terminations.append(np.array(terminated, dtype=np.bool_))
            truncations.append(np.array(truncated, dtype=np.bool_))
            indices.append(self.steps.copy())
            valid.append(counted)
            self.steps = self.steps + 1
            self.returns = self.returns + rewards[-1]
            for n in np.flatnonzero(terminations[-1] | truncations[-1]):
                if not terminations[-1][n]:
                    truncated_at.append((t, int(n)))
                    truncated_observations.append(final_observation(infos, int(n)))
                if counted[n]:
                    episode_returns.append(float(self.returns[n]))
                    episode_lengths.append(int(self.steps[n]))
                ended_episodes[n] += 1
                self.steps[n] = 0
                self.returns[n] = 0.0
            # A copy: envs may hand out the array that they write the next observation into.
            self.observations = np.array(following, dtype=np.float32)
            t += 1
        size = self.observations.shape[1]
        return Rollout(
            observations=np.stack(observations),
            actions=torch.stack(actions),
            rewards=np.stack(rewards),
            terminated=np.stack(terminations),
            truncated=np.stack(truncations),
            step_index=np.stack(indices),
            valid=np.stack(valid),
            last_observations=self.observations,
            truncated_at=np.array(truncated_at, dtype=np.int64).reshape(-1, 2),
            truncated_observations=np.array(truncated_observations, dtype=np.float32).reshape(-1, size),
            episode_returns=np.array(episode_returns, dtype=np.float64),
            episode_lengths=np.array(episode_lengths, dtype=np.int64),
        )


def successor_values(values: Floats, last_values: Floats, truncated_at: Ints, truncated_values: Floats) -> Floats:
    """Value of what follows each step, ``[T, N]``.

    ``values`` of the next row, ``last_values [N]`` after the last row, and ``truncated_values [M]`` (values of the last
    observations) at the truncated steps. Entries at terminated steps have no meaning: callers count them as 0.
    """
    following = np.concatenate([values[1:], last_values[None]], axis=0)
    following[truncated_at[:, 0], truncated_at[:, 1]] = truncated_values
    return following


def generalized_advantages(
    rewards: Floats,
    values: Floats,
    following: Floats,
    terminated: Bools,
    truncated: Bools,
    gamma: float,
    gae_lambda: float,
) -> Floats:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16), all arrays ``[T, N]``.

    ``A_t = d_t + gamma * lambda * A_{t+1}`` with ``d_t = r_t + gamma * V_{t+1} - V_t``; the sum stops at every end of
    an episode, and ``V_{t+1}`` is 0 after a terminated step. ``following`` comes from :func:`successor_values`.
    """
    ended = terminated | truncated
    deltas = rewards + gamma * np.where(terminated, 0.0, following) - values
    advantages = np.zeros_like(deltas)
    running = np.zeros(deltas.shape[1])
    for t in range(deltas.shape[0] - 1, -1, -1):
        running = deltas[t] + gamma * gae_lambda * np.where(ended[t], 0.0, running)
        advantages[t] = running
    return advantages


def discounted_returns(rewards: Floats, following: Floats, terminated: Bools, truncated: Bools, gamma: float) -> Floats:
    """Return from each step to the end of its episode, ``[T, N]``.

    ``G_t = r_t + gamma * G_{t+1}``; nothing follows a terminated step, and ``following`` (:func:`successor_values`)
    stands in after a truncated step and after the last row.
    """
    ended = terminated | truncated
    returns = np.zeros_like(rewards)
    running = following[-1]
    for t in range(rewards.shape[0] - 1, -1, -1):
        tail = np.where(terminated[t], 0.0, np.where(ended[t], following[t], running))
        running = rewards[t] + gamma * tail
        returns[t] = running
    return returns


def normalize_advantages(advantages: Floats, mode: str, step_index: Ints, valid: Bools) -> Floats:
    """Advantages ``[T, N]`` with mean 0 and standard deviation 1 within groups; 0 where not ``valid``.

    ``per_step`` groups the transitions of the same step of an episode, over replicas and episodes. What an action can
    gain or lose differs by orders of magnitude over an episode of distillation, and the return to go differs by the
    steps that are left: over a whole batch, the late steps drown in the variance of the early ones. Groups of fewer
    than 4 transitions have no useful mean of their own and take mean and deviation of the whole batch. ``batch`` makes
    one group of all, ``none`` changes nothing.
    """
    if mode == "none":
        return np.where(valid, advantages, 0.0)
    flat, weight = advantages.ravel(), valid.ravel().astype(np.float64)
    total = weight.sum()
    batch_mean = (flat * weight).sum() / total
    batch_std = np.sqrt((weight * (flat - batch_mean) ** 2).sum() / total)
    mean, std = np.full_like(flat, batch_mean), np.full_like(flat, batch_std)
    if mode == "per_step":
        group = step_index.ravel()
        size = np.bincount(group, weights=weight)
        safe = np.maximum(size, 1.0)
        group_mean = np.bincount(group, weights=weight * flat) / safe
        deviation = weight * (flat - group_mean[group]) ** 2
        group_std = np.sqrt(np.bincount(group, weights=deviation) / safe)
        enough = size[group] >= MIN_GROUP
        mean = np.where(enough, group_mean[group], mean)
        std = np.where(enough, group_std[group], std)
    # The floor keeps a group of equal advantages at 0 instead of dividing rounding errors by themselves.
    normalized = weight * (flat - mean) / (std + 1e-8)
    return normalized.reshape(advantages.shape)


def explained_variance(values: Floats, returns: Floats) -> float:
    """Share of the variance of ``returns`` that ``values`` explain: 1 is perfect, 0 no better than a constant."""
    variance = float(np.var(returns))
    # Equal returns have no variance to explain; 0 keeps logs free of NaN.
    return 1.0 - float(np.var(returns - values)) / variance if variance > 0 else 0.0
