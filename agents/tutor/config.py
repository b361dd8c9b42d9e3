"""Options of the tutor."""

from __future__ import annotations

import dataclasses
from typing import Any

from agents.common.base import require

BASELINES = ("none", "mean", "learned")


SCHEDULES = ("constant", "linear")


RECIPES: dict[str, dict[str, Any]] = {
    "modified": {},
    "paper": {"baseline": "none", "max_grad_norm": None, "schedule": "linear", "warmup": 0.01},
}
"""Defaults by recipe, where they differ from those of the fields."""


@dataclasses.dataclass(frozen=True)
class TutorConfig:
    """Options of the tutor."""

    recipe: str = "modified"
    """``paper``: :class:`Tutor` gives what is left out the values that are published (table above)."""
    learning_rate: float = 5e-4
    """Step size of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = 1e-6
    """What is added to the root of the mean square."""
    schedule: str = "constant"
    """``linear``: the step size rises linearly over the first ``warmup`` of the updates of a call of ``learn``, then
    falls linearly towards 0, which it never reaches; ``constant`` leaves it."""
    warmup: float = 0.1
    """Share of the updates; with ``schedule=linear``."""
    weight_decay: float = 0.01
    """Decay at each update, times the learning rate."""
    kl_coef: float = 1.0
    """Weight of KL(teacher || tutor)."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    teacher_weight: float = 1.0
    """Weight of ``teacher_recognises`` in a token's reward."""
    student_weight: float = 1.0
    """Weight of ``student_error``."""
    baseline: str = "learned"
    """``none`` (the paper), ``mean`` (a running mean of rewards) or ``learned`` (from the hidden states)."""
    max_grad_norm: float | None = 1.0
    """Norm at which gradients are clipped; None does not clip."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        limit = self.max_grad_norm
        require(limit is None or limit > 0, "max_grad_norm", limit, "above 0, or None, which does not clip")
        require(self.eps > 0, "eps", self.eps, "above 0")
        pair = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(pair, "betas", self.betas, "two numbers in [0, 1)")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "in [0, 1]")
        require(self.schedule in SCHEDULES, "schedule", self.schedule, "one of " + ", ".join(SCHEDULES))
        for name in ("weight_decay", "kl_coef", "ent_coef", "teacher_weight", "student_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(self.baseline in BASELINES, "baseline", self.baseline, "one of " + ", ".join(BASELINES))
