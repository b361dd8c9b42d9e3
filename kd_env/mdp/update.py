"""The updates of one step: of the students, and before each of them of teachers that learn."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.core.trees import HostCopy, upload
from kd_env.mdp import gradients, passes, rewards
from kd_env.mdp.episodes import sub_seed
from kd_env.mdp.gradients import normalize_weights
from kd_env.mdp.gradients_in_parts import gradients_in_parts
from kd_env.mdp.objectives.batches import StudentUpdate
from kd_env.mdp.parts import in_parts
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect, Evaluation
from kd_env.mdp.teaching import learning_teacher
from kd_env.numerics import optim

logger = logging.getLogger("kd_env")

DROPOUT, MASKED_DROPOUT, TEACHER = 3, 5, 2**40
"""First of the random streams of the students' dropout, one for every update, and where text is masked, whose masks and
samples have the streams from 3 on; and that of a learning teacher's head, after which those of its dropout follow."""


class _Step(NamedTuple):
    """What every update of one step shares."""

    effect: Effect
    weights: Tensor  # [N, T, K, 1 or B], normalised
    given: dict[str, Tensor]
    moves: np.ndarray  # [N] bool, whether the action lets the student be updated at all
    spend: np.ndarray  # [N] int64, updates of this step


class _Update(NamedTuple):
    """What one update found."""

    raw: Tensor  # [N, T, K], 0 where there was none
    scaled: Tensor
    cosines: Tensor | None  # [N, K, K]; None where nothing was applied
    broken: Tensor  # [N] bool, where a loss or a gradient was not finite


class Record(NamedTuple):
    """What the updates of one step found, on its way to the host."""

    values: HostCopy  # raw and scaled losses, cosines, norms of the change, and [U, N] where each update was broken
    moves: np.ndarray  # [N] bool
    updates: np.ndarray  # [N] updates before the step
    rows: np.ndarray  # [N, U, B]


def update(
    problem: Problem, state: DistillState, effect: Effect, scratch: dict[str, Tensor]
) -> tuple[DistillState, Record]:
    """Update students, and teachers that learn, on the drawn batches; the tensors of ``state`` in place.

    What the updates found is left to :func:`with_record`: the host need not wait for it before an evaluation, for
    which it waits in any case. Until then no student counts as lost.

    A budget that ends within the step leaves batches that trained nothing. Where all effective weights are 0, or the
    update scale is, the student stays as it is: parameters, moments, running scales and the optimiser's step count.

    Args:
        problem: the problem.
        state: of N replicas.
        effect: of their actions.
        scratch: buffers of the size of the students, filled here.
    """
    config = problem.config
    weights = normalize_weights(effect.weights, problem.present, config.weight_normalization)
    step = _Step(
        effect,
        upload(weights, problem.device, problem.dtype),
        {name: upload(values, problem.device, problem.dtype) for name, values in (effect.given or {}).items()},
        (weights != 0).any(axis=(1, 2, 3)) & (effect.update_scale > 0),
        np.minimum(config.updates_per_step, state.budget - state.updates),
    )
    before = _copied(state.params, scratch) if step.moves.any() else {}
    raw, scaled = torch.zeros_like(state.term_scale), torch.zeros_like(state.term_scale)
    cosines = upload(state.cosines, problem.device, problem.dtype)
    broken_at: list[Tensor] = []
    begin = (state.updates, state.next_rows)
    for place in range(int(step.spend.max())):
        state, result = _update_on_batch(problem, state, step, place)
        raw, scaled = raw + result.raw, scaled + result.scaled
        if result.cosines is not None:
            keep = upload((place < step.spend) & step.moves, problem.device)
            cosines = torch.where(keep[:, None, None], result.cosines, cosines)
        broken_at.append(result.broken)
    count = upload(np.maximum(step.spend, 1), problem.device)[:, None, None]
    norms = _distance(before, state.params) if before else torch.zeros(len(weights), device=problem.device)
    means = ((raw / count).float(), (scaled / count).float())
    record = Record(HostCopy(*means, cosines.float(), norms.float(), torch.stack(broken_at)), step.moves, *begin)
    state = state._replace(
        weights=weights.mean(-1),
        update_scale=effect.update_scale,
        skipped=~step.moves,
        given={name: np.asarray((effect.given or state.given)[name], np.float64) for name in state.given},
        diverged=np.zeros(len(weights), bool),
    )
    return _with_last_batch(problem, state, effect, weights, step.spend), record


def with_record(state: DistillState, before: DistillState, record: Record) -> DistillState:
    """An evaluated state with what its updates found.

    Args:
        state: of N replicas.
        before: the same before its evaluation, which does not count for students that were lost in an update.
        record: of the updates.
    """
    raw_losses, scaled_losses, cosines, norms, broken = record.values.arrays()
    diverged = np.asarray(broken.any(0))
    for index in np.flatnonzero(diverged).tolist():
        place = int(broken[:, index].argmax())
        logger.warning(
            "Replica %d diverged: the loss or its gradient is not finite in update %d, train rows %s.",
            index,
            record.updates[index] + place,
            record.rows[index, place].tolist(),
        )
    if diverged.any():
        state = state._replace(
            **{name: np.where(diverged, getattr(before, name), getattr(state, name)) for name in Evaluation._fields}
        )
    return state._replace(
        raw_losses=raw_losses,
        scaled_losses=scaled_losses,
        cosines=cosines,
        update_norm=np.where(record.moves, norms, 0.0).astype(np.float32),
        diverged=state.diverged | diverged,
    )


def _update_on_batch(problem: Problem, state: DistillState, step: _Step, place: int) -> tuple[DistillState, _Update]:
    """One update, of the batch at ``place`` of the step."""
    optimizer = problem.config.optimizer_config
    rows, active = state.next_rows[:, place], place < step.spend
    apply = active & step.moves
    factor, scale = optim.learning_rate_factor(state.updates, state.budget, optimizer.warmup), step.effect.update_scale
    state, teacher_broken, student = _teach(problem, state, step, rows, active, factor * scale)
    update_batch = problem.objective.batch(problem, state, rows)
    dropout = DROPOUT if problem.assets.reader is None else MASKED_DROPOUT
    compute = gradients_in_parts if in_parts(problem) else gradients.gradients
    student_gradients = compute(
        problem,
        state.params,
        update_batch,
        step.weights,
        state.term_scale,
        state.term_seen,
        teacher=state.teacher,
        forward_pass=student,
        given=step.given,
        differentiate=bool(apply.any()),
        dropout_seed=sub_seed(int(state.seeds[0]), dropout + int(state.updates[0])),
    )
    mask = upload(active, problem.device)[:, None, None]
    broken = ~torch.isfinite(student_gradients.loss) | teacher_broken
    if apply.any():
        norm = optim.gradient_norm(student_gradients.grads)
        keep = upload(apply, problem.device)
        broken = broken | (~torch.isfinite(norm) & keep)
        optim.clip_(student_gradients.grads, norm, optimizer.max_grad_norm)
        optim.adamw_(
            state.params,
            student_gradients.grads,
            state.exp_avg,
            state.exp_avg_sq,
            steps=state.optimizer_steps,
            learning_rates=optimizer.rate * factor * scale,
            apply=apply,
            non_finite=broken.float(),
            config=optimizer,
            block=step.effect.block,
        )
        # An update that is not applied leaves the running scale as it was, too: a skip changes nothing.
        state = state._replace(
            optimizer_steps=state.optimizer_steps + apply,
            term_scale=torch.where(keep[:, None, None], student_gradients.term_scale, state.term_scale),
            term_seen=state.term_seen + keep.to(state.term_seen.dtype),
        )
    cosines = student_gradients.cosines if apply.any() else None
    result = _Update(student_gradients.raw * mask, student_gradients.scaled * mask, cosines, broken & mask[:, 0, 0])
    state = state._replace(updates=state.updates + active)
    outputs = trees.map_leaves(Tensor.detach, student_gradients.student)
    heard = StudentUpdate(update_batch, student_gradients.teachers, outputs, result.broken)
    return problem.decision.updated(problem, state, heard), result


def _teach(
    problem: Problem, state: DistillState, step: _Step, rows: np.ndarray, active: np.ndarray, factor: np.ndarray
) -> tuple[DistillState, Tensor, passes.StudentPass | None]:
    """The teacher's update, before the student's, who then learns from what the teacher says afterwards.

    Also where it was not finite ``[N]``, and the students' pass on these rows where it was made.
    """
    student = passes.kept_pass(problem, state.params, rows) if passes.is_shared(problem) else None
    if state.teacher is None:
        return state, torch.zeros(len(active), dtype=torch.bool, device=problem.device), student
    if student is None and passes.is_shared(problem):  # else the real update has a pass of its own
        student = passes.student_pass(problem, state.params, problem.train.gather(rows))
    teacher, teacher_broken = learning_teacher.teach(
        problem,
        state,
        rows,
        step.effect.teacher,
        student_weights=step.weights,
        active=active,
        factor=factor,
        forward_pass=student,
        dropout_seed=sub_seed(int(state.seeds[0]), TEACHER + 1 + int(state.updates[0])),
    )
    return state._replace(teacher=teacher), teacher_broken, student


def _with_last_batch(
    problem: Problem, state: DistillState, effect: Effect, weights: np.ndarray, spend: np.ndarray
) -> DistillState:
    """What the state keeps of the step's last batch: rows, their weights, and the updated student's losses on them."""
    if problem.config.teacher_updates == "weighted" and effect.teacher is not None:
        weights = effect.teacher.weights[:, None, None]  # what the action said of the rows
    rows = state.next_rows[np.arange(len(spend)), np.maximum(spend, 1) - 1]
    if per_row := problem.decision.weights_per_row:
        shape = (len(rows), per_row, rows.shape[1])
        row_weights = np.broadcast_to(problem.decision.row_weights(weights), shape).copy()
        state = state._replace(last_rows=rows.copy(), row_weights=row_weights)
    if problem.config.reward in rewards.BATCH_REWARDS:
        loss, divergence = gradients.batch_losses(problem, state, rows, weights)
        state = state._replace(batch_loss=loss, batch_divergence=divergence)
    return state


def _copied(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """``params`` copied into ``buffers``, which are made where they are missing."""
    for name, value in params.items():
        if name not in buffers:
            buffers[name] = torch.empty_like(value)
    torch._foreach_copy_([buffers[name] for name in params], list(params.values()))
    return buffers


def _distance(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """Norm of the change of each replica, ``[N]``; overwrites ``before``."""
    torch._foreach_sub_(list(before.values()), [after[name] for name in before])
    return optim.gradient_norm(before)
