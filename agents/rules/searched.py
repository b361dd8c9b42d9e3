"""The best constant action, found by random search with an agent's own budget: what a policy has to beat to be one.

An agent that ends above every rule may have found nothing but better constant weights. This search has its information
(returns of training episodes) and its budget (environment steps, hence student updates), and no observation: random
constant actions, of which successive halving keeps the better half (Jamieson & Talwalkar, AISTATS 2016): n of them
play one episode each, the better half two more, and so on down to two, which share what is left of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agents.common import storage
from agents.common.base import (
    ActionSpace,
    AnyEnv,
    Array,
    Metrics,
    Spaces,
    episode_steps,
    inner_env,
    require,
    reset_seed,
    spaces_of,
)
from agents.common.learner import Learner, episode_metrics
from agents.common.rollout import Floats
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


class Searched(Learner):
    """Random search of one constant action.

    Arguments as in :class:`agents.common.learner.Learner`, for an env whose episodes have a known number of steps, or
    its :class:`Spaces`; options are the fields of :class:`SearchedConfig`.

    It searches in whole episodes of every replica, and reports after each round of them ``candidates_left`` and
    ``best_return``. The steps of the first call of ``learn`` decide how many actions are tried, which has to be two at
    least; with ``reset_num_timesteps`` a new search begins. Every round begins with a reset, so that a search that goes
    on does what one without a break does, whatever ``force_reset`` says.

    Raises:
        ValueError: as there, or actions of which a constant one says nothing (a weight a row).
    """

    name = "searched"
    config: SearchedConfig
    config_class: ClassVar[type[SearchedConfig]] = SearchedConfig

    def _build(self, env: AnyEnv | Spaces, init: torch.Generator) -> None:
        self.spaces = env if isinstance(env, Spaces) else spaces_of(env)
        self._rows: RowLayout | None = None
        self._gated = False
        if not isinstance(env, Spaces):
            self._steps, self._rows = _known_steps(env), _rows(env)
            self._gated = "gate" in getattr(inner_env(env), "action_names", ())[-1:]
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

    def _actions(self, batch: Array, deterministic: bool) -> Array:
        return np.stack([self.best] * len(batch))

    def _header(self) -> dict[str, Any]:
        return {**super()._header(), "goal": self._goal, "alive": self._alive.tolist()}

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        values = {"actions": self.actions, "sums": self.sums, "counts": self.counts}
        return {"candidates": {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}}

    def _restore(self, folder: Path, header: dict[str, Any], *, force_reset: bool) -> None:
        tensors = storage.read_tensors(folder / "candidates.safetensors")
        self.actions, self.sums, self.counts = (tensors[name].numpy() for name in ("actions", "sums", "counts"))
        self._alive, self._goal = np.asarray(header["alive"], dtype=np.int64), int(header["goal"])
        self._restore_counters(header)

    # -- the search

    def _begin(self, total_timesteps: int, anew: bool) -> None:
        if self.num_timesteps > 0:
            return
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

    def _advance(self, goal: int) -> Metrics:
        """One episode in every replica, each with the action of a candidate that has had the fewest."""
        collector = self.collector
        order = self._alive[np.argsort(self.counts[self._alive], kind="stable")]
        chosen = np.resize(order, collector.env.num_envs)
        actions = self.actions[chosen]
        collector.reset(reset_seed(self.seed, self.num_timesteps))
        rollout = collector.collect(lambda _: (torch.zeros(len(chosen), 1), actions), episodes=1)
        returns: Floats = np.where(rollout.valid, self._transformed(rollout.rewards), 0.0).sum(axis=0)
        np.add.at(self.sums, chosen, returns)
        np.add.at(self.counts, chosen, 1)
        self._count(rollout)
        while len(self._alive) > 2 and self.counts[self._alive].min() >= self._goal:
            self._halve()
        found = {"candidates_left": float(len(self._alive)), "best_return": float(self._means().max())}
        return found | episode_metrics([rollout])

    def _means(self) -> Floats:
        """Mean returns of those that are left; of one that was not tried yet it is below every other."""
        counts = self.counts[self._alive]
        return np.where(counts > 0, self.sums[self._alive] / np.maximum(counts, 1), -np.inf)

    def _halve(self) -> None:
        self._alive = self._alive[np.argsort(-self._means(), kind="stable")][: max(2, -(-len(self._alive) // 2))]
        self._goal = 2 * self._goal + 1  # 1 episode, then 2 more, then 4 more: every round of halving costs the same


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
