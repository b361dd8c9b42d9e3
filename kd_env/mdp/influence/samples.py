"""The influence of single samples, from one look ahead and one forward-mode product."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from kd_env.core.types import ModelOutput
from kd_env.mdp.influence.derivatives import Params, directional_losses
from kd_env.mdp.influence.look_ahead import LookAhead, look_ahead
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState


def sample_influence(
    problem: Problem,
    students: DistillState,
    rows: np.ndarray,
    feedback_rows: np.ndarray,
    *,
    learning_rates: np.ndarray,
    optimizer: str = "adamw",
    clip: bool = True,
    weights: Tensor | None = None,
    teacher_outputs: tuple[ModelOutput, ...] | None = None,
    feedback_labels: Tensor | None = None,
) -> Tensor:
    """Drop of the feedback loss per unit of weight of each sample of the next update, ``[N, B]``, at weights 1.

    Cost: of the student one forward and one backward pass on the batch, the same on the feedback rows, and one
    forward-mode product (a forward pass that carries a tangent) on the batch; of the teachers one forward pass where
    they are online and ``teacher_outputs`` is not given.

    Args: those of :func:`kd_env.mdp.influence.look_ahead.look_ahead`.
    """
    ahead = look_ahead(
        problem,
        students,
        rows,
        feedback_rows,
        learning_rates=learning_rates,
        optimizer=optimizer,
        clip=clip,
        weights=weights,
        teacher_outputs=teacher_outputs,
        feedback_labels=feedback_labels,
    )
    return influence_of(ahead, students.params)


def influence_of(ahead: LookAhead, params: Params) -> Tensor:
    """The influence that a look ahead from ``params`` gives, ``[N, B]``: the one forward-mode product."""
    derivatives = directional_losses(ahead.losses, params, ahead.direction)
    return -derivatives / derivatives.shape[1]
