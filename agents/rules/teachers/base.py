"""What rules that weigh teachers share.

They read ``teacher_names`` (T teachers), ``weighting``, ``batch_size`` (B), ``observation_layout``,
``encode_teachers(weights)`` and ``teacher_effect(weights)`` of ``env.unwrapped``. With ``weighting=batch`` a rule gives
one weight a teacher and reads the features of the batch, with ``weighting=sample`` one a teacher and row, from the
features of the rows. Where an action of the env's view says exactly what a rule wants, it takes that action; elsewhere
it gives the effect itself, so that it does the same in every view.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, unknown_name
from agents.rules.base import Rule

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

    def refuse_one_teacher(self) -> None:
        """Refuse an env in which there is nothing to weigh.

        Raises:
            ValueError: there is a single teacher.
        """
        if len(self.teacher_names) < 2:
            raise ValueError(
                f"The rule {self.name!r} weighs teachers against each other, but the env has one "
                f"({self.teacher_names[0]}); name at least two teachers, or leave {self.name!r} out."
            )
