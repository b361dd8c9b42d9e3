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

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp

from kd_env.config.optimizer import OptimizerConfig
from kd_env.core import trees
from kd_env.core.registry import unknown_name
from kd_env.core.types import Batch, ModelOutput
from kd_env.mdp import gradients, passes
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState
from kd_env.numerics import optim

Params = Mapping[str, Tensor]
SampleLosses = Callable[[dict[str, Tensor]], Tensor]
"""Per-sample losses ``[N, B]`` as a function of (some of) the students' parameters, name -> ``[N, ...]``."""


class TaughtLosses(Protocol):
    """:data:`SampleLosses` that may be given other words of the teachers than those they were made with."""

    def __call__(self, params: dict[str, Tensor], taught: tuple[ModelOutput, ...] | None = None) -> Tensor:
        """Losses ``[N, B]``; differentiable by what is given."""
        ...


VIRTUAL_OPTIMIZERS = ("adamw", "sgd")


class VirtualStep(NamedTuple):
    """An update that is only looked at; both dictionaries hold the tensors that have a gradient."""

    params: dict[str, Tensor]  # s', name -> [N, ...]
    slopes: dict[str, Tensor]  # D, elementwise d s' / d clipped gradient; broadcasts to [N, ...]
    clipped: dict[str, Tensor]  # the gradient after clipping, name -> [N, ...]
    norm: Tensor | None  # [N], that of the gradient before; None where no replica was clipped
    limit: float | None  # the largest norm


class LookAhead(NamedTuple):
    """What one virtual step says; enough for the influence and for finite differences of any other loss."""

    losses: TaughtLosses  # the student's weighted losses l_i on the batch, [N, B]
    logits: Tensor  # [N, B, C], the student's before the step
    feedback_loss: Tensor  # [N] at s'
    feedback_gradient: dict[str, Tensor]  # v, name -> [N, ...]; tensors that either loss does not read are left out
    direction: dict[str, Tensor]  # J D v; where a gradient was clipped also of tensors that the feedback does not read


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
    taught: tuple[ModelOutput, ...] | None = None,
    feedback_labels: Tensor | None = None,
) -> Tensor:
    """Drop of the feedback loss per unit of weight of each sample of the next update, ``[N, B]``, at weights 1.

    Cost: of the student one forward and one backward pass on the batch, the same on the feedback rows, and one
    forward-mode product (a forward pass that carries a tangent) on the batch; of the teachers one forward pass where
    they are online and ``taught`` is not given.

    Args: those of :func:`look_ahead`.
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
        taught=taught,
        feedback_labels=feedback_labels,
    )
    return influence_of(ahead, students.params)


def influence_of(ahead: LookAhead, params: Params) -> Tensor:
    """The influence that a look ahead from ``params`` gives, ``[N, B]``: the one forward-mode product."""
    found = directional_losses(ahead.losses, params, ahead.direction)
    return -found / found.shape[1]


def look_ahead(
    problem: Problem,
    students: DistillState,
    rows: np.ndarray,
    feedback_rows: np.ndarray,
    *,
    learning_rates: np.ndarray,
    optimizer: str = "adamw",
    clip: bool = True,
    weights: Tensor | None = None,
    taught: tuple[ModelOutput, ...] | None = None,
    feedback_labels: Tensor | None = None,
    known: passes.StudentPass | None = None,
) -> LookAhead:
    """Make the next update virtually and pull the feedback gradient back through it.

    The loss is that of the real update: the table over running scales that this batch is part of.

    Args:
        problem: the problem.
        students: N of them in the middle of a run; nothing of them is changed.
        rows: ``[N, B]`` rows of the train table.
        feedback_rows: ``[N, M]``, or ``[M]`` for all students, rows of the feedback table.
        learning_rates: ``[N]`` of this update.
        optimizer: ``adamw`` (the students' own, with their moments) or ``sgd``.
        clip: whether the gradient is clipped as in the students' real update.
        weights: ``[N, T, K, 1 or B]`` fixed weights of the entries of the table; None is 1.
        taught: what the T teachers say about the rows, fields ``[N, B, ...]``; None asks the problem's sources.
        feedback_labels: instead of the feedback table's, in the shape of ``feedback_rows``.
        known: the students' pass on the rows, where it was made already; its graph is kept.

    Raises:
        ValueError: an unknown optimiser, no feedback rows, or shapes that do not fit.
    """
    _check(students, rows, feedback_rows, learning_rates, optimizer, feedback_labels)
    grads, losses, logits = loss_gradient(problem, students, rows, weights, taught, known)
    config = problem.config.optimizer_config
    if not clip:
        config = dataclasses.replace(config, max_grad_norm=None)
    step = virtual_step(students, grads, learning_rates=learning_rates, optimizer=optimizer, config=config)
    batch = problem.feedback.gather(feedback_rows)
    if feedback_labels is not None:
        batch = batch._replace(labels=feedback_labels)
    loss, gradient = feedback_gradient(problem, students.params, step.params, batch)
    return LookAhead(losses, logits, loss, gradient, pull_back(step, gradient))


def loss_gradient(
    problem: Problem,
    students: DistillState,
    rows: np.ndarray,
    weights: Tensor | None = None,
    taught: tuple[ModelOutput, ...] | None = None,
    known: passes.StudentPass | None = None,
) -> tuple[dict[str, Tensor], TaughtLosses, Tensor]:
    """Gradient of the mean weighted loss (one forward and one backward pass), and the losses as a function.

    In that function what the teachers say is constant unless it is given anew. The running scales are constants of the
    students and of the weights, as they are in the real update, but follow what the teachers say.

    Returns:
        name -> ``[N, ...]`` without the tensors that no loss reads, :class:`TaughtLosses`, and the students' logits
        ``[N, B, C]``.
    """
    params, batch = students.params, problem.train.gather(rows)
    with torch.enable_grad():
        leaves, student = known or passes.student_pass(problem, params, batch)
        if taught is None:
            taught = passes.teacher_signals(problem, students.teacher, rows, batch, student)
        fixed = tuple(trees.map_leaves(Tensor.detach, output) for output in taught)
        table = gradients.loss_table(problem, leaves, student, fixed, batch)
        factor = torch.ones_like(table) if weights is None else weights
        divisor = _divisor(problem, students, table.detach())
        loss = _weighted(table, factor, divisor).mean(-1).sum()
        keep = known is not None
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, retain_graph=keep)
    grads = {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}
    fixed_params = {name: p.detach() for name, p in params.items()}
    fixed_student = trees.map_leaves(Tensor.detach, student)

    def losses(params: dict[str, Tensor], taught: tuple[ModelOutput, ...] | None = None) -> Tensor:
        own = {**fixed_params, **params}
        output = passes.student_forward(problem, own, batch, problem.student_signals, eager=True)
        table = gradients.loss_table(problem, own, output, fixed if taught is None else taught, batch)
        if taught is None or problem.config.term_scale != "running":
            return _weighted(table, factor, divisor)
        before = gradients.loss_table(problem, fixed_params, fixed_student, taught, batch)
        return _weighted(table, factor, _divisor(problem, students, before))

    return grads, losses, fixed_student.logits


def virtual_step(
    students: DistillState,
    grads: Params,
    *,
    learning_rates: np.ndarray,
    optimizer: str,
    config: OptimizerConfig,
) -> VirtualStep:
    """One step of SGD or of the students' AdamW with the clipped gradient, as new tensors, and its derivative.

    Clipping is that of the real step (:func:`kd_env.numerics.optim.clip_`), for SGD too. AdamW is
    :func:`kd_env.numerics.optim.adamw_`: ``s' = (1 - r d) s - r m'/c1 / (sqrt(v'/c2) + eps)`` with learning rate r, new
    moments m' and v', bias corrections c1 and c2, and decay d for tensors with more than one axis per replica. Its
    derivative goes through m' and v'. A student without an update so far makes a step of SGD: Adam's first update is a
    sign, and its derivative says nothing.

    Args:
        students: parameters, moments and numbers of updates are read.
        grads: name -> ``[N, ...]``; clipped in place.
        learning_rates: ``[N]``.
        optimizer: ``adamw`` or ``sgd``.
        config: largest norm of the gradient, betas, eps and weight decay.
    """
    norm, limit = None, config.max_grad_norm
    if limit is not None and grads:
        found = optim.gradient_norm(grads)
        if not bool((optim.clip_factor(found, limit) == 1).all()):
            norm, grads = found, {name: grad.contiguous() for name, grad in grads.items()}
            optim.clip_(grads, norm, limit)
    after: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    first = students.optimizer_steps == 0 if optimizer == "adamw" else np.ones(len(learning_rates), bool)
    for name, grad in grads.items():
        value = students.params[name].detach()
        rate = _column(learning_rates, value)
        if first.all():
            after[name], slopes[name] = value - rate * grad, -rate
            continue
        moments = (students.exp_avg[name], students.exp_avg_sq[name])
        after[name], slopes[name] = _adamw(value, grad, moments, rate, students.optimizer_steps + 1, config)
        if first.any():
            plain = _column(first, value, torch.bool)
            after[name] = torch.where(plain, value - rate * grad, after[name])
            slopes[name] = torch.where(plain, -rate, slopes[name])
    return VirtualStep(after, slopes, dict(grads), norm, limit)


def feedback_gradient(
    problem: Problem, params: Params, stepped: Params, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss against gold labels after a virtual step, ``[N]``, and its gradient with respect to what was stepped.

    Cross-entropy in nats; in regression the squared error over the squared label range.

    Args:
        problem: the problem.
        params: of the students, name -> ``[N, ...]``.
        stepped: those of them that the step changed.
        batch: fields ``[N, M, ...]``, or ``[M, ...]`` for all students.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in stepped.items()}
    own = {**{name: p.detach() for name, p in params.items()}, **leaves}
    with torch.enable_grad():
        shared = batch.labels.dim() == 1
        logits = passes.student_forward(problem, own, batch, frozenset(), shared_batch=shared).logits
        labels = batch.labels.expand(logits.shape[:2])
        if problem.label_width is None:
            values = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        else:
            values = ((logits[..., 0] - labels) / problem.label_width).square()
        loss = values.mean(-1)
        found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    return loss.detach(), {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}


def pull_back(step: VirtualStep, gradient: Params) -> dict[str, Tensor]:
    """A gradient with respect to the stepped parameters as one with respect to the step's own gradient: ``J D v``."""
    found = {name: step.slopes[name] * value for name, value in gradient.items()}
    if step.norm is None or step.limit is None:
        return found
    return optim.clip_pull_back_(found, step.clipped, step.norm, step.limit)


def directional_losses(losses: SampleLosses, params: Params, direction: Params) -> Tensor:
    """``<grad l_i, direction>`` of every sample, ``[N, B]``, by one forward-mode product.

    Args:
        losses: per-sample losses; their forward pass must have forward derivatives (``eager=True``).
        params: name -> ``[N, ...]``; the point.
        direction: name -> ``[N, ...]``; tensors that are not named stay as they are.
    """
    if not direction:  # no tensor is read by both losses
        return torch.zeros_like(losses({}))
    with torch.no_grad():
        return along(losses, params, direction)


def along(losses: SampleLosses, params: Params, direction: Params) -> Tensor:
    """The same with a graph: it can be differentiated by tensors that the losses read beside the parameters."""
    point = {name: params[name].detach() for name in direction}
    _ready_forward_mode()
    found: Tensor = jvp(losses, (point,), (dict(direction),))[1]
    return found


def finite_difference_influence(
    losses: SampleLosses, params: Params, direction: Params, *, radius: float = 0.01
) -> Tensor:
    """The same by central differences, as LGTM's released code: two perturbed forward passes.

    ``(l_i(s + R v) - l_i(s - R v)) / (2 R)`` with ``R = radius / ||v||`` for every student. The code takes the feedback
    gradient for v, which is right for SGD up to the factor learning rate / B, and the teacher's loss for l.

    Args:
        losses: any per-sample losses ``[N, B]`` as a function of the students' parameters.
        params: name -> ``[N, ...]``.
        direction: name -> ``[N, ...]``, v.
        radius: length of the perturbation.

    Returns:
        ``[N, B]``; 0 where the direction is 0.
    """
    with torch.no_grad():
        return central_differences(losses, params, direction, radius=radius)


def central_differences(losses: SampleLosses, params: Params, direction: Params, *, radius: float) -> Tensor:
    """The same with a graph, see :func:`along`."""
    # Without the bound a zero direction gives NaN instead of no influence.
    norm = optim.gradient_norm(direction)
    step = radius / norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)
    above, below = (
        losses({name: params[name] + sign * _column(step, v) * v for name, v in direction.items()})
        for sign in (1.0, -1.0)
    )
    return (above - below) / (2 * step[:, None])


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine between the influences ``[N, B]`` of each student's samples, ``[N]``; 0 where one of them is all zero."""
    # Influences shrink with the learning rate: their squares leave the range of float32, and a usual eps hides them.
    unit = [F.normalize(values.double(), dim=-1, eps=1e-100) for values in (one, other)]
    return (unit[0] * unit[1]).sum(-1).to(one.dtype)


def _weighted(table: Tensor, weights: Tensor, divisor: Tensor) -> Tensor:
    """``[N, T, K, B]`` over ``[N, T, K]`` -> ``[N, B]``; an entry without weight is left out even if not finite."""
    zero = torch.zeros((), dtype=table.dtype, device=table.device)
    return torch.where(weights != 0, weights * (table / divisor[..., None]), zero).sum((1, 2))


def _divisor(problem: Problem, students: DistillState, table: Tensor) -> Tensor:
    """The running scale of the terms with this batch in it, as in the real update, ``[N, T, K]``."""
    if problem.config.term_scale != "running":
        return torch.ones_like(students.term_scale)
    scale = gradients.running_scale(students.term_scale, students.term_seen, table.mean(-1))
    return scale.clamp(min=gradients.SMALLEST_SCALE)


def _adamw(
    value: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor],
    rate: Tensor,
    steps: np.ndarray,
    config: OptimizerConfig,
) -> tuple[Tensor, Tensor]:
    """One tensor after its step number ``steps`` ``[N]``, and the elementwise derivative by the gradient."""
    (beta1, beta2), decay = config.betas, config.weight_decay if value.dim() > 2 else 0.0
    first, second = _column(1 - beta1**steps, value), _column(1 - beta2**steps, value)
    # In place where a tensor is our own: on embeddings every new one costs more than its arithmetic.
    mean = torch.lerp(moments[0], grad, 1 - beta1)
    root = (beta2 * moments[1]).addcmul_(grad, grad, value=1 - beta2).div_(second).sqrt_()
    below = root + config.eps
    step, ratio = rate / first, mean.div_(below)
    after = (value * (1 - rate * decay)).addcmul_(step, ratio, value=-1.0)
    # A row of the embeddings that no batch has shown yet: the root of 0 would give NaN, and its mean is 0.
    bend = (grad * ((1 - beta2) / second)).div_(root).masked_fill_(~(root > 0), 0.0)
    return after, bend.mul_(ratio).sub_(1 - beta1).mul_(step).div_(below)


@cache
def _ready_forward_mode() -> None:
    """The first product of a process, on a number: torch compiles rules then, by a way that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


def _column(values: np.ndarray | Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``[N]`` as ``[N, 1, ...]`` beside ``like`` ``[N, ...]``, in its type where no other is given."""
    found = torch.as_tensor(values, dtype=dtype or like.dtype, device=like.device)
    return found.view(-1, *(1,) * (like.dim() - 1))


def _check(
    students: DistillState,
    rows: np.ndarray,
    feedback_rows: np.ndarray,
    learning_rates: np.ndarray,
    optimizer: str,
    feedback_labels: Tensor | None,
) -> None:
    if optimizer not in VIRTUAL_OPTIMIZERS:
        raise ValueError(unknown_name("virtual optimizer", optimizer, VIRTUAL_OPTIMIZERS))
    count = len(students.optimizer_steps)
    shapes = {
        "rows": (rows.shape, f"({count}, B)", rows.ndim == 2 and len(rows) == count),
        "feedback_rows": (
            feedback_rows.shape,
            f"(M,) or ({count}, M), with at least one row",
            feedback_rows.size > 0 and (feedback_rows.ndim == 1 or feedback_rows.shape[:-1] == (count,)),
        ),
        "learning_rates": (learning_rates.shape, f"({count},)", learning_rates.shape == (count,)),
    }
    if feedback_labels is not None:
        given = tuple(feedback_labels.shape)
        shapes["feedback_labels"] = (given, f"{feedback_rows.shape}, as feedback_rows", given == feedback_rows.shape)
    for name, (shape, wanted, fits) in shapes.items():
        if not fits:
            raise ValueError(f"{name} has the shape {shape}; for {count} students give {wanted}.")
