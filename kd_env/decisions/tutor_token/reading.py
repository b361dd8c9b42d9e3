"""The passes of a step over the models: the teacher over masked and edited text, N students over edited text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from kd_env.core import trees
from kd_env.core.types import Batch, ModelOutput, Signal
from kd_env.decisions.tutor_token.losses import LOSSES, LossInputs
from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.decisions.tutor_token.state import SlotView, TokenRewards, Written
from kd_env.knowledge import plausibility
from kd_env.mdp import passes
from kd_env.teachers.sources import autocast, cast

PROJECTION = "projections.hidden_states"
"""Name of the one map from student to teacher width that all layers share."""


def original_tokens(batch: Batch, positions: Tensor) -> Tensor:
    """Tokens of the text at the slots, ``[N, B, P]``."""
    return batch.input_ids.gather(-1, positions)


def edited(batch: Batch, positions: Tensor, valid: Tensor, tokens: Tensor) -> Batch:
    """The batch with ``tokens [N, B, P]`` in its valid slots."""
    # A slot that is not valid lies at place 0, which is never a slot of another, and writes what is there already.
    written = torch.where(valid, tokens, original_tokens(batch, positions))
    return batch._replace(input_ids=batch.input_ids.scatter(-1, positions, written))


def at_slots(values: Tensor, positions: Tensor) -> Tensor:
    """``values [N, B, S, ...]`` at ``positions [N, B, P]``."""
    index = positions.reshape(*positions.shape, *(1,) * (values.dim() - 3))
    return values.gather(2, index.expand(*positions.shape, *values.shape[3:]))


def read(problem: TutorProblem, batch: Batch, positions: Tensor) -> SlotView:
    """One pass of the teacher over ``batch [N, B, S]``: what it says at the slots."""
    with torch.no_grad():
        hidden, _ = run_teacher(problem, batch, frozenset())
        return slot_view(problem, at_slots(hidden, positions))


def slot_view(problem: TutorProblem, hidden: Tensor) -> SlotView:
    """The teacher's prediction from its last hidden states at the slots."""
    features = problem.teacher.features(hidden)
    logits = problem.teacher.decode(features)
    partition = logits.logsumexp(-1)
    best = logits.topk(problem.num_candidates, dim=-1)
    return SlotView(hidden, features, partition, best.indices, best.values - partition[..., None])


def log_probability(problem: TutorProblem, features: Tensor, log_partition: Tensor, tokens: Tensor) -> Tensor:
    """``log p_T(token)`` at the slots, ``[N, B, P]``, from what the decoder reads there."""
    return problem.teacher.token_logits(features, tokens) - log_partition


class Update(NamedTuple):
    """Losses, gradients and rewards of one update of N students."""

    losses: Tensor  # [N, L]
    total: Tensor  # [N]
    grads: dict[str, Tensor]  # name -> [N, ...]
    rewards: TokenRewards


def update(
    problem: TutorProblem,
    params: Mapping[str, Tensor],
    rows: np.ndarray,
    positions: np.ndarray,
    valid: np.ndarray,
    base: SlotView,
    tokens: np.ndarray,
    dropout_seed: int = 0,
) -> Update:
    """The second pass of the teacher, over the edited text, and the students' losses on it.

    Args:
        problem: the problem.
        params: name -> ``[N, ...]``.
        rows: ``[N, B]`` train rows.
        positions: ``[N, B, P]`` slots.
        valid: ``[N, B, P]``.
        base: what the teacher said about the masked text.
        tokens: ``[N, B, P]`` the choice.
        dropout_seed: of the student's dropout; single students only. ``student_error`` is that of the same pass.
    """
    text, written, log_chosen = _write(problem, rows, positions, valid, base, torch.as_tensor(tokens))
    with torch.no_grad():
        taught = problem.lesson.teach(problem, text, written, problem.teacher_signals)
    leaves = {name: p.detach().requires_grad_(True) for name, p in params.items()}
    with passes.dropout_on(problem.student, problem.config.student_config.dropout, problem.device, dropout_seed):
        output = passes.student_forward(problem, leaves, text, problem.student_signals)
    losses = student_losses(problem, leaves, output, taught.output, taught.labels, text.attention_mask)
    weights = torch.tensor(problem.loss_weights, dtype=losses.dtype, device=losses.device)
    total = (losses * weights).sum(-1)
    found = torch.autograd.grad(total.sum(), list(leaves.values()), allow_unused=True)
    grads = {name: grad.contiguous() for name, grad in zip(leaves, found, strict=True) if grad is not None}
    error = problem.lesson.error(trees.map_leaves(Tensor.detach, output), taught, written)
    parts = (taught.recognises, error, written.plausibility, log_chosen.exp())
    rewards = TokenRewards(*(torch.where(written.valid, part, 0.0).float().cpu().numpy() for part in parts))
    return Update(losses.detach(), total.detach(), grads, rewards)


def student_errors(
    problem: TutorProblem,
    params: Mapping[str, Tensor],
    rows: np.ndarray,
    positions: np.ndarray,
    valid: np.ndarray,
    base: SlotView,
    tokens: Tensor,
) -> Tensor:
    """The reward ``student_error`` of N students for a choice ``[N, B, P]`` that is not made; 0 at unused slots.

    Without dropout.
    """
    text, written, _ = _write(problem, rows, positions, valid, base, tokens)
    with torch.no_grad():
        taught = problem.lesson.teach(problem, text, written, frozenset())
        output = passes.student_forward(problem, params, text, frozenset())
        return torch.where(written.valid, problem.lesson.error(output, taught, written), 0.0)


def _write(
    problem: TutorProblem, rows: np.ndarray, positions: np.ndarray, valid: np.ndarray, base: SlotView, tokens: Tensor
) -> tuple[Batch, Written, Tensor]:
    """The edited text, what was written, and ``log p_T(a | X^M)`` of it ``[N, B, P]``."""
    batch = problem.train.gather(rows)
    places, there = (torch.as_tensor(array, device=problem.device) for array in (positions, valid))
    original = original_tokens(batch, places)
    chosen = torch.where(there, tokens.to(problem.device), original)
    with torch.no_grad():
        before = (base.features, base.log_partition)
        log_chosen = log_probability(problem, *before, chosen)
        plausible = plausibility.plausibility(log_probability(problem, *before, original), log_chosen)
    return edited(batch, places, there, chosen), Written(places, there, original, chosen, plausible), log_chosen


def student_losses(
    problem: TutorProblem,
    params: Mapping[str, Tensor],
    student: ModelOutput,
    teacher: ModelOutput,
    labels: Tensor,
    mask: Tensor,
) -> Tensor:
    """Every loss of N students, ``[N, L]``, unweighted.

    Args:
        problem: the problem.
        params: name -> ``[N, ...]``; the projection is read.
        student: outputs ``[N, B, ...]``; logits ``[N, B, S, 1]``, or ``[N, B, C]`` with labels of a task.
        teacher: outputs ``[N, B, ...]`` on the same text.
        labels: ``[N, B, S]`` plausibility of every token, or ``[N, B]`` gold labels.
        mask: ``[N, B, S]``.
    """
    projection = params.get(PROJECTION)

    def one(
        student: ModelOutput, teacher: ModelOutput, labels: Tensor, mask: Tensor, projection: Tensor | None
    ) -> Tensor:
        layers = (problem.pairs, problem.block_pairs, problem.config.layer_reduction)
        inputs = LossInputs(student, teacher, labels, mask, projection, *layers)
        return torch.stack([LOSSES[name](inputs) for name in problem.loss_names])

    if len(labels) == 1:  # squeeze, since the gradient of an index would be a copy of the projection
        student_output, teacher_output = (
            trees.map_leaves(lambda t: t.squeeze(0), output) for output in (student, teacher)
        )
        shared = None if projection is None else projection.squeeze(0)
        return one(student_output, teacher_output, labels.squeeze(0), mask.squeeze(0), shared)[None]
    losses: Tensor = vmap(one, in_dims=(0, 0, 0, 0, None if projection is None else 0))(
        student, teacher, labels, mask, projection
    )
    return losses


def run_teacher(problem: TutorProblem, batch: Batch, signals: frozenset[Signal]) -> tuple[Tensor, ModelOutput]:
    """Last hidden states ``[N, B, S, H]`` and the signals, one pass for all replicas."""
    count, rows = batch.input_ids.shape[:2]
    flat: Batch = trees.map_leaves(lambda t: t.flatten(0, 1), batch)
    with autocast(problem.device, problem.precision):
        hidden, output = problem.teacher.encode(flat, signals)

    def split(values: Tensor) -> Tensor:
        # There are no logits of whole rows; vmap wants the replicas' axis there, too.
        return values.unflatten(0, (count, rows)) if values.numel() else values.new_empty(count, 0)

    return split(hidden.to(problem.dtype)), trees.map_leaves(split, cast(output, problem.dtype))
