"""What a decision is: everything that is said of what an agent decides stands in one object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from kd_env.config.environment import EnvConfig
from kd_env.core.types import FeatureSlice, Floats
from kd_env.mdp.assets import present_entries
from kd_env.mdp.objectives.batches import Edit, StudentUpdate
from kd_env.mdp.observations.layout import observe
from kd_env.mdp.observations.space import make_space
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect
from kd_env.numerics.traces import Trace

BOX, DISCRETE, MULTI_DISCRETE, MULTI_BINARY = "Box", "Discrete", "MultiDiscrete", "MultiBinary"
"""Kinds of action spaces."""


class Parts(NamedTuple):
    """What a decision is made for."""

    term_names: tuple[str, ...]  # the K knowledge terms
    teacher_names: tuple[str, ...]  # the T teachers
    reads_teacher: tuple[bool, ...]  # which of the terms read a teacher
    slots: tuple[int, int] | None = None  # slots of a row and tokens of the vocabulary, where text is masked

    @property
    def present(self) -> np.ndarray:
        """Which entries of the loss table exist, ``[T, K]`` bool: a term without a teacher stands in row 0 only."""
        return present_entries(len(self.teacher_names), self.reads_teacher)


class ActionModel(Protocol):
    """Raw actions in one view."""

    @property
    def space(self) -> spaces.Space[Any]:
        """Action space of one replica."""

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the components, or of the choices in a discrete view."""


class Measure(ABC):
    """A number that reports show of every policy, collected in the course of an episode of N students.

    Attributes:
        name: key in ``results.json`` and ``results.csv``.
        title: of the column in tables.
        bounds: least and largest value, of the number and of its interval.
        trace: title of the curve over an episode that reports draw of it; empty where they draw none.
        of_a_part: whether it is about a part of an episode, so that it says nothing of the steps of a while.
    """

    name: str
    title: str
    bounds: tuple[float, float]
    trace: str = ""
    of_a_part: bool = False

    @abstractmethod
    def add(self, info: Mapping[str, NDArray[Any]], running: NDArray[np.bool_]) -> None:
        """Take ``info`` of one step; replicas ``[N]`` that are not ``running`` have ended before."""

    @abstractmethod
    def values(self) -> Floats:
        """The number of every student, ``[N]``."""

    def state(self) -> dict[str, Any]:
        """What :meth:`add` has collected so far, by attribute: arrays, traces and lists; for :meth:`restore`."""
        kept = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray | Trace | list)}
        return {name: _kept(value) for name, value in kept.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what another measure of the same kind had collected."""
        for name, value in state.items():
            setattr(self, name, Trace(value) if isinstance(getattr(self, name), Trace) else _listed(value))

    def over_time(self) -> Floats:
        """The curve of every student, ``[updates, N]`` with NaN after its end, where :attr:`trace` names one."""
        raise NotImplementedError(f"The measure {self.name!r} has no curve.")


def _kept(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_kept(each) for each in value)
    return value.array() if isinstance(value, Trace) else value


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


class Decision(ABC):
    """What the agent of one problem decides.

    Attributes:
        name: of ``decision=...``.
        views: action views by kind of action space. The first of a kind is named to an algorithm that needs that kind.
        options: names of the options of :class:`kd_env.config.environment.EnvConfig` that are for this decision only.
        default_features: observation features unless others are named.
        many_teachers: whether the embedded task gives its packaged set of teachers in place of one.
        view: the action view.
        given_names: numbers by name that every effect gives to knowledge terms (``TermInputs.given``); ``info`` shows
            them.
        gives_rows: whether each of them is one for every row of the batch, ``[N, B]``, and not ``[N]``.
        weights_per_row: how many weights an action gives to each row of the next batch; 0 where it addresses none.
        view_options: by option of :class:`kd_env.config.environment.EnvConfig`, the only views that read it.
        view_hints: by action view, what else has to be changed for it with the other options as they are.
        constant_refusal: why the same action at every step would say nothing, with the remedy; empty where it does.
        shared_refusal: why no policy can be applied to every row of the batch, with the remedy; empty where one can.
    """

    name: ClassVar[str]
    views: ClassVar[tuple[tuple[str, str], ...]]
    options: ClassVar[frozenset[str]] = frozenset()
    default_features: ClassVar[tuple[str, ...]]
    many_teachers: ClassVar[bool] = False
    view_options: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    weighs_teacher_rows: ClassVar[bool] = False
    """Whether an action can weigh the rows of a learning teacher's update (``teacher_updates=weighted``)."""
    writes_tokens: ClassVar[bool] = False
    """Whether batches are edited: then rows are masked and read by a language model, and no output is kept."""
    score_names: ClassVar[tuple[str, ...]] = ()
    """Numbers of a step that rewards may read (:meth:`scores`)."""
    sets_weights: ClassVar[bool] = True
    """Whether actions set the weights of the table, which reports then show."""
    output_refusal: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """By view, why an algorithm with an output for every choice of the action cannot act in it."""
    attributes: ClassVar[Mapping[str, Callable[[Problem, Callable[[], DistillState]], Any]]] = MappingProxyType({})
    """Attributes by name that environments show beside those that all have: functions of problem and state."""
    keeps_finished: ClassVar[bool] = False
    """Whether students of ended episodes are kept until the next one ends (``save_student(finished=True)``)."""

    actions: ActionModel
    given_names: tuple[str, ...] = ()
    gives_rows: bool = False
    weights_per_row: int = 0
    view_hints: Mapping[str, str] = MappingProxyType({})
    constant_refusal: str = ""
    shared_refusal: str = ""

    @classmethod
    def options_for(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with what this decision has short forms of written out; raises ``ValueError`` for bad ones."""
        return dict(options)

    @classmethod
    def view_names(cls) -> tuple[str, ...]:
        """Every action view, once."""
        return tuple(dict.fromkeys(["native", *(view for _, view in cls.views)]))

    @classmethod
    def features_for(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Default features with these options."""
        return cls.default_features

    @classmethod
    def defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults of options that differ from those of their fields, with the options that are given."""
        return {"features": cls.features_for(options)}

    @classmethod
    def check(cls, config: EnvConfig) -> None:
        """Refuse options that do not fit this decision; raises ``ValueError`` with the remedy."""
        return None

    def __init__(self, config: EnvConfig, parts: Parts) -> None:
        self.view, self.parts = config.action_view, parts
        self.actions = self.make_actions(config, parts)

    @abstractmethod
    def make_actions(self, config: EnvConfig, parts: Parts) -> ActionModel:
        """The action model of the configured view; raises ``ValueError`` for options that do not fit the parts."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Action space of one replica."""
        return self.actions.space

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's components, or of the choices in a discrete view."""
        return self.actions.action_names

    @property
    def view_meaning(self) -> str | None:
        """What tells views with the same space and other effects apart, where a policy is used again; None: nothing."""
        return self.view

    @abstractmethod
    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """Effect of raw actions ``[N, ...]`` of the action space (:mod:`kd_env.decisions.raw`) in a state."""

    @abstractmethod
    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica that says these weights; raises ``ValueError`` where the view cannot."""

    def effect(self, weights: Any) -> Effect:
        """The effect of exactly these weights of N replicas, which ``step`` takes in place of actions.

        Raises:
            ValueError: a weight that is not allowed, or a decision whose actions say everything.
        """
        raise ValueError(f"Actions of decision={self.name!r} say every effect; use encode.")

    def lesson(
        self, weights: Any, influence: float = 0.0, target: str = "student_loss", matched: bool = False
    ) -> Effect:
        """The effect of weights of rows ``[N, B]`` in a learning teacher's update, with the influence beside them.

        Raises:
            ValueError: a decision that weighs no rows, a teacher that does not learn, or a value that is not allowed.
        """
        raise ValueError(f"Rows are weighed with decision='sample_weighting'; here it is {self.name!r}.")

    def nothing_given(self, count: int, rows: int) -> dict[str, np.ndarray]:
        """Zeros for :attr:`given_names`, as effects of ``count`` replicas with batches of ``rows`` give them."""
        return {name: np.zeros((count, rows) if self.gives_rows else count) for name in self.given_names}

    def row_weights(self, weights: np.ndarray) -> np.ndarray:
        """The n weights of each row, ``[N, n, 1 or B]``, among those of the table ``[N, T, K, 1 or B]``.

        A row's weight stands in every entry that exists, and the first one always does.
        """
        return weights[:, : self.weights_per_row, 0]

    def teacher_weights(self, weights: np.ndarray) -> np.ndarray | None:
        """Weights of the teachers ``[N, T, 1 or B]`` among those of the table; None where all teachers count alike."""
        return None

    def prepare(self, problem: Problem, state: DistillState) -> DistillState:
        """The state with what the decision keeps of the batches that were drawn for the next step."""
        return state

    def proceed(self, problem: Problem, state: DistillState) -> DistillState:
        """The state of replicas whose batch stays, since their students were not ready to be updated."""
        return state

    def edit(self, problem: Problem, state: DistillState) -> Edit | None:
        """What is written into the batch of the present update; None where rows stay as they are."""
        return None

    @property
    def hears_updates(self) -> bool:
        """Whether :meth:`updated` keeps anything."""
        return type(self).updated is not Decision.updated

    def updated(self, problem: Problem, state: DistillState, update: StudentUpdate) -> DistillState:
        """The state with what the decision keeps of an update."""
        return state

    def scores(self, before: DistillState, after: DistillState) -> Mapping[str, np.ndarray]:
        """Numbers ``[N]`` of a step that rewards may read, those of :attr:`score_names`."""
        return {}

    def observation_space(self, problem: Problem) -> spaces.Space[Any]:
        """Space of one replica's observation."""
        return make_space(problem.layout)

    def observation_layout(self, problem: Problem) -> dict[str, FeatureSlice]:
        """Where each named part stands in the last axis of an observation; empty where parts have names instead."""
        return dict(problem.layout)

    def observe(self, problem: Problem, state: DistillState) -> Any:
        """Observations of N replicas."""
        return observe(problem, state)

    def episode_steps(self, problem: Problem) -> int:
        """Steps of an episode with the configured budget."""
        return -(-problem.config.budget // problem.config.updates_per_step)

    def line(self, state: DistillState, replica: int) -> str:
        """Words on the last step of a replica for its readable line; empty where there is nothing to add."""
        return ""

    def info(self, state: DistillState) -> dict[str, np.ndarray]:
        """Fresh arrays ``[N, ...]`` about the last step that the environment's ``info`` shows."""
        numbers = {name: values.copy() for name, values in state.given.items()}
        if not self.weights_per_row:
            return numbers
        return {"rows": state.last_rows.copy(), "row_weights": state.row_weights.copy(), **numbers}

    def measures(self, problem: Problem, count: int) -> Sequence[Measure]:
        """What reports measure in an episode of ``count`` students."""
        return ()
