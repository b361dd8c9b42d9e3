"""The table of losses and the gradients of the students."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from kd_env.core import trees
from kd_env.core.types import Batch, ModelOutput
from kd_env.knowledge import TermInputs
from kd_env.mdp.objectives.batches import StudentBatch, TeacherPass
from kd_env.mdp.passes import (
    Params,
    StudentPass,
    changing_logits,
    dropout_on,
    logits_of,
    student_pass,
)
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, TeacherState
from kd_env.numerics import losses
from kd_env.teachers.teacher_set import entry_name


def normalize_weights(weights: np.ndarray, present: np.ndarray, how: str) -> np.ndarray:
    """Weights of present table entries, normalised by ``none``, ``mean`` or ``sum`` over them; all-zero stays zero.

    Args:
        weights: ``[N, T, K, 1 or B]``.
        present: ``[T, K]`` bool, which entries of the table exist.
        how: ``none``, ``mean`` or ``sum``.
    """
    weights = np.where(present[None, :, :, None], weights, 0.0).astype(np.float32)
    if how == "none":
        return weights
    total = weights.sum(axis=(1, 2), keepdims=True)
    factor = present.sum() if how == "mean" else 1.0
    return np.asarray(np.divide(weights * factor, total, out=np.zeros_like(weights), where=total > 0), dtype=np.float32)


SMALLEST_SCALE = 1e-8
"""Least divisor of a term's loss."""


class Gradients(NamedTuple):
    """Losses and gradients of one update of N students."""

    raw: Tensor  # [N, T, K] mean raw losses
    scaled: Tensor  # [N, T, K] mean raw losses over the running scale
    term_scale: Tensor  # [N, T, K] running scale with this batch in it
    loss: Tensor  # [N] the weighted loss
    grads: dict[str, Tensor]  # name -> [N, ...]; empty where no update was asked for
    cosines: Tensor  # [N, K, K] or [N, 0, 0]
    student: ModelOutput  # [N, B, ...], what the students said, with its graph
    teachers: TeacherPass  # what the teachers said


def loss_table(
    problem: Problem,
    params: Params,
    student: ModelOutput,
    teacher_outputs: tuple[ModelOutput, ...],
    batch: Batch,
    given: Mapping[str, Tensor] | None = None,
    row_tokens: Tensor | None = None,
) -> Tensor:
    """The table ``L[T, K, B]`` of every replica, ``[N, T, K, B]``: per-example, unreduced losses; 0 where absent.

    Args:
        problem: the problem.
        params: name -> ``[N, ...]``; the projections are read.
        student: outputs ``[N, B, ...]``.
        teacher_outputs: of the T teachers, outputs ``[N, B, ...]``.
        batch: ``[N, B, ...]``.
        given: what the action says to terms, by name ``[N]`` or ``[N, B]``.
        row_tokens: ``[N, B']`` real tokens of all rows of a larger batch, of which this is a part.
    """
    count = len(problem.teachers)
    values = dict(given or {})
    whole = {} if row_tokens is None else {"row_tokens": row_tokens}
    projections = {name: p for name, p in params.items() if name.startswith("projections.")}

    def replica_table(
        projections: Params,
        student: ModelOutput,
        teacher_outputs: tuple[ModelOutput, ...],
        batch: Batch,
        given: Mapping[str, Tensor],
        whole: Mapping[str, Tensor],
    ) -> Tensor:
        rows: list[Tensor] = []
        for row, teacher in enumerate(problem.teachers):
            columns = []
            for column, term in enumerate(teacher.terms):
                if not problem.present[row, column]:
                    columns.append(torch.zeros_like(rows[0][column]))
                    continue
                prefix = f"projections.{entry_name(term.name, teacher.name, count)}."
                term_projections = {
                    name[len(prefix) :]: p for name, p in projections.items() if name.startswith(prefix)
                }
                output = teacher_outputs[row] if term.uses_teacher else None
                columns.append(term.loss(TermInputs(student, output, batch, term_projections, given, **whole)))
            rows.append(torch.stack(columns))
        return torch.stack(rows)

    if batch.labels.shape[0] == 1:  # squeeze, since the gradient of an index would be a copy of every parameter
        single_projections = {name: p.squeeze(0) for name, p in projections.items()}
        single_batch = trees.map_leaves(lambda t: t.squeeze(0), batch)
        single_student = trees.map_leaves(lambda t: t.squeeze(0), student)
        single_outputs = tuple(trees.map_leaves(lambda t: t.squeeze(0), output) for output in teacher_outputs)
        return replica_table(
            single_projections,
            single_student,
            single_outputs,
            single_batch,
            *({name: v.squeeze(0) for name, v in numbers.items()} for numbers in (values, whole)),
        )[None]
    return vmap(replica_table)(projections, student, teacher_outputs, batch, values, whole)


def running_scale(problem: Problem, term_scale: Tensor, term_seen: Tensor, raw: Tensor) -> Tensor:
    """The running means ``[N, T, K]`` with the losses of one more update, of which there were ``term_seen [N]``.

    A plain mean over the first 100 updates, an exponential one afterwards. The teachers of a term share its mean: with
    one each, the loss to a teacher that says next to nothing, which is small, would count as much as that to one that
    knows the labels, and an equal mixture of teachers would mostly follow the first.
    """
    teachers = _teachers_of(tuple(problem.present.sum(0).tolist()), raw.device, raw.dtype)
    # Entries that are not there are 0, and one that is not finite is left to its own teacher's weight.
    broken = ~raw.isfinite()
    mean = raw.masked_fill(broken, 0.0).sum(1) / (teachers - broken.sum(1)).clamp(min=1)
    shared = mean[:, None].expand_as(raw)
    return term_scale + (shared - term_scale) / (term_seen + 1).clamp(max=100.0)[:, None, None]


@functools.cache
def _teachers_of(counts: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Teachers of each term ``[K]``, brought to the device once."""
    return torch.tensor(counts, device=device, dtype=dtype)


def gradients(
    problem: Problem,
    params: Params,
    update_batch: StudentBatch,
    weights: Tensor,
    term_scale: Tensor,
    term_seen: Tensor,
    *,
    teacher: TeacherState | None,
    differentiate: bool,
    dropout_seed: int = 0,
    forward_pass: StudentPass | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> Gradients:
    """Losses and gradients of N students on their batches.

    Args:
        problem: the problem.
        params: name -> ``[N, ...]``.
        update_batch: what the students learn from.
        weights: ``[N, T, K, 1 or B]``.
        term_scale: ``[N, T, K]`` running mean so far.
        term_seen: ``[N]`` updates in that mean.
        teacher: of a state.
        differentiate: False computes the losses only (nothing is going to be applied).
        dropout_seed: of the student's dropout; single students only.
        forward_pass: of these parameters and rows, where it was made already; without dropout.
        given: what the action says to terms, by name ``[N]`` or ``[N, B]``.
    """
    batch, dropout = update_batch.batch, problem.config.student_config.dropout
    with (
        torch.set_grad_enabled(differentiate),
        dropout_on(problem.student, dropout, problem.device, dropout_seed),
    ):
        leaves, student = forward_pass or student_pass(problem, params, batch, differentiate)
        teachers = problem.objective.teach(problem, teacher, update_batch, student)
        table = loss_table(problem, leaves, student, teachers.outputs, batch, given)
        raw = table.detach().mean(-1)
        if problem.config.term_scale == "running":
            scale = running_scale(problem, term_scale, term_seen, raw)
            divisor = scale.clamp(min=SMALLEST_SCALE)
        else:
            scale, divisor = term_scale, torch.ones_like(term_scale)
        scaled = table / divisor[..., None]
        loss = weighted_rows(scaled, weights).mean(-1)
        cosines = _cosines(scaled, leaves) if problem.wants_cosines and differentiate else raw.new_zeros(len(raw), 0, 0)
        grads: dict[str, Tensor] = {}
        if differentiate:
            leaf_grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
            # A tensor that no term reads has no gradient and is left alone, as in an ordinary PyTorch loop. The fused
            # optimiser walks memory in order: a transposed gradient would update the wrong entries.
            grads = {name: grad.contiguous() for name, grad in zip(leaves, leaf_grads, strict=True) if grad is not None}
    return Gradients(raw, raw / divisor, scale, loss.detach(), grads, cosines, student, teachers)


def weighted_rows(scaled: Tensor, weights: Tensor) -> Tensor:
    """Weighted losses of rows ``[N, B]``, from the table over its scales ``[N, T, K, B]``.

    An entry whose weight is 0 is left out even where it is not finite.
    """
    zero = torch.zeros((), dtype=scaled.dtype, device=scaled.device)
    return torch.where(weights != 0, weights * scaled, zero).sum((1, 2))


def _cosines(scaled: Tensor, leaves: Params) -> Tensor:
    """Cosines between the gradients of the K terms (summed over teachers), ``[N, K, K]``: K more backward passes."""
    rows = []
    for term in range(scaled.shape[2]):
        leaf_grads = torch.autograd.grad(
            scaled[:, :, term].sum(1).mean(-1).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        flat_grads = [
            (torch.zeros_like(leaf) if grad is None else grad).flatten(1)
            for leaf, grad in zip(leaves.values(), leaf_grads, strict=True)
        ]
        rows.append(torch.cat(flat_grads, dim=1))
    stacked = torch.stack(rows, dim=1)
    unit = stacked / stacked.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosines: Tensor = unit @ unit.transpose(1, 2)
    return cosines


def batch_losses(
    problem: Problem, state: DistillState, rows: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of N students on the (train) labels of rows ``[N, B]``, and their weighted KL from the teachers.

    The KL of a row is the mean over teachers by the weights ``[N, T, K, 1 or B]`` of the first weighed term; 0 where no
    teacher is chosen, or where the student is its own teacher (``teacher_source=student``). In regression both are
    squared errors over the squared label range.
    """
    batch = problem.train.gather(rows)
    logits = logits_of(problem, state.params, batch).logits.cpu().numpy()
    labels, width = problem.train.labels[rows], problem.label_width
    label_loss = losses.gold_loss(logits, labels, width)
    if problem.config.teacher_source == "student":  # the control would else hear of the teachers from its reward
        return label_loss, np.zeros_like(label_loss)
    teacher_weights = problem.decision.teacher_weights(weights)
    column = np.ones((len(rows), len(problem.teachers), rows.shape[1]))
    if teacher_weights is not None:
        column *= teacher_weights
    total = column.sum(1, keepdims=True)
    shares = np.divide(column, total, out=np.zeros_like(column), where=total > 0)
    if state.teacher is None:
        teacher_logits = [teacher.train_logits[rows] for teacher in problem.teachers]
    else:
        teacher_logits = [changing_logits(problem, state.params, state.teacher, batch).cpu().numpy()]
    divergences = [losses.row_divergence(logits, teacher, width) for teacher in teacher_logits]
    return label_loss, np.asarray((shares * np.stack(divergences, axis=1)).sum(1).mean(-1))
