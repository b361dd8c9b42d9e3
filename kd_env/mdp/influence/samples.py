"""How much each sample of a student's update lowers its loss on feedback rows, by one forward-mode product.

LGTM (Ren et al., ACL 2023) weighs samples by their *distillation influence*. With per-sample losses ``l_i``, weights
``w`` and an optimiser ``U``, the update is ``s'(w) = U(grad mean_i w_i l_i(s))``, and what is wanted is

    ``s_i = -d L_feedback(s'(w)) / d w_i  at  w = 1``,

the drop of the feedback loss per unit of weight: that against gold labels, without a temperature (with
``gap=calibrated`` rewards are about another one). The update clips the gradient, which ties all tensors together
(Jacobian ``J``, symmetric), then goes through an optimiser that acts element by element, so that its derivative with
respect to the clipped gradient is a diagonal ``D``, and

    ``s_i = -<grad l_i(s), J D v> / B``  with  ``v = grad L_feedback(s')``.

All B products are the directional derivatives of the per-sample losses along ``J D v``: one ``torch.func.jvp``. The
finite differences of the released code are here too. All of it is pure functions of N stacked students; nothing
that is given is written in place.

With ``adamw`` the virtual update is the real one (:func:`kd_env.mdp.transition.transition`): loss, running scales,
clipping, moments, decay and learning rate. Two things differ. A student without an update so far makes a step of SGD:
Adam's first update is the sign of the gradient, whose derivative is 0 but for entries within ``eps`` of 0. And dropout
is off. A teacher that learns is taken as it is, though it moves before the real update.
"""

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
