"""Rules that weigh teachers by how uncertain the student is (Dynamic KD)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv
from agents.rules.base import Rule
from agents.rules.teachers.base import ENTROPY, STUDENT, Floats, TeacherRule


class DynamicTeacher(TeacherRule):
    """Base of Dynamic KD's choice of teachers (Li et al., EMNLP 2021, teacher adoption).

    The paper has two teachers. Its uncertainty u of the student is the entropy of its output, from 0 to 1 in units of
    ``log C``; a student that is uncertain follows the small teacher, one that is sure the big one. More than two
    teachers, and which of ours is big, are our additions.

    Args:
        env: the environment.
        seed: unused.
        order: all teachers by name, from small to big; None is the env's order.

    Raises:
        ValueError: an ``order`` that does not name every teacher once, or an env of regression.
    """

    looks_at_feedback = False
    needs_features = (STUDENT,)

    def __init__(self, env: AnyEnv, *, seed: int = 0, order: Sequence[str] | None = None) -> None:
        super().__init__(env, seed=seed, order=None if order is None else list(order))
        names = self.teacher_names if order is None else tuple(order)
        if sorted(names) != sorted(self.teacher_names):
            raise ValueError(
                f"order={list(names)} must name every teacher once, from small to big; the env has "
                f"{', '.join(self.teacher_names)}."
            )
        if self.base.observation_layout[self.features_read()[0]].shape[-1] <= ENTROPY:
            raise ValueError(
                f"The rule {self.name!r} reads the entropy of the student's classes, which regression has not; use "
                "'average'."
            )
        self._place = np.array([names.index(name) for name in self.teacher_names])  # of the t-th teacher in the order

    def uncertainty(self, observations: NDArray[np.float32]) -> Floats:
        """``[N]`` or, by row, ``[N, B]``, in [0, 1]."""
        found: Floats = np.clip(self.about(observations, STUDENT)[..., ENTROPY], 0.0, 1.0)
        return found

    def interpolated(self, uncertainty: Floats) -> Floats:
        """Weights ``[..., T]`` of uncertainties ``[...]``: linear between the two teachers next to u in the order.

        For two teachers the paper's ``u`` for the small one and ``1 - u`` for the big one.
        """
        at = (1.0 - uncertainty[..., None]) * (len(self.teacher_names) - 1)
        found: Floats = np.maximum(1.0 - np.abs(at - self._place), 0.0)
        return found


class DynamicHard(DynamicTeacher):
    """Dynamic KD, hard (Li et al., EMNLP 2021): each example has one teacher.

    As the authors' code: the rows of a batch are sorted by the student's uncertainty, the floor(B / 2) most uncertain
    ones learn from the small teacher and the others from the big one (T teachers: T equal parts). The code averages the
    loss over each half and adds the two, which is twice a mean over the batch; here the weight is 1. With
    ``weighting=batch``, ours, there is nothing to sort: [0, 1] is cut into T equal parts, and u falls into one.
    """

    name = "dynamic_hard"
    exact_views = ("subset", "discrete")

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """1 for the chosen teacher of the row or batch."""
        uncertainty, count = self.uncertainty(observations), len(self.teacher_names)
        if self.by_row:
            # Ranks from the surest row on; the earlier of equals counts as the surer.
            ranks = uncertainty.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
            part = ranks * count // uncertainty.shape[-1]
        else:
            part = np.minimum((uncertainty * count).astype(np.int64), count - 1)
        one: Floats = (self._place == (count - 1 - part)[..., None]).astype(np.float64)
        return one


class DynamicSoft(DynamicTeacher):
    """Dynamic KD, soft (Li et al., EMNLP 2021): the small teacher has the weight u, the big one 1 - u.

    u is the student's entropy in units of ``log C``, the mean of the batch.
    """

    name = "dynamic_soft"

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """The same for every row of the batch."""
        uncertainty = self.uncertainty(observations)
        if self.by_row:
            uncertainty = np.broadcast_to(uncertainty.mean(axis=-1, keepdims=True), uncertainty.shape)
        return self.interpolated(uncertainty)


class DynamicSoftInstance(DynamicTeacher):
    """Dynamic KD, soft, by instance (Li et al., EMNLP 2021): as :class:`DynamicSoft`, but each row with its own u."""

    name = "dynamic_soft_instance"

    def __init__(self, env: AnyEnv, *, seed: int = 0, order: Sequence[str] | None = None) -> None:
        super().__init__(env, seed=seed, order=order)
        if not self.by_row:
            raise ValueError(
                "The rule 'dynamic_soft_instance' weighs single rows; make the env with weighting='sample', or use "
                "'dynamic_soft'."
            )

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """By the uncertainty of each row."""
        return self.interpolated(self.uncertainty(observations))


DYNAMIC_RULES: tuple[type[Rule], ...] = (DynamicHard, DynamicSoft, DynamicSoftInstance)
"""In the order of the report."""
