"""Options of the student's optimiser, and the learning rate that a student has where none is chosen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kd_env.core import checks

FRESH_LEARNING_RATE, REDUCED_LEARNING_RATE, TRAINED_LEARNING_RATE = 7e-3, 2e-3, 3e-4
"""Defaults for fresh students, and for those that are cut from a trained model or are one: the first, right for small
fresh students, destroys in a few updates what others know (docs/results.md, the tutor on real text)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW of the student (decoupled weight decay; biases and layer norms are not decayed)."""

    learning_rate: float | None = None
    """None: 7e-3 for a student with ``init=fresh``, 2e-3 on reduced embeddings of its teacher (``embedding_init=pca``;
    at 7e-3 such students of SST-2 learned nothing), 3e-4 with ``init=teacher`` or ``pretrained``. The options of an
    environment hold the number that is used."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = 1e-8
    """What is added to the root of the mean square."""
    weight_decay: float = 0.01
    """Decay at each update, times the learning rate."""
    max_grad_norm: float | None = 1.0
    """Gradient norm at which gradients are clipped, over all trainable tensors of one student; None does not clip."""
    warmup: float = 0.1
    """Share of the budget over which the learning rate rises linearly; it then falls linearly and is never negative."""

    @property
    def rate(self) -> float:
        """The learning rate of an environment's options, where it is a number."""
        assert self.learning_rate is not None
        return self.learning_rate

    def of_student(self, init: str, embedding_init: str) -> OptimizerConfig:
        """These options with the default learning rate of a student with these options, where none is chosen."""
        if self.learning_rate is not None:
            return self
        fresh = REDUCED_LEARNING_RATE if embedding_init == "pca" else FRESH_LEARNING_RATE
        rate = fresh if init == "fresh" else TRAINED_LEARNING_RATE
        return dataclasses.replace(self, learning_rate=rate)


def check_optimizer(options: OptimizerConfig) -> None:
    """Raise ``ValueError`` for the first option of the optimiser outside its range."""
    checks.check_fields("optimizer.", options, OPTIMIZER_CHECKS)


OPTIMIZER_CHECKS: dict[str, checks.Check] = {
    "learning_rate": checks.optional(checks.positive),
    "betas": checks.pair_of_rates,
    "eps": checks.positive,
    "weight_decay": checks.within(0.0),
    "max_grad_norm": checks.clipping,
    "warmup": checks.within(0.0, 1.0),
}
