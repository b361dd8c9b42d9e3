"""Rules that weigh rows by their influence on the feedback loss.

They ask ``env.unwrapped.row_influence()``, ``[N, B]``: how much the feedback loss (without a temperature) falls for a
unit of weight of each row of the next batch, in the state that the environment is in, by the virtual step that
``env.influence`` names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv
from agents.rules.base import Rule
from agents.rules.sample_weighting import Floats, SampleRule

DEVIATIONS = 3.0
"""Standard deviations of a batch's influences at which a weight reaches its end."""


class LGTM(SampleRule):
    """LGTM's distillation influence (Ren et al., ACL 2023) as weights of the rows: the analytic policy.

    A row with influence s has the weight ``1 + clip(s / (3 std(s)), -1, 1)``, with the standard deviation of its batch:
    rows that raise the feedback loss count less than 1, rows without influence 1.

    So it is where the teacher is frozen. Where it learns it is LGTM's (its released form: experiment=lgtm_paper): every
    row counts alike in the teacher's loss and in the student's, and the teacher also moves along the gradient of its
    influence, ``d + c h``.

    Args:
        env: the environment.
        seed: unused.
        influence_coef: c, at least 0 and finite; 0 is ProKT. Only where the teacher learns, as the next two.
        influence_target: ``student_loss`` (the derivative of the student's update) or ``teacher_loss`` (the form of the
            released code).
        matched: whether h is scaled to the norm of d first, so that c is their ratio.
    """

    name = "lgtm"
    asks_influence = True

    def __init__(
        self,
        env: AnyEnv,
        *,
        seed: int = 0,
        influence_coef: float = 1.0,
        influence_target: str = "student_loss",
        matched: bool = False,
    ) -> None:
        options = {"influence_coef": influence_coef, "influence_target": influence_target, "matched": matched}
        super().__init__(env, seed=seed, **options)
        if self.learns:
            self.lesson(1)  # refuses bad values before any work starts
        elif options != {"influence_coef": 1.0, "influence_target": "student_loss", "matched": False}:
            raise ValueError(
                f"The rule {self.name!r} got {options}, which say how a teacher learns, but it is frozen here "
                "(teacher_updates='none'); leave them out, or set env.teacher_updates=prokt and teacher.source=online."
            )
        if not hasattr(self.base, "row_influence"):
            raise ValueError(
                f"The rule {self.name!r} needs an env that tells the influence of its rows (row_influence); {env} does "
                "not."
            )

    @property
    def learns(self) -> bool:
        """Whether the teacher of the environment does."""
        return getattr(self.base, "teacher_updates", "none") != "none"

    def lesson(self, count: int) -> Any:
        """The effect on a teacher that learns, for ``count`` replicas."""
        o, ones = self.options, np.ones((count, self.base.batch_size))
        return self.base.decision.lesson(ones, o["influence_coef"], o["influence_target"], o["matched"])

    def weights(self, observations: NDArray[np.float32]) -> Floats:
        """From the state of the environment; the observations only say how many replicas there are."""
        return 1.0 + self.tilts(len(observations))

    def tilts(self, count: int) -> Floats:
        """``clip(s / (3 std(s)), -1, 1)`` of the rows of ``count`` replicas, ``[N, B]``; 0 where all s are equal.

        Raises:
            ValueError: the env has another number of replicas.
        """
        found: Floats = np.asarray(self.base.row_influence(), dtype=np.float64)
        if len(found) != count:
            raise ValueError(
                f"The rule {self.name!r} reads the state of its env, which has {len(found)} replicas; it got {count} "
                "observations."
            )
        spread = found.std(axis=-1, keepdims=True)
        # Rounding alone leaves differences of this size between equal influences.
        flat = spread <= 1e-12 * np.abs(found).max(axis=-1, keepdims=True)
        scaled = np.divide(found, DEVIATIONS * spread, out=np.zeros_like(found), where=~flat)
        tilts: Floats = np.clip(scaled, -1.0, 1.0)
        return tilts

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        """Raw actions where the view is native, else the effect."""
        if self.learns:
            return self.lesson(len(observations)), None
        if self.base.action_view != "native":
            return super().act(observations, memory, starts)
        return np.stack([np.asarray(self.base.decision.encode(one)) for one in self.weights(observations)]), None


INFLUENCE_RULES: tuple[type[Rule], ...] = (LGTM,)
