"""Rules that weigh teachers: plain average, single teachers, MT-BERT, Dynamic KD, random ones.

They read ``teacher_names`` (T teachers), ``weighting``, ``batch_size`` (B), ``observation_layout``,
``encode_teachers(weights)`` and ``teacher_effect(weights)`` of ``env.unwrapped``. With ``weighting=batch`` a rule gives
one weight a teacher and reads the features of the batch, with ``weighting=sample`` one a teacher and row, from the
features of the rows. Where an action of the env's view says exactly what a rule wants, it takes that action; elsewhere
it gives the effect itself, so that it does the same in every view.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, unknown_name
from agents.rules.base import Rule, named_weights
from agents.rules.schedule import Schedule

Floats = NDArray[np.float64]

VIEWS = ("native", "simplex", "subset", "discrete", "box")
LOSSES, STUDENT = "teacher_losses", "student_on_batch"
ROW_NAMES = {LOSSES: "row_teacher_losses", STUDENT: "row_student"}
ENTROPY = 1  # place of the entropy among the three numbers about the student


class TeacherRule(Rule):
    """Base of rules that weigh teachers; arguments as in :class:`agents.rules.base.Rule`."""

    decision = "teacher_weighting"
    views = VIEWS
    exact_views: ClassVar[tuple[str, ...]] = ()
    """Views with an action that says exactly what the rule does."""

    def __init__(self, env: AnyEnv, *, seed: int = 0, **options: Any) -> None:
        super().__init__(env, seed=seed, **options)
        self.teacher_names: tuple[str, ...] = tuple(self.base.teacher_names)

    @property
    def by_row(self) -> bool:
        """Whether each row of the batch has weights of its own."""
        return bool(self.base.weighting == "sample")

    def features_read(self) -> tuple[str, ...]:
        """The features of the batch or, with weights by row, of its rows."""
        return tuple(ROW_NAMES[name] if self.by_row else name for name in self.needs_features)

    @abstractmethod
    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """Weights ``[N, T]`` or, by row, ``[N, B, T]`` for observations ``[N, O]``; at least 0."""

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """The action that says the weights, or the effect with them."""
        weights = self.weights(observations)
        if self.base.action_view in self.exact_views:
            return np.stack([np.asarray(self.base.decision.encode(one)) for one in weights]), None
        return self.base.decision.effect(weights), None

    def about(self, observations: NDArray[np.float32], name: str) -> Floats:
        """A feature of the batch ``[N, n]`` or, by row, its counterpart ``[N, B, n]``."""
        place = self.base.observation_layout[ROW_NAMES[name] if self.by_row else name]
        values = observations[:, place.start : place.stop].astype(np.float64)
        return values.reshape(len(observations), *place.shape)

    def constant(self, observations: NDArray[np.float32], weights: Sequence[float] | Floats) -> Floats:
        """The same weights ``[T]`` for every replica, and for every row."""
        rows = (self.base.batch_size,) if self.by_row else ()
        shape = (len(observations), *rows, len(self.teacher_names))
        return np.broadcast_to(np.asarray(weights, dtype=np.float64), shape).copy()

    def place_of(self, teacher: str) -> int:
        """Place of a teacher among the env's.

        Raises:
            ValueError: there is none of that name.
        """
        if teacher not in self.teacher_names:
            raise ValueError(unknown_name("teacher", teacher, self.teacher_names))
        return self.teacher_names.index(teacher)


class Average(TeacherRule):
    """The plain average of the teachers, 1/T each: what every other weighting has to beat."""

    name = "average"
    chooses = False
    looks_at_feedback = False
    exact_views = VIEWS

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """Equal weights."""
        return self.constant(observations, [1.0 / len(self.teacher_names)] * len(self.teacher_names))


class SingleTeacher(TeacherRule):
    """One teacher alone, with weight 1.

    Args:
        env: the environment.
        seed: unused.
        teacher: its name.
    """

    name = "single_teacher"
    looks_at_feedback = False
    exact_views = ("subset", "discrete")

    def __init__(self, env: AnyEnv, *, seed: int = 0, teacher: str) -> None:
        super().__init__(env, seed=seed, teacher=teacher)
        self._index = self.place_of(teacher)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """1 for the one."""
        return self.constant(observations, np.eye(len(self.teacher_names))[self._index])


class BestTeacher(TeacherRule):
    """The teacher that is best on the selection split, alone: ``env.unwrapped.reference_teacher``."""

    name = "best_teacher"
    looks_at_feedback = False
    exact_views = ("subset", "discrete")

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)
        self._index = self.place_of(self.base.reference_teacher)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """1 for the best."""
        return self.constant(observations, np.eye(len(self.teacher_names))[self._index])


class NoTeacher(TeacherRule):
    """Weight 0 for every teacher: what is not weighed, as the gold labels, trains alone."""

    name = "no_teacher"
    looks_at_feedback = False
    exact_views = ("subset", "discrete", "box")

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """Zeros."""
        return self.constant(observations, [0.0] * len(self.teacher_names))


class FixedWeights(TeacherRule):
    """Constant weights by teacher, e.g. the outcome of a grid search, exactly as they are given.

    Args:
        env: the environment.
        seed: unused.
        weights: weight of at least 0 by name; teachers that are not named have weight 0.

    Raises:
        ValueError: a teacher that there is not, or weights that are negative, not finite or sum to zero.
    """

    name = "fixed_weights"
    looks_at_feedback = False

    def __init__(self, env: AnyEnv, *, seed: int = 0, weights: Mapping[str, float]) -> None:
        super().__init__(env, seed=seed, weights=named_weights(weights))
        self._weights = np.zeros(len(self.teacher_names))
        for teacher, weight in weights.items():
            self._weights[self.place_of(teacher)] = weight
        if not np.isfinite(self._weights).all() or (self._weights < 0).any() or not self._weights.any():
            raise ValueError(
                f"weights={dict(weights)} are not allowed; they must be finite, at least 0 and not all 0 (the rule "
                "'no_teacher' trains without any)."
            )

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """The given ones."""
        return self.constant(observations, self._weights)


class Route(TeacherRule):
    """Teachers in turn, each alone for its share of the budget: route-constrained optimisation (RCO).

    RCO (Jin et al., ICCV 2019, section 3) lets the student follow the way that the teacher went: checkpoints of one
    fine-tuning in the order of its epochs, with equal intervals as the default here. They are what a teacher with
    ``keep: <epoch>`` is, as ``experiment=rco`` has them. The optimiser and its schedule go on from stage to stage.

    Args:
        env: the environment.
        seed: unused.
        order: teachers by name, each stage's one.
        shares: of the budget, one a stage, in any unit; None: equal ones.

    Raises:
        ValueError: a teacher that there is not, shares that do not fit, or a stage that no step falls in.
    """

    name = "route"
    looks_at_feedback = False
    exact_views = ("subset", "discrete")

    def __init__(
        self,
        env: AnyEnv,
        *,
        seed: int = 0,
        order: Sequence[str],
        shares: Sequence[float] | None = None,
    ) -> None:
        if isinstance(order, str):
            raise ValueError(f"order={order!r} must be a list of teachers; write [{order}].")
        shares = None if shares is None else list(shares)
        super().__init__(env, seed=seed, order=list(order), shares=shares)
        self._stages = np.eye(len(self.teacher_names))[[self.place_of(name) for name in order]]
        self._schedule = Schedule(len(self._stages), shares)
        self._schedule.check(self.name, env)

    def features_read(self) -> tuple[str, ...]:
        """Progress, of the course and not of rows."""
        return ("progress",)

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """1 for the teacher of the stage."""
        found = self._stages[self._schedule.stage(self.progress(observations))]  # [N, T]
        return np.repeat(found[:, None], self.base.batch_size, axis=1) if self.by_row else found


class RandomTeachers(TeacherRule):
    """Base of rules that draw weights anew in each step and, by row, for each row."""

    looks_at_feedback = False

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """A draw a replica, each from its own generator."""
        rows = self.base.batch_size if self.by_row else 1
        drawn = np.stack([self.draw(self.generator(i), rows) for i in range(len(observations))])
        return drawn if self.by_row else drawn[:, 0]

    @abstractmethod
    def draw(self, rng: np.random.Generator, rows: int) -> Floats:
        """Weights ``[rows, T]``."""


class RandomSimplex(RandomTeachers):
    """Weights drawn uniformly from those that sum to 1 (a Dirichlet distribution with all parameters 1)."""

    name = "random_simplex"
    chooses = False

    def draw(self, rng: np.random.Generator, rows: int) -> Floats:
        """Points of the simplex."""
        return rng.dirichlet(np.ones(len(self.teacher_names)), size=rows)


class RandomSubset(RandomTeachers):
    """A coin a teacher; the chosen ones share the weight 1, and without any the labels train alone."""

    name = "random_subset"
    chooses = False
    views = ("subset", "native", "simplex", "discrete", "box")
    exact_views = ("subset",)

    def draw(self, rng: np.random.Generator, rows: int) -> Floats:
        """Shares of random subsets."""
        chosen = (rng.random((rows, len(self.teacher_names))) < 0.5).astype(np.float64)
        shares: Floats = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1.0)
        return shares


TEACHER_RULES: tuple[type[Rule], ...] = (
    Average,
    SingleTeacher,
    BestTeacher,
    NoTeacher,
    FixedWeights,
    Route,
    RandomSimplex,
    RandomSubset,
)
