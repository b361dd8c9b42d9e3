"""Policies that learn nothing: the baselines of every claim. Here those that choose what knowledge is transferred.

They read ``term_names``, ``action_names``, ``action_view``, ``encode_action(weights, gate)`` and, where they look at
the observation, ``observation_layout`` of ``env.unwrapped``; those that weigh teachers are in
:mod:`agents.rules.teachers`, those that weigh rows in :mod:`agents.rules.sample_weighting` and
:mod:`agents.rules.influence`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agents.common.base import AnyEnv, Array, episode_steps, require
from agents.rules.base import Rule, named_weights
from agents.rules.schedule import Annealing, Stages


class Constant(Rule):
    """Base of rules that always do the same."""

    looks_at_feedback = False

    @abstractmethod
    def action(self) -> Array:
        """The raw action of one replica."""

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """The same action for each replica."""
        return np.stack([self.action()] * len(observations)), None


class All(Constant):
    """Every term with weight 1: ordinary distillation."""

    name = "all"
    chooses = False

    def action(self) -> Array:
        """All terms."""
        return self.everything()


class HardLabelOnly(Constant):
    """Training without a teacher."""

    name = "hard_label_only"
    needs_terms = ("hard_label",)

    def action(self) -> Array:
        """The gold labels alone."""
        return self.encode({"hard_label": 1.0})


class SoftLabelOnly(Constant):
    """Distillation from the teacher's probabilities alone (Hinton et al. 2015 without the label term).

    It is judged beside policies that weigh rows, too, where terms cannot be chosen: every row counts alike then.
    """

    name = "soft_label_only"
    needs_terms = ("soft_label",)
    beside = ("sample_weighting",)

    def action(self) -> Array:
        """The teacher's probabilities alone."""
        return self.encode({"soft_label": 1.0})


class Fixed(Constant):
    """Constant weights by term name, e.g. the outcome of a grid search.

    Args:
        env: the environment.
        seed: unused.
        weights: weight in [0, 1] by term; terms that are not named have weight 0.
        gate: factor on the update; any but 1 needs a box view with a gate.
    """

    name = "fixed"
    views = ("box", "native", "discrete")

    def __init__(self, env: AnyEnv, *, seed: int = 0, weights: Mapping[str, float], gate: float = 1.0) -> None:
        super().__init__(env, seed=seed, weights=named_weights(weights), gate=gate)
        self.encode(weights, gate)  # refuses what the view cannot express before any step is taken

    def action(self) -> Array:
        """The given weights."""
        return self.encode(self.options["weights"], self.options["gate"])


class RandomHard(Rule):
    """Each term on or off with probability one half, in each step."""

    name = "random_hard"
    chooses = False
    looks_at_feedback = False
    views = ("native", "box")

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """A coin a term."""
        return np.stack([self._one(self.generator(i)) for i in range(len(observations))]), None

    def _one(self, rng: np.random.Generator) -> Array:
        coins = rng.random(len(self.term_names)) < 0.5
        return self.encode({name: float(on) for name, on in zip(self.term_names, coins, strict=True)})


class RandomSoft(Rule):
    """Weights drawn uniformly from [0, 1], in each step."""

    name = "random_soft"
    chooses = False
    looks_at_feedback = False
    views = ("box",)

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """A uniform weight a term, the gate open."""
        return np.stack([self._one(self.generator(i)) for i in range(len(observations))]), None

    def _one(self, rng: np.random.Generator) -> Array:
        weights = rng.random(len(self.term_names))
        return self.encode({name: float(w) for name, w in zip(self.term_names, weights, strict=True)})


class RandomGate(Rule):
    """Every term with weight 1, but a random step size: what an agent gains by the gate alone has to beat this."""

    name = "random_gate"
    chooses = False
    looks_at_feedback = False
    views = ("box",)

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)
        names = tuple(self.base.action_names)
        if "gate" not in names:
            raise ValueError("The rule 'random_gate' needs the gate component; make the env with gate=True.")
        self._index = names.index("gate")

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """The raw gate is uniform over its range [-1, 1]."""
        actions = np.stack([self.everything()] * len(observations))
        actions[:, self._index] = [self.generator(i).uniform(-1.0, 1.0) for i in range(len(observations))]
        return actions, None


class GapMemory(NamedTuple):
    """What early stopping remembers of the running episodes."""

    best: NDArray[np.float32]  # [N] smallest gap so far
    waited: NDArray[np.int64]  # [N] steps since it was reached
    stopped: NDArray[np.bool_]  # [N]


class EarlyStopping(Rule):
    """Every term until the observed gap has not improved for ``patience`` steps, then no update until the episode ends.

    Args:
        env: the environment.
        seed: unused.
        patience: steps (not evaluations) since the best gap after which training stops; None is a third of an episode,
            at least 5 (a fresh student may stand on a plateau first).
        min_delta: improvement that counts, in units of the ``gap`` feature.
    """

    name = "early_stopping"
    needs_features = ("gap",)

    def __init__(self, env: AnyEnv, *, seed: int = 0, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is None:
            patience = max(5, (episode_steps(env) or 0) // 3)
        require(patience >= 1, "patience", patience, "at least 1")
        require(min_delta >= 0, "min_delta", min_delta, "at least 0")
        super().__init__(env, seed=seed, patience=patience, min_delta=min_delta)

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """``memory`` is a :class:`GapMemory`."""
        gap = self.feature(observations, "gap")
        if memory is None:
            starts = np.ones(len(gap), dtype=np.bool_)
            memory = GapMemory(gap, np.zeros(len(gap), dtype=np.int64), starts)
        improved = starts | (gap < memory.best - self.options["min_delta"])
        waited = np.where(improved, 0, memory.waited + 1)
        stopped = np.where(starts, False, memory.stopped | (waited >= self.options["patience"]))
        on, off = self.everything(), self.encode({})
        actions = np.stack([off if stop else on for stop in stopped])
        return actions, GapMemory(np.where(improved, gap, memory.best), waited, stopped)


class Greedy(Rule):
    """One-step look-ahead: tries all terms, each term alone and none on a fork of the env, and takes the best reward.

    Each replica chooses for itself; the first of equals wins, in the order above. The env is put back exactly as it
    was, so that a look-ahead costs ``K + 2`` steps and changes nothing. It sees the reward, which no other rule does.
    """

    name = "greedy"
    reads_every_reward = True

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)
        if not (hasattr(self.base, "get_state") and hasattr(self.base, "set_state")):
            raise ValueError("The rule 'greedy' forks the environment; it needs one with get_state and set_state.")
        self.candidates = [self.everything(), *(self.encode({term: 1.0}) for term in self.term_names), self.encode({})]

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """The candidate with the highest reward, for each replica."""
        single = not isinstance(self.env, VectorEnv)
        count = 1 if single else self.base.num_envs
        if len(observations) != count:
            raise ValueError(
                f"greedy looks ahead in its own env of {count} replicas, but got {len(observations)} rows."
            )
        before = self.base.get_state()
        rewards = np.empty((len(self.candidates), count))
        for index, action in enumerate(self.candidates):
            try:
                # Past the wrappers: their counters and statistics must not see steps that are taken back.
                rewards[index] = self.base.step(action if single else np.stack([action] * count))[1]
            finally:
                self.base.set_state(before)
        return np.stack([self.candidates[best] for best in rewards.argmax(axis=0)]), None


KNOWLEDGE_RULES: tuple[type[Rule], ...] = (
    All,
    HardLabelOnly,
    SoftLabelOnly,
    Fixed,
    RandomHard,
    RandomSoft,
    RandomGate,
    Annealing,
    Stages,
    EarlyStopping,
    Greedy,
)
