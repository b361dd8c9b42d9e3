"""What every run of N replicas shares: generators, episodes that begin, states that are taken out and put back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.utils import seeding

from kd_env.core import checks, trees
from kd_env.envs.shells.course import Course, Panels
from kd_env.mdp.episodes import Episode, credit, terminal, truncated
from kd_env.mdp.rewards import gap_scale

S = TypeVar("S", bound=Episode)


class EnvState(NamedTuple):
    """A deep copy of an environment: the run, every replica's generator and which replicas have ended."""

    spec: str
    run: Any  # the state of the run
    generators: np.ndarray  # [N] objects, the dictionary state of each bit generator
    ended: np.ndarray  # [N] bool


class Transition(NamedTuple):
    """What one step gives, each ``[N, ...]``."""

    observation: Any  # an array, or arrays by name
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, np.ndarray]


def plain_seed(seed: int | np.integer[Any]) -> int:
    """NumPy's integers as Python's, which Gymnasium wants.

    Raises:
        ValueError: no whole number of at least 0.
    """
    plain = int(seed) if isinstance(seed, np.integer) else seed
    checks.whole(0)("seed", plain)
    return plain


class Replicas(ABC, Generic[S]):
    """N replicas of one problem, each with a generator of its own."""

    problem: Any  # subclasses say whose

    def __init__(self, num_replicas: int, device: torch.device) -> None:
        self.num_replicas, self.device = num_replicas, device
        self._warned = False
        self.state: S | None = None
        self.generators = [seeding.np_random()[0] for _ in range(num_replicas)]
        self.ended = np.ones(num_replicas, dtype=bool)
        self._course = Course(num_replicas)

    @property
    @abstractmethod
    def spec(self) -> str:
        """Hash of the problem: states travel between environments of the same one."""

    @property
    @abstractmethod
    def spaces(self) -> tuple[Space[Any], Space[Any]]:
        """Spaces of one replica's observation and action."""

    @property
    def render_mode(self) -> str | None:
        """``ansi``, ``rgb_array`` or None."""
        mode: str | None = self.problem.config.render_mode
        return mode

    @property
    @abstractmethod
    def floor(self) -> float:
        """The loss down to which the gap is counted."""

    @abstractmethod
    def initial(self, seeds: Sequence[int], budgets: Sequence[int]) -> S:
        """The start of one episode per seed."""

    @abstractmethod
    def advance(self, before: S, actions: Any) -> tuple[S, np.ndarray, np.ndarray]:
        """The state after a step, its rewards ``[N]``, and whether they were clipped."""

    @abstractmethod
    def warn_floor(self, loss_reset: float) -> None:
        """Say that the gap is counted down to a floor, not to :attr:`floor`."""

    @abstractmethod
    def observation(self) -> Any:
        """Observations of every replica."""

    @abstractmethod
    def info(self) -> dict[str, np.ndarray]:
        """Fresh host arrays ``[N, ...]`` about the last step."""

    @abstractmethod
    def panels(self) -> Panels:
        """What a picture shows of the last step."""

    @abstractmethod
    def line(self, replica: int) -> str:
        """One readable line about the last step."""

    @abstractmethod
    def save_student(self, folder: str | Path, replica: int, finished: bool = False) -> Path:
        """Write one student in Hugging Face layout: the present one, or that of the last episode that ended."""

    def started(self) -> S:
        """The state; refuses to work before the first reset."""
        if self.state is None:
            raise RuntimeError("Call reset() first: there is no episode yet.")
        return self.state

    def reset(self, replicas: np.ndarray, budget: int | None) -> None:
        """Start a new episode in the named replicas, each from its own generator.

        Args:
            replicas: which.
            budget: updates of their episodes; None is the configured number.

        Raises:
            ValueError: a budget that is no whole number of at least 1.
        """
        budget = self.problem.config.budget if budget is None else budget
        if isinstance(budget, bool) or int(budget) != budget or budget < 1:
            raise ValueError(f"options['budget']={budget!r} must be a whole number of at least 1.")
        seeds = [int(self.generators[index].integers(2**62)) for index in replicas]
        fresh = self.initial(seeds, [int(budget)] * len(seeds))
        if len(replicas) == self.num_replicas:
            self.state = fresh
        else:
            self.state = trees.set_rows(trees.copy_arrays(self.started()), replicas, fresh)
        self.ended[replicas] = False
        self._note(replicas, begins=True)
        floored = gap_scale(fresh.loss_reset, self.floor)[1]
        if floored.any() and not self._warned:
            self._warned = True
            self.warn_floor(float(fresh.loss_reset[floored][0]))

    def step(self, actions: Any) -> Transition:
        """One step of every replica."""
        after, value, clipped = self.advance(self.started(), actions)
        self.state = credit(after, value)
        terminated = terminal(self.state)
        cut_off = truncated(self.problem.config.max_episode_steps, self.state) & ~terminated
        self.ended = terminated | cut_off
        self._note(range(self.num_replicas))
        info = {**self.info(), "reward_clipped": clipped}
        return Transition(self.observation(), value, terminated, cut_off, info)

    def seed(self, replica: int, seed: int | None) -> None:
        """Give a replica a new generator; None keeps its present one."""
        if seed is not None:
            self.generators[replica] = seeding.np_random(plain_seed(seed))[0]

    def get_state(self) -> EnvState:
        """A deep copy."""
        shown = self.shown_state()
        return shown._replace(run=trees.copy(shown.run), ended=shown.ended.copy())

    def shown_state(self) -> EnvState:
        """The state itself, for who has done with it before the next step."""
        generators = np.empty(self.num_replicas, dtype=object)
        for index, generator in enumerate(self.generators):
            generators[index] = generator.bit_generator.state
        return EnvState(self.spec, self.started(), generators, self.ended)

    def set_state(self, state: EnvState) -> None:
        """Go back to (or take over) a state; the state itself may be used again.

        Raises:
            ValueError: it is of another problem, or of another number of replicas.
        """
        if not isinstance(state, EnvState):
            raise ValueError(f"A state is what get_state() of an environment gives, got {type(state).__name__}.")
        if state.spec != self.spec:
            raise ValueError(
                f"The state is of another problem (spec {state.spec}, here {self.spec}); restore it into an "
                "environment made with the same options."
            )
        if len(state.ended) != self.num_replicas:
            raise ValueError(f"The state has {len(state.ended)} replicas, this environment {self.num_replicas}.")
        self.state = trees.to_device(trees.copy(state.run), self.device)
        for index, saved in enumerate(state.generators):
            self.generators[index] = np.random.Generator(getattr(np.random, saved["bit_generator"])())
            self.generators[index].bit_generator.state = saved
        self.ended = state.ended.copy()
        self._note(range(self.num_replicas), begins=True)  # the steps before are not part of a state

    def render(self, replica: int) -> Any:
        """What ``render_mode`` asks for of one replica; None without one."""
        if self.render_mode == "ansi":
            return self.line(replica)
        self.started()
        return self._course.picture(replica) if self.render_mode == "rgb_array" else None

    def _note(self, replicas: Sequence[int] | np.ndarray, begins: bool = False) -> None:
        if self.render_mode == "rgb_array":
            if begins:
                self._course.begin(replicas)
            self._course.add(replicas, self.started().updates, self.panels())

    def check_replica(self, replica: int) -> None:
        """Refuse the number of a replica that there is not."""
        if not 0 <= replica < self.num_replicas:
            raise ValueError(f"replica={replica} must lie in [0, {self.num_replicas - 1}].")
