"""What all rules share: policies that learn nothing, behind the same protocol as agents that do.

A rule reads the names and places of things from ``env.unwrapped`` and says what it needs: the ``decision`` that it
makes, the action views that can express it, in order of preference, the features that it reads and the terms that it
weighs. Its :meth:`Rule.learn` returns at once.

Randomness: replica ``i`` has a generator of its own, seeded by ``(seed, i)``, so that it does the same whatever the
number of replicas. What a rule remembers of an episode goes through ``state`` and ``episode_start`` of ``predict``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.common import storage
from agents.common.base import AnyEnv, Array, as_path, decision_name


def named_weights(weights: Any) -> dict[str, float]:
    """Weights by name, as an option of a rule.

    Raises:
        ValueError: anything but numbers by name.
    """
    numbers = isinstance(weights, Mapping) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in weights.values()
    )
    if not numbers:
        raise ValueError(f"weights={weights!r} must be numbers by name, as {{name: 0.5, other: 0.5}}.")
    return dict(weights)


class Rule(ABC):
    """A fixed policy.

    Args:
        env: the environment that it will act in.
        seed: of its random choices.
        **options: the rule's own; kept in :attr:`options` and saved.

    Raises:
        ValueError: an env that decides about something else, an action view that cannot express the rule, or a term or
            feature that the env lacks.
    """

    name: ClassVar[str]
    decision: ClassVar[str] = "knowledge_selection"
    views: ClassVar[tuple[str, ...]] = ("native", "discrete", "box")
    needs_features: ClassVar[tuple[str, ...]] = ()
    chooses: ClassVar[bool] = True
    """False for rules that treat everything alike or go by chance."""
    reads_every_reward: ClassVar[bool] = False
    """Whether the rule reads the reward of every step, so that steps without an evaluation would mislead it."""
    needs_terms: ClassVar[tuple[str, ...]] = ()
    looks_at_feedback: ClassVar[bool] = True
    """Whether feedback rows have a say in what the rule does. False says that its students may teach others of the same
    split; a subclass that looks all the same says True again."""

    asks_influence: ClassVar[bool] = False
    """Whether feedback rows have their say through the influence of rows alone, whatever was evaluated; jobs check
    before any work that there are enough of them."""
    bound: ClassVar[bool] = False
    """Whether it sees a truth that no policy can know: it says how much there is to gain, and is nobody's rival."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Decisions whose policies it is judged beside, too: on the same rows, terms and models, and in an environment of
    its own decision."""

    def __init__(self, env: AnyEnv, *, seed: int = 0, **options: Any) -> None:
        self.env, self.seed, self.options = env, seed, options
        base: Any = env.unwrapped
        self.base = base
        decision = decision_name(env)
        if decision != self.decision:
            judged = " (reports judge it there beside others: evaluation.rules)" if decision in self.beside else ""
            raise ValueError(
                f"The rule {self.name!r} decides {self.decision!r}, but the env leaves {decision!r} to decide{judged}; "
                f"make an env of {self.decision!r}, or choose a rule for {decision!r}."
            )
        if not hasattr(base, "decision"):
            raise ValueError(
                f"The rule {self.name!r} needs an env that names what its actions weigh (decision); {env} has no names."
            )
        self.term_names: tuple[str, ...] = tuple(getattr(base, "term_names", ()))  # texts have none
        if base.action_view not in self.views:
            raise ValueError(
                f"The rule {self.name!r} cannot be expressed in the action view {base.action_view!r}; "
                f"make the env with action_view={self.views[0]!r} (possible: {', '.join(self.views)})."
            )
        for term in self.needs_terms:
            if term not in self.term_names:
                raise ValueError(
                    f"The rule {self.name!r} needs the term {term!r}, but the env has {', '.join(self.term_names)}; "
                    f"add {term!r} to its terms."
                )
        for feature in self.features_read():
            if feature not in base.observation_layout:
                raise ValueError(
                    f"The rule {self.name!r} reads the feature {feature!r}, but the env has "
                    f"{', '.join(base.observation_layout)}; add {feature!r} to its features."
                )
        self._generators: list[np.random.Generator] = []

    def features_read(self) -> tuple[str, ...]:
        """Names of the features that the env has to observe."""
        return self.needs_features

    @abstractmethod
    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """Actions and memory for a batch.

        Args:
            observations: ``[N, O]``.
            memory: what the last call returned, None at first.
            starts: ``[N]``, True where an episode begins.
        """

    def predict(
        self, observation: Array, state: Any = None, episode_start: Array | None = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for ``[O]`` or ``[N, O]``. A random rule stays random where ``deterministic``: it has no mode.

        Where no action of the env says exactly what the rule does, they are an effect that ``step`` takes in place of
        actions, for one replica as for many.
        """
        observation = np.asarray(observation, dtype=np.float32)
        batch = np.atleast_2d(observation)
        starts = np.zeros(len(batch), dtype=np.bool_) if episode_start is None else np.atleast_1d(episode_start)
        if starts.shape != (len(batch),):
            raise ValueError(f"episode_start has shape {starts.shape} for {len(batch)} observations.")
        actions, state = self.act(batch, state, starts.astype(np.bool_))
        single = observation.ndim == 1 and isinstance(actions, np.ndarray)
        return (actions[0] if single else actions), state

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Nothing to learn: returns itself."""
        return self

    def save(self, path: str | Path) -> None:
        """Write a folder with ``agent.json``: options, seed and the states of the generators."""
        header = {"agent": self.name, "options": self.options, "seed": self.seed, "generators": self.generator_states()}
        with storage.new_folder(as_path(path)) as folder:
            storage.write_header(folder, header)

    @classmethod
    def load(cls, path: str | Path, env: AnyEnv | None = None) -> Self:
        """Read what :meth:`save` wrote; a rule needs its ``env``, whose names it reads."""
        header = storage.read_header(as_path(path), cls.name)
        if env is None:
            raise ValueError(f"The rule {cls.name!r} reads names from its environment; give env to load.")
        with storage.restoring(as_path(path)):
            rule = cls(env, seed=header["seed"], **header["options"])
            rule.restore_generators(header["generators"])
        return rule

    def generator_states(self) -> list[Any]:
        """States of the generators as plain values."""
        return [generator.bit_generator.state for generator in self._generators]

    def restore_generators(self, states: list[Any]) -> None:
        """Take back what :meth:`generator_states` gave."""
        for index, state in enumerate(states):
            self.generator(index).bit_generator.state = state

    def generator(self, replica: int) -> np.random.Generator:
        """The generator of one replica."""
        while len(self._generators) <= replica:
            self._generators.append(np.random.default_rng([self.seed, len(self._generators)]))
        return self._generators[replica]

    def refuse_other_replicas(self, replicas: int, observations: NDArray[np.float32]) -> None:
        """Refuse observations ``[N, O]`` of others than the students that a rule reads from the state of its env.

        Raises:
            ValueError: the env has another number of replicas than there are observations.
        """
        if replicas != len(observations):
            raise ValueError(
                f"The rule {self.name!r} reads the state of its env, which has {replicas} replicas; it got "
                f"{len(observations)} observations."
            )

    def encode(self, weights: Mapping[str, float], gate: float = 1.0) -> Array:
        """Raw action of one replica in the env's view."""
        return np.asarray(self.base.decision.encode(weights, gate))

    def everything(self) -> Array:
        """Raw action that weighs every term with 1."""
        return self.encode(dict.fromkeys(self.term_names, 1.0))

    def feature(self, observations: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """A scalar feature of a batch of observations, ``[N]``."""
        return observations[:, self.base.observation_layout[name].start]

    def progress(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of the budget that is spent, ``[N]`` in [0, 1], from the feature ``progress``."""
        place = self.base.observation_layout["progress"]
        spent = (self.feature(observations, "progress") - place.low) / (place.high - place.low)
        return np.asarray(np.clip(spent, 0.0, 1.0))
