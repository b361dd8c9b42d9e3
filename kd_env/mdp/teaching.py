"""The update of a teacher that learns beside its student: ProKT's loss on weighed rows, and LGTM's influence gradient.

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

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.config.optimizer import OptimizerConfig
from kd_env.core import trees
from kd_env.core.registry import unknown_name
from kd_env.core.types import Batch, ModelOutput
from kd_env.mdp import influence, passes
from kd_env.mdp.problem import Problem
from kd_env.mdp.row_influence import feedback_choice, virtual_options
from kd_env.mdp.state import DistillState, TeacherEffect, TeacherState
from kd_env.numerics import optim

Grads = dict[str, Tensor]
RADIUS = 0.01
"""Length of the student's perturbation in ``teacher_loss``, as in the released code."""


class Lesson(NamedTuple):
    """What one update of N teachers consists of."""

    grads: Grads  # name -> [N, ...], the whole gradient
    loss: Tensor  # [N] mean auxiliary loss of the rows, whatever their weights
    weighted: Tensor  # [N] the same with them
    ratio: np.ndarray  # [N] float32, ||h|| / ||d||, 0 where one of them is; as it was where this update is not measured
    cosine: np.ndarray  # [N] float32, between the two forms of h, alike


def begin(problem: Problem, seeds: list[int]) -> TeacherState:
    """The teachers at the start of an episode, a function of the seeds where the head is drawn anew."""
    encoder, count = problem.reference.encoder, len(seeds)
    each = [encoder.initial(seed) for seed in seeds]
    params = {name: torch.stack([values[name] for values in each]) for name in encoder.trainable}
    return TeacherState(
        params=params,
        exp_avg={name: torch.zeros_like(p) for name, p in params.items()},
        exp_avg_sq={name: torch.zeros_like(p) for name, p in params.items()},
        optimizer_steps=np.zeros(count, np.int64),
        loss=np.zeros(count),
        influence_ratio=np.zeros(count, np.float32),
        influence_cosine=np.zeros(count, np.float32),
    )


def teach(
    problem: Problem,
    state: DistillState,
    rows: np.ndarray,
    effect: TeacherEffect | None,
    *,
    student_weights: Tensor,
    active: np.ndarray,
    factor: np.ndarray,
    known: passes.StudentPass | None = None,
    dropout_seed: int = 0,
) -> tuple[TeacherState, Tensor]:
    """One update of the teachers, in place; the new state, and where loss or gradient were not finite ``[N]``.

    A teacher whose rows all have weight 0 and whose influence is 0 stays as it is.

    Args:
        problem: the problem.
        state: of N replicas before their students' update.
        rows: ``[N, B]`` train rows of that update.
        effect: weights of the rows and factor of the influence; None: every row alike, without influence.
        student_weights: ``[N, T, K, 1 or B]``, of the student's update on these rows.
        active: ``[N]`` bool, replicas that have budget left.
        factor: ``[N]`` of the students' learning rates in this update, the schedule times the action's scale.
        known: the students' pass on the rows, where it was made already; its graph is kept.
        dropout_seed: of the teacher's dropout; single replicas only.
    """
    teacher = state.teacher
    assert teacher is not None
    if effect is None:
        effect = TeacherEffect(np.ones(rows.shape, np.float32), np.zeros(len(rows), np.float32))
    options, own = problem.config.learning_teacher_config, problem.config.optimizer_config
    rates = own.rate * factor
    lesson = gradient(problem, state, rows, effect, student_weights, rates, known, dropout_seed)
    moves = active & ((effect.weights != 0).any(-1) | (effect.influence != 0)) & bool(lesson.grads)
    keep = torch.as_tensor(moves, device=problem.device)
    config: OptimizerConfig = dataclasses.replace(
        own,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        warmup=options.warmup,
    )
    broken = ~torch.isfinite(lesson.weighted)
    if lesson.grads:
        norm = optim.gradient_norm(lesson.grads)
        broken = broken | (~torch.isfinite(norm) & keep)
        optim.clip_(lesson.grads, norm, config.max_grad_norm)
        optim.adamw_(
            teacher.params,
            lesson.grads,
            teacher.exp_avg,
            teacher.exp_avg_sq,
            steps=teacher.optimizer_steps,
            learning_rates=config.rate * optim.learning_rate_factor(state.updates, state.budget, config.warmup),
            apply=moves,
            non_finite=broken.float(),
            config=config,
        )
    after = teacher._replace(
        optimizer_steps=teacher.optimizer_steps + moves,
        loss=np.where(active, lesson.loss.double().cpu().numpy(), teacher.loss),
        influence_ratio=np.where(active, lesson.ratio, teacher.influence_ratio),
        influence_cosine=np.where(active, lesson.cosine, teacher.influence_cosine),
    )
    return after, broken & torch.as_tensor(active, device=problem.device)


def gradient(
    problem: Problem,
    state: DistillState,
    rows: np.ndarray,
    effect: TeacherEffect,
    student_weights: Tensor,
    learning_rates: np.ndarray,
    known: passes.StudentPass | None = None,
    dropout_seed: int = 0,
) -> Lesson:
    """The teachers' gradient ``d + c h``: of the weighed auxiliary loss, and of the influence.

    Passes without influence: teacher one forward and one backward, student one forward. With it: student one more
    forward and two backward (on the batch and on the feedback rows) and one forward-mode product, or for
    ``teacher_loss`` two forward passes in its place; where the ratio is measured, teacher one more backward. With
    dropout the influence has a forward pass of the teacher of its own, without.

    Args: those of :func:`teach`, and the students' learning rates ``[N]``.
    """
    teacher = state.teacher
    assert teacher is not None
    batch, encoder = problem.train.gather(rows), problem.reference.encoder
    leaves = {name: p.detach().requires_grad_() for name, p in teacher.params.items()}
    options = problem.config.learning_teacher_config
    with torch.enable_grad(), passes.dropout_on(encoder, options.dropout, problem.device, dropout_seed):
        own_said = passes.student_forward(problem, leaves, batch, problem.teacher_signals, encoder=encoder)
    said, ahead = own_said, None
    if (effect.influence != 0).any():
        if options.dropout > 0:
            with torch.enable_grad():
                said = passes.student_forward(problem, leaves, batch, problem.teacher_signals, encoder=encoder)
        fixed = trees.map_leaves(Tensor.detach, said)
        ahead = influence.look_ahead(
            problem,
            state,
            rows,
            feedback_choice(problem, state),
            **virtual_options(problem.config, learning_rates),
            weights=student_weights,
            taught=(fixed,),
            known=known,
        )
        student = ahead.logits
    elif known is not None:
        student = known.output.logits.detach()
    else:
        with torch.no_grad():
            student = passes.student_forward(problem, state.params, batch, frozenset()).logits
    weights = torch.as_tensor(effect.weights, dtype=problem.dtype, device=problem.device)
    with torch.enable_grad():
        auxiliary = auxiliary_losses(problem, own_said.logits, student, batch)
        # A row without weight is left out even where its loss is not finite.
        loss = torch.where(weights != 0, weights * auxiliary, torch.zeros_like(auxiliary)).mean(-1)
    ratio, cosine = teacher.influence_ratio, teacher.influence_cosine
    if ahead is None:
        total = _grads(loss, leaves, keep=False) if effect.weights.any() else {}
        ratio, cosine = np.zeros_like(ratio), np.zeros_like(cosine)
        return Lesson(total, auxiliary.detach().mean(-1), loss.detach(), ratio, cosine)
    drop = influence_loss(problem, state, said, ahead, batch, learning_rates, effect.target)
    factors = torch.as_tensor(effect.influence, dtype=problem.dtype, device=problem.device)
    measured = (state.updates % options.log_every == 0).any()
    if not (measured or effect.matched):  # one backward pass for both
        total = _grads(loss + factors * drop, leaves, keep=False)
        return Lesson(total, auxiliary.detach().mean(-1), loss.detach(), ratio, cosine)
    both = options.log_cosine
    own, found = _grads(loss, leaves, keep=True), _grads(drop, leaves, keep=both)
    if both:
        (other,) = (target for target in TARGETS if target != effect.target)
        second = _grads(influence_loss(problem, state, said, ahead, batch, learning_rates, other), leaves, keep=False)
        cosine = _host(influence.cosine(_flat(found, leaves), _flat(second, leaves)))
    below, length = (optim.gradient_norm(part) if part else torch.zeros_like(factors) for part in (own, found))
    quotient = torch.where(below > 0, length / below.clamp(min=1e-30), torch.zeros_like(below))
    if effect.matched:
        factors = factors * torch.where(length > 0, below / length.clamp(min=1e-30), torch.zeros_like(below))
    scaled = {name: value * factors.view(-1, *(1,) * (value.dim() - 1)) for name, value in found.items()}
    # Not a sum where the factor is 0: such a replica's gradient is that of ProKT to the last bit.
    total = {name: _joined(own.get(name), scaled.get(name), factors != 0) for name in {**own, **scaled}}
    return Lesson(total, auxiliary.detach().mean(-1), loss.detach(), _host(quotient), cosine)


def auxiliary_losses(problem: Problem, teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
    """The teacher's own losses: ``a KL(p_S || p_T) + (1 - a) CE(y, p_T)``, ``[N, B]``.

    Args:
        problem: the problem, of which ``soft_weight`` is a.
        teacher: logits ``[N, B, C]``, with gradient.
        student: logits, alike, without.
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
    said: ModelOutput,
    ahead: influence.LookAhead,
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
        said: what the teachers say about the batch, with their graph.
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

            def losses(params: dict[str, Tensor]) -> Tensor:
                return ahead.losses(params, (said,))

            return influence.along(losses, state.params, ahead.direction).mean(-1)

        def own(params: dict[str, Tensor]) -> Tensor:
            with torch.no_grad():
                logits = passes.student_forward(problem, {**state.params, **params}, batch, frozenset()).logits
            return auxiliary_losses(problem, said.logits, logits, batch)

        up = influence.central_differences(own, state.params, ahead.feedback_gradient, radius=RADIUS)
        return -torch.as_tensor(learning_rates, dtype=problem.dtype, device=problem.device) * up.mean(-1)


def _grads(loss: Tensor, leaves: Grads, *, keep: bool) -> Grads:
    if not loss.requires_grad:  # nothing that the teacher says is in it, as where the student learns from labels alone
        return {}
    found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True, retain_graph=keep)
    # The fused optimiser walks memory in order: a transposed gradient would update the wrong entries.
    return {name: grad.contiguous() for name, grad in zip(leaves, found, strict=True) if grad is not None}


def _host(values: Tensor) -> np.ndarray:
    return np.asarray(values.float().cpu().numpy())


def _joined(own: Tensor | None, more: Tensor | None, wanted: Tensor) -> Tensor:
    if own is None or more is None:
        found = more if own is None else own
        assert found is not None
        return found
    return torch.where(wanted.view(-1, *(1,) * (own.dim() - 1)), own + more, own)


def _flat(grads: Grads, leaves: Grads) -> Tensor:
    """``[N, P]``, with zeros for tensors that have no gradient."""
    return torch.cat([grads.get(name, torch.zeros_like(leaf)).flatten(1) for name, leaf in leaves.items()], dim=1)


TARGETS = ("student_loss", "teacher_loss")
"""Forms of the influence gradient: the derivative of the virtual step, and that of LGTM's released code."""
