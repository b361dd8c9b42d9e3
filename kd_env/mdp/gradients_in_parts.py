"""Losses and gradients of a batch of which this process computes a part, or several one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kd_env.core.types import ModelOutput
from kd_env.mdp.episodes import sub_seed
from kd_env.mdp.gradients import SMALLEST_SCALE, Gradients, loss_table, running_scale, weighted_rows
from kd_env.mdp.objectives.batches import StudentBatch, TeacherPass
from kd_env.mdp.parts import joined, part, pieces, row_tokens
from kd_env.mdp.passes import Params, StudentPass, dropout_on, student_pass
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import TeacherState


class _Look(NamedTuple):
    """What students and teachers say about a piece of the batch."""

    leaves: dict[str, Tensor]
    student: ModelOutput
    teachers: TeacherPass
    table: Tensor  # [N, T, K, b]


def gradients_in_parts(
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
    """As :func:`kd_env.mdp.gradients.gradients`, within rounding, from pieces of the batch and shares of the ranks.

    Without ``forward_pass``, which would be of all rows. ``student`` and ``teachers`` of the result hold logits and
    hidden states of all rows where the decision hears of them, else those of the last piece. There are no cosines.
    """
    size = update_batch.rows.shape[1]
    own, tokens = pieces(problem, size), row_tokens(update_batch.batch.attention_mask)
    dropout, running = problem.config.student_config.dropout, problem.config.term_scale == "running"

    def look(piece: slice, graph: bool, teachers: TeacherPass | None = None) -> _Look:
        rows = part(update_batch, piece)
        seed = sub_seed(dropout_seed, piece.start)
        with torch.set_grad_enabled(graph), dropout_on(problem.student, dropout, problem.device, seed):
            leaves, student = student_pass(problem, params, rows.batch, graph)
            said = problem.objective.teach(problem, teacher, rows, student) if teachers is None else teachers
            numbers = {name: value[:, piece] if value.ndim > 1 else value for name, value in (given or {}).items()}
            table = loss_table(problem, leaves, student, said.outputs, rows.batch, numbers, tokens)
        # Without a graph it is there for its losses, and for what the teachers said.
        return _Look(leaves, student if graph or not differentiate else _logits(student), said, table)

    # The scales are of all rows: only then can the first piece be differentiated.
    whole = len(own) == 1
    looks = [look(piece, differentiate and whole) for piece in own] if running or whole or not differentiate else []
    raw, divisor, scale = torch.zeros_like(term_scale), torch.ones_like(term_scale), term_scale
    if looks:
        raw = torch.stack([one.table.detach().sum(-1) for one in looks]).sum(0) / size
        problem.ranks.sum_([raw])
    if running:
        scale = running_scale(problem, term_scale, term_seen, raw)
        divisor = scale.clamp(min=SMALLEST_SCALE)
    grads: dict[str, Tensor] = {}
    loss, seen, heard = raw.new_zeros(len(raw)), torch.zeros_like(raw), list[_Look]()
    for place, piece in enumerate(own):
        kept = looks[place] if looks else None
        # A teacher has said the same already; the student was looked at without a graph where there are several pieces.
        one = kept if kept is not None and (whole or not differentiate) else None
        one = one or look(piece, differentiate, kept.teachers if kept else None)
        of_rows = weights[..., piece] if weights.shape[-1] == size else weights
        with torch.set_grad_enabled(differentiate):
            piece_loss = weighted_rows(one.table / divisor[..., None], of_rows).sum(-1) / size
        if differentiate:
            found = torch.autograd.grad(piece_loss.sum(), list(one.leaves.values()), allow_unused=True)
            for name, grad in zip(one.leaves, found, strict=True):
                if grad is not None:
                    grads[name] = grads[name].add_(grad) if name in grads else grad.contiguous()
        loss, seen = loss + piece_loss.detach(), seen + one.table.detach().sum(-1) / size
        heard.append(_of_rows(one))
    totals = [loss] if looks else [loss, seen]
    problem.ranks.sum_([*grads.values(), *totals])
    raw = raw if looks else seen
    student, teachers = _heard(problem, heard)
    no_cosines = raw.new_zeros(len(raw), 0, 0)
    return Gradients(raw, raw / divisor, scale, loss, grads, no_cosines, student, teachers)


def _of_rows(look: _Look) -> _Look:
    """What is kept of a piece when the next one is computed: what is small."""
    teachers = TeacherPass(tuple(_logits(output) for output in look.teachers.outputs), look.teachers.hidden)
    return _Look({}, _logits(look.student), teachers, look.table.detach())


def _logits(output: ModelOutput) -> ModelOutput:
    return ModelOutput(output.logits.detach(), {}, {}, {}, {}, {}, {})


def _heard(problem: Problem, looks: list[_Look]) -> tuple[ModelOutput, TeacherPass]:
    if not problem.decision.hears_updates:
        return looks[-1].student, looks[-1].teachers
    return joined(problem, [(look.student, look.teachers) for look in looks])
