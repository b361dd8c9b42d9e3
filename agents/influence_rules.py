"""Rules that weigh rows by their influence on the feedback loss.

They ask ``env.unwrapped.row_influence()``, ``[N, B]``: how much the feedback loss falls for a unit of weight of each
row of the next batch, in the state that the environment is in.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import AnyEnv
from agents.rule_base import Rule
from agents.sample_rules import Floats, SampleRule

DEVIATIONS = 3.0
"""Standard deviations of a batch's influences at which a weight reaches its end."""


class LGTM(SampleRule):
    """LGTM's distillation influence (Ren et al., ACL 2023) as weights of the rows: the analytic policy.

    A row with influence s has the weight ``1 + clip(s / (3 std(s)), -1, 1)``, with the standard deviation of its batch:
    rows that raise the feedback loss count less than 1, rows without influence 1. The paper lets the influence weigh
    the teacher's samples; here it weighs the student's.
    """

    name = "lgtm"
    asks_influence: ClassVar[bool] = True
    """Jobs check before any work that there are feedback rows enough."""

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        super().__init__(env, seed=seed)
        if not hasattr(self.base, "row_influence"):
            raise ValueError(
                f"The rule {self.name!r} needs an env that tells the influence of its rows (row_influence); {env} does "
                "not."
            )

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
        if self.base.action_view != "native":
            return super().act(observations, memory, starts)
        return np.stack([np.asarray(self.base.encode_samples(one)) for one in self.weights(observations)]), None


INFLUENCE_RULES: tuple[type[Rule], ...] = (LGTM,)
