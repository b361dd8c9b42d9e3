"""Rules that weigh teachers without looking at rows: plain average, single teachers, constants, in turn, at random."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv
from agents.rules.base import Rule, named_weights
from agents.rules.schedule import Schedule
from agents.rules.teachers.base import VIEWS, Floats, TeacherRule


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


FIXED_RULES: tuple[type[Rule], ...] = (
    Average,
    SingleTeacher,
    BestTeacher,
    NoTeacher,
    FixedWeights,
    Route,
    RandomSimplex,
    RandomSubset,
)
