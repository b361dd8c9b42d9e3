"""The best constant action, found by random search with an agent's own budget: what a policy has to beat to be one.

An agent that ends above every rule may have found nothing but better constant weights. This search has its information
(returns of training episodes) and its budget (environment steps, hence student updates), and no observation: random
constant actions, of which successive halving keeps the better half (Jamieson & Talwalkar, AISTATS 2016): n of them
play one episode each, the better half two more, and so on down to two, which share what is left of the budget.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from agents.common import storage
from agents.common.base import (
    ActionSpace,
    AnyEnv,
    Array,
    LearnCallback,
    Metrics,
    ProgressBar,
    RewardTransform,
    Spaces,
    as_path,
    as_vector_env,
    build_config,
    check_same_spaces,
    episode_steps,
    inner_env,
    require,
    reset_seed,
    spaces_of,
)
from agents.common.rollout import Collector, Floats
from agents.policy_gradient.rows import RowLayout, find_rows


@dataclass(frozen=True)
class SearchedConfig:
    """Options of :class:`Searched`."""

    candidates: int | None = None
    """Constant actions that are tried; None: as many as the budget holds, the largest power of two n with
    n log2(n) episodes in it."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require(self.candidates is None or self.candidates >= 2, "candidates", self.candidates, "at least 2, or null")


class Searched:
    """Random search of one constant action.

    Args:
        env: a gymnasium env or vector env whose episodes have a known number of steps.
        seed: of the candidates, and of the env's resets.
        device: accepted as by every agent; there is no network.
        reward_transform: applied to the rewards ``[T, N]`` of every round of episodes.
        **options: fields of :class:`SearchedConfig`.

    Raises:
        ValueError: an option outside its range, or actions of which a constant one says nothing (a weight a row).
    """

    name: ClassVar[str] = "searched"

    def __init__(
        self,
        env: AnyEnv | Spaces,
        *,
        seed: int = 0,
        device: str = "cpu",
        reward_transform: RewardTransform | None = None,
        **options: Any,
    ) -> None:
        self.config = build_config(self.name, SearchedConfig, options)
        self.spaces = env if isinstance(env, Spaces) else spaces_of(env)
        self.seed, self.device, self.reward_transform = seed, torch.device(device), reward_transform
        self.num_timesteps = 0
        self.num_episodes = 0
        self._rows: RowLayout | None = None
        self._gated = False
        self._collector: Collector | None = None
        if not isinstance(env, Spaces):
            self._steps, self._rows = _known_steps(env), _rows(env)
            self._gated = "gate" in getattr(inner_env(env), "action_names", ())[-1:]
            self._collector = Collector(as_vector_env(env))
        self._propose(1)  # an agent that has not searched is a random constant

    def _propose(self, count: int) -> None:
        self.actions = _draw(self.spaces.action, self._rows, self._gated, count, self.seed)  # [n, A]
        self.sums = np.zeros(len(self.actions))  # [n] of returns
        self.counts = np.zeros(len(self.actions), dtype=np.int64)  # [n] episodes
        self._alive = np.arange(len(self.actions))  # candidates that are left, best first
        self._goal = 1  # episodes of each of them at which the next half goes

    @property
    def best(self) -> Array:
        """The action ``[A]`` of the largest mean return, among those that are left; random before a search."""
        return np.asarray(self.actions[self._alive[int(np.argmax(self._means()))]])

    def learn(
        self,
        total_timesteps: int,
        callback: LearnCallback | None = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Search for at least ``total_timesteps`` environment steps (whole episodes of every replica).

        Args:
            total_timesteps: steps of this call; those of the first decide how many actions are tried.
            callback: called after each round of episodes with ``timesteps, episodes, fps, candidates_left,
                best_return`` and ``return_mean, return_std, length_mean`` of the round. The search stops where it
                returns False.
            reset_num_timesteps: begin a new search; False goes on with the present one.
            progress_bar: show a tqdm bar.

        Raises:
            ValueError: the agent has no env, or a budget of fewer than two episodes.
        """
        if self._collector is None:
            raise ValueError("This searched agent has no env to learn in; give one to Searched.load.")
        if reset_num_timesteps or self.num_timesteps == 0:
            self._begin(total_timesteps)
        first, start = self.num_timesteps, time.perf_counter()
        with ProgressBar(total_timesteps, progress_bar) as bar:
            while self.num_timesteps - first < total_timesteps:
                metrics = self._round(self._collector)
                metrics["fps"] = (self.num_timesteps - first) / max(time.perf_counter() - start, 1e-9)
                bar.update(self.num_timesteps - first, metrics)
                if callback is not None and callback(metrics) is False:
                    break
        return self

    def predict(
        self, observation: Array, state: Any = None, episode_start: Array | None = None, deterministic: bool = False
    ) -> tuple[Array, None]:
        """The best action for one observation ``[O]`` or each of a batch ``[N, O]``, whatever they are."""
        observation = np.asarray(observation)
        size = self.spaces.observation.shape[0]
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise ValueError(f"Observation of shape {observation.shape}; expected ({size},) or (N, {size}).")
        best = self.best
        return (best if observation.ndim == 1 else np.stack([best] * len(observation))), None

    def save(self, path: str | Path) -> None:
        """Write a folder with every candidate and its returns."""
        header = {**storage.agent_header(self), "goal": self._goal, "alive": self._alive.tolist()}
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in self._candidates().items()}
        with storage.new_folder(as_path(path)) as folder:
            storage.write_tensors(folder / "candidates.safetensors", tensors)
            storage.write_header(folder, header)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: AnyEnv | None = None,
        *,
        device: str = "cpu",
        force_reset: bool = True,
        reward_transform: RewardTransform | None = None,
    ) -> Self:
        """Read a folder written by :meth:`save`; ``env`` is needed to go on.

        Every round begins with a reset, so that a search that goes on does what one without a break does, whatever
        ``force_reset`` says.

        Raises:
            ValueError: no complete agent of this kind, or spaces that do not fit ``env``.
        """
        folder = as_path(path)
        header = storage.read_header(folder, cls.name)
        pair = storage.spaces_from_json(header["spaces"])
        if env is not None:
            check_same_spaces(pair, env)
        given = pair if env is None else env
        options = {"seed": header["seed"], "device": device, "reward_transform": reward_transform, **header["config"]}
        agent = cls(given, **options)
        tensors = storage.read_tensors(folder / "candidates.safetensors")
        agent.actions, agent.sums = tensors["actions"].numpy(), tensors["sums"].numpy()
        agent.counts = tensors["counts"].numpy()
        agent._alive, agent._goal = np.asarray(header["alive"], dtype=np.int64), int(header["goal"])
        agent.num_timesteps, agent.num_episodes = header["num_timesteps"], header["num_episodes"]
        return agent

    # -- the search

    def _begin(self, total_timesteps: int) -> None:
        episodes = total_timesteps // self._steps
        wished = self.config.candidates or _most_candidates(episodes)
        if episodes < 2:
            raise ValueError(
                f"total_timesteps={total_timesteps} holds {episodes} episodes of {self._steps} steps; a search "
                f"compares at least two actions: raise it to {2 * self._steps} or more."
            )
        if wished > episodes:
            raise ValueError(
                f"candidates={wished} is more than the {episodes} episodes of {self._steps} steps that "
                f"total_timesteps={total_timesteps} holds; lower it, or leave it out."
            )
        self._propose(wished)
        self.num_timesteps = self.num_episodes = 0

    def _round(self, collector: Collector) -> Metrics:
        """One episode in every replica, each with the action of a candidate that has had the fewest."""
        order = self._alive[np.argsort(self.counts[self._alive], kind="stable")]
        chosen = np.resize(order, collector.env.num_envs)
        actions = self.actions[chosen]
        collector.reset(reset_seed(self.seed, self.num_timesteps))
        rollout = collector.collect(lambda _: (torch.zeros(len(chosen), 1), actions), episodes=1)
        rewards = rollout.rewards
        if self.reward_transform is not None:
            rewards = np.asarray(self.reward_transform(rewards.copy()), dtype=np.float64)
        returns: Floats = np.where(rollout.valid, rewards, 0.0).sum(axis=0)
        np.add.at(self.sums, chosen, returns)
        np.add.at(self.counts, chosen, 1)
        self.num_timesteps += rollout.num_steps
        self.num_episodes += len(rollout.episode_returns)
        while len(self._alive) > 2 and self.counts[self._alive].min() >= self._goal:
            self._halve()
        return {
            "timesteps": float(self.num_timesteps),
            "episodes": float(self.num_episodes),
            "candidates_left": float(len(self._alive)),
            "best_return": float(self._means().max()),
            "return_mean": float(rollout.episode_returns.mean()),
            "return_std": float(rollout.episode_returns.std()),
            "length_mean": float(rollout.episode_lengths.mean()),
        }

    def _means(self) -> Floats:
        """Mean returns of those that are left; of one that was not tried yet it is below every other."""
        counts = self.counts[self._alive]
        return np.where(counts > 0, self.sums[self._alive] / np.maximum(counts, 1), -np.inf)

    def _halve(self) -> None:
        self._alive = self._alive[np.argsort(-self._means(), kind="stable")][: max(2, -(-len(self._alive) // 2))]
        self._goal = 2 * self._goal + 1  # 1 episode, then 2 more, then 4 more: every round of halving costs the same

    def _candidates(self) -> dict[str, NDArray[Any]]:
        return {"actions": self.actions, "sums": self.sums, "counts": self.counts}


def _known_steps(env: AnyEnv) -> int:
    steps = episode_steps(env)
    if steps is None:
        raise ValueError("The searched agent needs an env whose episodes have a known number of steps (episode_steps).")
    return steps


def _rows(env: AnyEnv) -> RowLayout | None:
    """The rows that a candidate's action is repeated for; refuses one weight a row."""
    inner: Any = inner_env(env)
    if refusal := getattr(getattr(inner, "decision", None), "constant_refusal", ""):
        raise ValueError(refusal)
    return find_rows(env, "auto")


def _most_candidates(episodes: int) -> int:
    count = 2
    while 2 * count * np.log2(2 * count) <= episodes:
        count *= 2
    return count


def _draw(space: ActionSpace, rows: RowLayout | None, gated: bool, count: int, seed: int) -> NDArray[Any]:
    """Different random actions ``[n, A]``, at most ``count`` and at most as many as there are.

    A gate, the last component of some boxes, is wide open: it scales the learning rate, which is no weight.
    """
    rng = np.random.default_rng([seed, 1])
    one: ActionSpace = space if rows is None else rows.structure.action
    found: dict[bytes, NDArray[Any]] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        action = _one(one, rng)
        if rows is not None:
            gate = rows.structure.gate
            behind = [] if gate is None else [_one(gate, rng)]
            action = np.concatenate([np.tile(np.atleast_1d(action), rows.batch_size), *behind]).astype(space.dtype)
        if gated:
            assert isinstance(space, spaces.Box)
            action[-1] = space.high[-1]
        found.setdefault(action.tobytes(), action)
    return np.stack(list(found.values()))


def _one(space: ActionSpace, rng: np.random.Generator) -> NDArray[Any]:
    """A random action; generators of Gymnasium's spaces would be shared with whoever samples from the env."""
    if isinstance(space, spaces.Box):
        return np.asarray(rng.uniform(space.low, space.high), dtype=space.dtype)
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start + rng.integers(space.n), dtype=space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.start + rng.integers(space.nvec), dtype=space.dtype)
    return np.asarray(rng.integers(2, size=space.shape), dtype=space.dtype)
