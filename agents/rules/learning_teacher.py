"""Rules for a teacher that can learn beside its student: ProKT, MetaDistil, or not at all; LGTM stands by itself.

They read ``teacher_updates``, ``batch_size`` and ``lesson_effect(weights, influence, target)`` of ``env.unwrapped``:
how much each row counts in the teacher's own loss, and the factor of the influence gradient. The student learns from
every row alike.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, require
from agents.rules.base import Rule


class TeachingRule(Rule):
    """Base of rules that say how a teacher learns; arguments as in :class:`agents.rules.base.Rule`."""

    decision = "sample_weighting"
    views = ("native", "subset", "discrete", "box")

    def __init__(self, env: AnyEnv, *, seed: int = 0, **options: Any) -> None:
        super().__init__(env, seed=seed, **options)
        if self.base.teacher_updates == "none":
            raise ValueError(
                f"The rule {self.name!r} says how the teacher learns, but it is frozen here (teacher_updates='none'); "
                "set env.teacher_updates=prokt and teacher.source=online, or use a rule that weighs the student's rows."
            )

    @abstractmethod
    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """The effect of the lesson."""

    def lesson(self, count: int, weight: float, influence: float, target: str) -> Any:
        """The effect with one weight for the auxiliary loss of every row."""
        weights = np.full((count, self.base.batch_size), weight)
        return self.base.decision.lesson(weights, influence, target)


class ProKT(TeachingRule):
    """ProKT (Shi et al. 2021), which is LGTM without influence: the teacher keeps near the student while it learns.

    ``a KL(p_S || p_T) + (1 - a) CE(y, p_T)`` on every row alike, with a = ``learning_teacher.soft_weight`` of the env.
    """

    name = "prokt"

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """Every row with weight 1."""
        return self.lesson(len(observations), 1.0, 0.0, "student_loss"), None


class FrozenTeacher(TeachingRule):
    """Plain distillation: the teacher could learn, and stays as it is. What a teacher that learns has to beat."""

    name = "frozen_teacher"

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """Neither a row's own loss nor influence."""
        return self.lesson(len(observations), 0.0, 0.0, "student_loss"), None


class MetaDistil(TeachingRule):
    """MetaDistil (Zhou et al., ACL 2022): the teacher learns from nothing but what it does to its student.

    The student makes its update virtually (the pilot update), the loss of that student on feedback rows is the
    teacher's loss (a second-order gradient), and the real update follows with the updated teacher. The virtual update
    is the one that ``env.influence`` names: by default the student's own, by AdamW and clipped; the released code has
    ``optimizer=sgd`` with a constant learning rate and without clipping (``experiment=metadistil_paper``).

    Args:
        env: the environment.
        seed: unused.
        influence_coef: factor of the gradient, above 0 and finite. AdamW and clipping by the norm make most of it
            forgotten.
    """

    name = "metadistil"

    def __init__(self, env: AnyEnv, *, seed: int = 0, influence_coef: float = 1.0) -> None:
        require(0.0 < influence_coef < float("inf"), "influence_coef", influence_coef, "above 0 and finite")
        super().__init__(env, seed=seed, influence_coef=influence_coef)

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """No row's own loss, the influence alone."""
        return self.lesson(len(observations), 0.0, self.options["influence_coef"], "student_loss"), None


TEACHING_RULES: tuple[type[Rule], ...] = (ProKT, FrozenTeacher, MetaDistil)
