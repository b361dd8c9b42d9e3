"""The next update made virtually, and the feedback gradient pulled back through it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core import trees
from kd_env.core.registry import unknown_name
from kd_env.core.types import Batch, ModelOutput
from kd_env.mdp import gradients, passes
from kd_env.mdp.influence.virtual_step import VIRTUAL_OPTIMIZERS, Params, pull_back, virtual_step
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState


class StudentLosses(Protocol):
    """Per-sample losses of students, with what the teachers said or with other outputs of the teachers in its place."""

    def __call__(self, params: dict[str, Tensor], teacher_outputs: tuple[ModelOutput, ...] | None = None) -> Tensor:
        """Losses ``[N, B]``; differentiable by the parameters and by ``teacher_outputs``."""
        ...


class LookAhead(NamedTuple):
    """What one virtual step says; enough for the influence and for finite differences of any other loss."""

    losses: StudentLosses  # the student's weighted losses l_i on the batch, [N, B]
    logits: Tensor  # [N, B, C], the student's before the step
    feedback_loss: Tensor  # [N] at s'
    feedback_gradient: dict[str, Tensor]  # v, name -> [N, ...]; tensors that either loss does not read are left out
    direction: dict[str, Tensor]  # J D v; where a gradient was clipped also of tensors that the feedback does not read


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
    teacher_outputs: tuple[ModelOutput, ...] | None = None,
    feedback_labels: Tensor | None = None,
    forward_pass: passes.StudentPass | None = None,
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
        teacher_outputs: of the T teachers on the rows, fields ``[N, B, ...]``; None asks the problem's sources.
        feedback_labels: instead of the feedback table's, in the shape of ``feedback_rows``.
        forward_pass: the students' pass on the rows, where it was made already; its graph is kept.

    Raises:
        ValueError: an unknown optimiser, no feedback rows, or shapes that do not fit.
    """
    _check(students, rows, feedback_rows, learning_rates, optimizer, feedback_labels)
    grads, losses, logits = loss_gradient(problem, students, rows, weights, teacher_outputs, forward_pass)
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
    teacher_outputs: tuple[ModelOutput, ...] | None = None,
    forward_pass: passes.StudentPass | None = None,
) -> tuple[dict[str, Tensor], StudentLosses, Tensor]:
    """Gradient of the mean weighted loss (one forward and one backward pass), and the losses as a function.

    In that function what the teachers say is constant unless it is given anew. The running scales are constants of the
    students and of the weights, as they are in the real update, but follow what the teachers say.

    Returns:
        name -> ``[N, ...]`` without the tensors that no loss reads, :class:`StudentLosses`, and the students' logits
        ``[N, B, C]``.
    """
    params, batch = students.params, problem.train.gather(rows)
    with torch.enable_grad():
        leaves, student = forward_pass or passes.student_pass(problem, params, batch)
        if teacher_outputs is None:
            teacher_outputs = passes.teacher_signals(problem, students.teacher, rows, batch, student)
        fixed = tuple(trees.map_leaves(Tensor.detach, output) for output in teacher_outputs)
        table = gradients.loss_table(problem, leaves, student, fixed, batch)
        factor = torch.ones_like(table) if weights is None else weights
        divisor = _divisor(problem, students, table.detach())
        loss = _weighted(table, factor, divisor).mean(-1).sum()
        keep = forward_pass is not None
        leaf_grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, retain_graph=keep)
    grads = {name: grad for name, grad in zip(leaves, leaf_grads, strict=True) if grad is not None}
    fixed_params = {name: p.detach() for name, p in params.items()}
    fixed_student = trees.map_leaves(Tensor.detach, student)

    def losses(params: dict[str, Tensor], teacher_outputs: tuple[ModelOutput, ...] | None = None) -> Tensor:
        student_params = {**fixed_params, **params}
        output = passes.student_forward(problem, student_params, batch, problem.student_signals, eager=True)
        table = gradients.loss_table(
            problem, student_params, output, fixed if teacher_outputs is None else teacher_outputs, batch
        )
        if teacher_outputs is None or problem.config.term_scale != "running":
            return _weighted(table, factor, divisor)
        before = gradients.loss_table(problem, fixed_params, fixed_student, teacher_outputs, batch)
        return _weighted(table, factor, _divisor(problem, students, before))

    return grads, losses, fixed_student.logits


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
    student_params = {**{name: p.detach() for name, p in params.items()}, **leaves}
    with torch.enable_grad():
        shared = batch.labels.dim() == 1
        logits = passes.student_forward(problem, student_params, batch, frozenset(), shared_batch=shared).logits
        labels = batch.labels.expand(logits.shape[:2])
        if problem.label_width is None:
            values = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        else:
            values = ((logits[..., 0] - labels) / problem.label_width).square()
        loss = values.mean(-1)
        leaf_grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    return loss.detach(), {name: grad for name, grad in zip(leaves, leaf_grads, strict=True) if grad is not None}


def _weighted(table: Tensor, weights: Tensor, divisor: Tensor) -> Tensor:
    """``[N, T, K, B]`` over ``[N, T, K]`` -> ``[N, B]``; an entry without weight is left out even if not finite."""
    zero = torch.zeros((), dtype=table.dtype, device=table.device)
    return torch.where(weights != 0, weights * (table / divisor[..., None]), zero).sum((1, 2))


def _divisor(problem: Problem, students: DistillState, table: Tensor) -> Tensor:
    """The running scale of the terms with this batch in it, as in the real update, ``[N, T, K]``."""
    if problem.config.term_scale != "running":
        return torch.ones_like(students.term_scale)
    scale = gradients.running_scale(problem, students.term_scale, students.term_seen, table.mean(-1))
    return scale.clamp(min=gradients.SMALLEST_SCALE)


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
        label_shape = tuple(feedback_labels.shape)
        shapes["feedback_labels"] = (
            label_shape,
            f"{feedback_rows.shape}, as feedback_rows",
            label_shape == feedback_rows.shape,
        )
    for name, (shape, expected, fits) in shapes.items():
        if not fits:
            raise ValueError(f"{name} has the shape {shape}; for {count} students give {expected}.")
