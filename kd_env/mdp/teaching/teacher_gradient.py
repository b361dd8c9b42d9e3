"""The gradient of a teacher that learns beside its student: ProKT's loss on weighed rows, and LGTM's influence.

One step of LGTM (Ren et al., ACL 2023): the student makes its next update virtually, the loss of that student on
feedback rows is differentiated by the teacher's parameters through what the teacher says, and the teacher moves along
that gradient ``h`` beside its own loss. Then the student learns from the updated teacher. With the student's losses
``l_i(s, t)`` and ``J D v`` of :mod:`kd_env.mdp.influence`, through clipping and optimiser,

    ``d L_feedback(s'(t)) / d t  =  d/dt mean_i <grad_s l_i(s, t), J D v>``,

one forward-mode product of the student's losses, then one backward pass through the teacher. Where the terms' running
scales divide these losses, they move with what the teacher says, too. D holds the student's learning rate as a factor
(LGTM's code has the teacher's): ``h`` is small, and vanishes with the schedule. So the ratio of the two gradients is
told, and a factor may be given in units of it (``matched``). ``teacher_loss``, the form of the released code, uses v
itself: neither the optimiser's derivative nor clipping has a part in its direction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core import trees
from kd_env.core.registry import unknown_name
from kd_env.core.trees import upload
from kd_env.core.types import Batch, ModelOutput
from kd_env.mdp import passes
from kd_env.mdp.episodes import sub_seed
from kd_env.mdp.influence import derivatives
from kd_env.mdp.influence.look_ahead import LookAhead, look_ahead
from kd_env.mdp.influence.rows import feedback_choice, virtual_options
from kd_env.mdp.parts import in_parts, part, pieces
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, TeacherEffect
from kd_env.numerics import optim

Grads = dict[str, Tensor]
RADIUS = 0.01
"""Length of the student's perturbation in ``teacher_loss``, as in the released code."""
TARGETS = ("student_loss", "teacher_loss")
"""Forms of the influence gradient: the derivative of the virtual step, and that of LGTM's released code."""


class Lesson(NamedTuple):
    """What one update of N teachers consists of."""

    grads: Grads  # name -> [N, ...], the whole gradient
    loss: Tensor  # [N] mean auxiliary loss of the rows, whatever their weights
    weighted: Tensor  # [N] mean auxiliary loss with the rows' weights
    ratio: np.ndarray  # [N] float32, ||h|| / ||d||, 0 where one of them is; as it was where this update is not measured
    cosine: np.ndarray  # [N] float32, between the two forms of h; as it was where this update is not measured


def gradient(
    problem: Problem,
    state: DistillState,
    rows: np.ndarray,
    effect: TeacherEffect,
    student_weights: Tensor,
    learning_rates: np.ndarray,
    forward_pass: passes.StudentPass | None = None,
    dropout_seed: int = 0,
) -> Lesson:
    """The teachers' gradient ``d + c h``: of the weighed auxiliary loss, and of the influence.

    Passes without influence: teacher one forward and one backward, student one forward. With it: student one more
    forward and two backward (on the batch and on the feedback rows) and one forward-mode product, or for
    ``teacher_loss`` two forward passes in its place; where the ratio is measured, teacher one more backward. With
    dropout the influence has a forward pass of the teacher of its own, without.

    Args:
        problem: the problem.
        state: of N replicas before their students' update.
        rows: ``[N, B]`` train rows of that update.
        effect: weights of the rows and factor of the influence.
        student_weights: ``[N, T, K, 1 or B]``, of the student's update on these rows.
        learning_rates: ``[N]`` of the students in this update.
        forward_pass: the students' pass on the rows, where it was made already; its graph is kept.
        dropout_seed: of the teacher's dropout; single replicas only.
    """
    teacher = state.teacher
    assert teacher is not None
    if in_parts(problem) and not (effect.influence != 0).any():
        return _in_parts(problem, state, rows, effect, dropout_seed)
    batch, encoder = problem.train.gather(rows), problem.reference.encoder
    leaves = {name: p.detach().requires_grad_() for name, p in teacher.params.items()}
    options = problem.config.learning_teacher_config
    with torch.enable_grad(), passes.dropout_on(encoder, options.dropout, problem.device, dropout_seed):
        outputs = passes.student_forward(problem, leaves, batch, problem.teacher_signals, encoder=encoder)
    influence_outputs, ahead = outputs, None
    if (effect.influence != 0).any():
        if options.dropout > 0:
            with torch.enable_grad():
                influence_outputs = passes.student_forward(
                    problem, leaves, batch, problem.teacher_signals, encoder=encoder
                )
        fixed = trees.map_leaves(Tensor.detach, influence_outputs)
        ahead = look_ahead(
            problem,
            state,
            rows,
            feedback_choice(problem, state),
            **virtual_options(problem.config, learning_rates),
            weights=student_weights,
            teacher_outputs=(fixed,),
            forward_pass=forward_pass,
        )
        student_logits = ahead.logits
    elif forward_pass is not None:
        student_logits = forward_pass.output.logits.detach()
    else:
        with torch.no_grad():
            student_logits = passes.student_forward(problem, state.params, batch, frozenset()).logits
    weights = upload(effect.weights, problem.device, problem.dtype)
    with torch.enable_grad():
        auxiliary = auxiliary_losses(problem, outputs.logits, student_logits, batch)
        loss = _weighted(auxiliary, weights).mean(-1)
    ratio, cosine = teacher.influence_ratio, teacher.influence_cosine
    if ahead is None:
        total = _grads(loss, leaves, keep=False) if effect.weights.any() else {}
        ratio, cosine = np.zeros_like(ratio), np.zeros_like(cosine)
        return Lesson(total, auxiliary.detach().mean(-1), loss.detach(), ratio, cosine)
    drop = influence_loss(problem, state, influence_outputs, ahead, batch, learning_rates, effect.target)
    factors = upload(effect.influence, problem.device, problem.dtype)
    measured = (state.updates % options.log_every == 0).any()
    if not (measured or effect.matched):  # one backward pass for both
        total = _grads(loss + factors * drop, leaves, keep=False)
        return Lesson(total, auxiliary.detach().mean(-1), loss.detach(), ratio, cosine)
    log_cosine = options.log_cosine
    auxiliary_grads, influence_grads = _grads(loss, leaves, keep=True), _grads(drop, leaves, keep=log_cosine)
    if log_cosine:
        (other,) = (target for target in TARGETS if target != effect.target)
        other_grads = _grads(
            influence_loss(problem, state, influence_outputs, ahead, batch, learning_rates, other), leaves, keep=False
        )
        cosine = _host(derivatives.cosine(_flat(influence_grads, leaves), _flat(other_grads, leaves)))
    auxiliary_norm, influence_norm = (
        optim.gradient_norm(grads) if grads else torch.zeros_like(factors)
        for grads in (auxiliary_grads, influence_grads)
    )
    quotient = torch.where(
        auxiliary_norm > 0, influence_norm / auxiliary_norm.clamp(min=1e-30), torch.zeros_like(auxiliary_norm)
    )
    if effect.matched:
        factors = factors * torch.where(
            influence_norm > 0, auxiliary_norm / influence_norm.clamp(min=1e-30), torch.zeros_like(auxiliary_norm)
        )
    scaled = {name: value * factors.view(-1, *(1,) * (value.dim() - 1)) for name, value in influence_grads.items()}
    # Not a sum where the factor is 0: such a replica's gradient is that of ProKT to the last bit.
    total = {
        name: _joined(auxiliary_grads.get(name), scaled.get(name), factors != 0)
        for name in {**auxiliary_grads, **scaled}
    }
    return Lesson(total, auxiliary.detach().mean(-1), loss.detach(), _host(quotient), cosine)


def auxiliary_losses(problem: Problem, teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
    """The teacher's own losses: ``a KL(p_S || p_T) + (1 - a) CE(y, p_T)``, ``[N, B]``.

    Args:
        problem: the problem, of which ``soft_weight`` is a.
        teacher: logits ``[N, B, C]``, with gradient.
        student: logits ``[N, B, C]``, without gradient.
        batch: its labels ``[N, B]`` are read.
    """
    share, width = problem.config.learning_teacher_config.soft_weight, problem.label_width
    if width is not None:
        score = teacher[..., 0]
        soft, hard = ((score - student[..., 0]) / width).square(), ((score - batch.labels) / width).square()
        return share * soft + (1.0 - share) * hard
    log_teacher, log_student = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    soft = (log_student.exp() * (log_student - log_teacher)).sum(-1)
    hard = F.nll_loss(log_teacher.flatten(0, 1), batch.labels.flatten(), reduction="none").view(soft.shape)
    return share * soft + (1.0 - share) * hard


def influence_loss(
    problem: Problem,
    state: DistillState,
    teacher_output: ModelOutput,
    ahead: LookAhead,
    batch: Batch,
    learning_rates: np.ndarray,
    target: str,
) -> Tensor:
    """A number ``[N]`` whose gradient by the teachers' parameters is ``h``; the number itself says nothing.

    ``student_loss`` is the derivative of the virtual step, and of the real one where that is by AdamW and the student
    has no dropout. ``teacher_loss`` is the form of LGTM's released code: central differences of the teacher's own loss
    along the feedback gradient, whatever the student's optimiser and clipping, times its learning rate.

    Args:
        problem: the problem.
        state: of N replicas.
        teacher_output: what the teachers say about the batch, with their graph.
        ahead: the virtual step.
        batch: of the step.
        learning_rates: ``[N]`` of the students.
        target: of :data:`TARGETS`.

    Raises:
        ValueError: an unknown target.
    """
    if target not in TARGETS:
        raise ValueError(unknown_name("influence target", target, TARGETS))
    with torch.enable_grad():
        if target == "student_loss":

            def student_losses(params: dict[str, Tensor]) -> Tensor:
                return ahead.losses(params, (teacher_output,))

            return derivatives.along(student_losses, state.params, ahead.direction).mean(-1)

        def teacher_losses(params: dict[str, Tensor]) -> Tensor:
            with torch.no_grad():
                logits = passes.student_forward(problem, {**state.params, **params}, batch, frozenset()).logits
            return auxiliary_losses(problem, teacher_output.logits, logits, batch)

        differences = derivatives.central_differences(
            teacher_losses, state.params, ahead.feedback_gradient, radius=RADIUS
        )
        return -upload(learning_rates, problem.device, problem.dtype) * differences.mean(-1)


def _weighted(auxiliary: Tensor, weights: Tensor) -> Tensor:
    # A row without weight is left out even where its loss is not finite.
    return torch.where(weights != 0, weights * auxiliary, torch.zeros_like(auxiliary))


def _in_parts(
    problem: Problem, state: DistillState, rows: np.ndarray, effect: TeacherEffect, dropout_seed: int
) -> Lesson:
    """The teachers' gradient without influence, from pieces of the batch and shares of the ranks, within rounding."""
    teacher, encoder = state.teacher, problem.reference.encoder
    assert teacher is not None
    batch, weights = problem.train.gather(rows), upload(effect.weights, problem.device, problem.dtype)
    size, dropout = rows.shape[1], problem.config.learning_teacher_config.dropout
    leaves = {name: p.detach().requires_grad_() for name, p in teacher.params.items()}
    grads: Grads = {}
    sums = torch.zeros(2, len(rows), dtype=problem.dtype, device=problem.device)
    for piece in pieces(problem, size):
        own = part(batch, piece)
        with torch.no_grad():
            student_logits = passes.student_forward(problem, state.params, own, frozenset()).logits
        seed = sub_seed(dropout_seed, piece.start)
        with torch.enable_grad(), passes.dropout_on(encoder, dropout, problem.device, seed):
            outputs = passes.student_forward(problem, leaves, own, frozenset(), encoder=encoder)
            auxiliary = auxiliary_losses(problem, outputs.logits, student_logits, own)
            loss = _weighted(auxiliary, weights[:, piece]).sum(-1) / size
        sums += torch.stack([auxiliary.detach().sum(-1) / size, loss.detach()])
        for name, grad in _grads(loss, leaves, keep=False).items() if effect.weights.any() else ():
            grads[name] = grads[name].add_(grad) if name in grads else grad
    problem.ranks.sum_([*grads.values(), sums])
    nothing = np.zeros_like(teacher.influence_ratio)
    return Lesson(grads, sums[0], sums[1], nothing, nothing)


def _grads(loss: Tensor, leaves: Grads, *, keep: bool) -> Grads:
    if not loss.requires_grad:  # nothing that the teacher says is in it, as where the student learns from labels alone
        return {}
    leaf_grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True, retain_graph=keep)
    # The fused optimiser walks memory in order: a transposed gradient would update the wrong entries.
    return {name: grad.contiguous() for name, grad in zip(leaves, leaf_grads, strict=True) if grad is not None}


def _host(values: Tensor) -> np.ndarray:
    return np.asarray(values.float().cpu().numpy())


def _joined(auxiliary: Tensor | None, influence: Tensor | None, influenced: Tensor) -> Tensor:
    if auxiliary is None or influence is None:
        grad = influence if auxiliary is None else auxiliary
        assert grad is not None
        return grad
    return torch.where(influenced.view(-1, *(1,) * (auxiliary.dim() - 1)), auxiliary + influence, auxiliary)


def _flat(grads: Grads, leaves: Grads) -> Tensor:
    """``[N, P]``, with zeros for tensors that have no gradient."""
    return torch.cat([grads.get(name, torch.zeros_like(leaf)).flatten(1) for name, leaf in leaves.items()], dim=1)
