"""The decision process as pure functions: initial, transition, reward, terminal (observation:
``observations.observe``).

Named as in Gymnasium's ``FuncEnv``. All of them work on N replicas at once; a single environment is N = 1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_env.data.tables import draw, start_stream
from kd_env.mdp import gradients, passes, rewards, teaching
from kd_env.mdp.episodes import bounded, sub_seed, terminal, truncated
from kd_env.mdp.feedback import evaluate, evaluated
from kd_env.mdp.gradients import normalize_weights
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect
from kd_env.models.encoder import draw_projection
from kd_env.numerics import optim

logger = logging.getLogger("kd_env")

_TEACHER = 2**40
"""Stream of a learning teacher's head, and after it those of its dropout in single updates; of the student's dropout
they are counted from 3."""


def initial(problem: Problem, seeds: Sequence[int], budgets: Sequence[int]) -> DistillState:
    """The start of one episode per seed, a function of it: fresh student, first batches, first evaluation."""
    count, config = len(seeds), problem.config
    students = [problem.student.initial(sub_seed(seed, 0)) for seed in seeds]
    params = {name: torch.stack([student[name] for student in students]) for name in problem.student.trainable}
    generators = [torch.Generator().manual_seed(sub_seed(seed, 1)) for seed in seeds]
    for name, shape in problem.assets.projections.items():
        drawn = torch.stack([draw_projection(shape, generator) for generator in generators])
        params[name] = drawn.to(problem.device, problem.dtype)
    streams = np.empty(count, dtype=object)
    next_rows = np.empty((count, config.updates_per_step, config.batch_size), dtype=np.int64)
    for index, seed in enumerate(seeds):
        stream = start_stream(problem.buckets, sub_seed(seed, 2))
        next_rows[index], streams[index] = draw(problem.buckets, stream, config.updates_per_step)
    teacher = teaching.begin(problem, [sub_seed(seed, _TEACHER) for seed in seeds]) if config.teacher_learns else None
    measured = evaluate(problem, params, teacher)
    scale, _ = rewards.gap_scale(measured.loss, problem.teacher_loss)
    table = (count, *problem.present.shape)
    pairs = len(problem.term_names) if problem.wants_cosines else 0
    per_row = problem.decision.weights_per_row
    addressed = config.batch_size if per_row else 0
    return DistillState(
        params=params,
        exp_avg={name: torch.zeros_like(p) for name, p in params.items()},
        exp_avg_sq={name: torch.zeros_like(p) for name, p in params.items()},
        optimizer_steps=np.zeros(count, np.int64),
        term_scale=torch.zeros(table, dtype=problem.dtype, device=problem.device),
        term_seen=torch.zeros(count, dtype=problem.dtype, device=problem.device),
        streams=streams,
        next_rows=next_rows,
        seeds=np.asarray(seeds, np.int64),
        updates=np.zeros(count, np.int64),
        budget=np.asarray(budgets, np.int64),
        steps=np.zeros(count, np.int64),
        loss_reset=measured.loss,
        gap_scale=scale,
        loss=measured.loss,
        raw_loss=measured.raw_loss,
        temperature=measured.temperature,
        metric=measured.metric,
        entropy=measured.entropy,
        agreement=measured.agreement,
        returns=np.zeros(count),
        diverged=np.zeros(count, bool),
        raw_losses=np.zeros(table, np.float32),
        scaled_losses=np.zeros(table, np.float32),
        cosines=np.zeros((count, pairs, pairs), np.float32),
        weights=np.zeros(table, np.float32),
        update_scale=np.zeros(count, np.float32),
        update_norm=np.zeros(count, np.float32),
        skipped=np.zeros(count, bool),
        last_rows=np.zeros((count, addressed), np.int64),
        row_weights=np.zeros((count, per_row, addressed), np.float32),
        batch_loss=np.zeros(count),
        batch_divergence=np.zeros(count),
        given={name: np.zeros(count) for name in problem.decision.given_names},
        teacher=teacher,
    )


def transition(
    problem: Problem, state: DistillState, effect: Effect, scratch: dict[str, Tensor] | None = None
) -> DistillState:
    """One step: student updates on the drawn batches, next batches, evaluation. Takes ``state`` over (tensors in
    place).

    Rewards are not part of it: :func:`reward` compares the two states, and :func:`credit` adds them to the return.

    Args:
        problem: the problem.
        state: of N replicas.
        effect: of their actions.
        scratch: buffers that calls may share, filled here; without them every step asks the system for memory of the
            size of the students again.
    """
    config = problem.config
    weights = normalize_weights(effect.weights, problem.present, config.weight_normalization)
    moves = (weights != 0).any(axis=(1, 2, 3)) & (effect.update_scale > 0)
    spend = np.minimum(config.updates_per_step, state.budget - state.updates)
    device_weights = torch.as_tensor(weights, dtype=problem.dtype, device=problem.device)
    given = {n: torch.as_tensor(v, dtype=problem.dtype, device=problem.device) for n, v in (effect.given or {}).items()}
    before = _copied(state.params, {} if scratch is None else scratch) if moves.any() else {}
    applied = np.zeros(len(moves), np.int64)
    raw, scaled = torch.zeros_like(state.term_scale), torch.zeros_like(state.term_scale)
    cosines = torch.as_tensor(state.cosines, device=problem.device, dtype=problem.dtype)
    bad = torch.zeros(len(moves), device=problem.device)
    bad_at: list[Tensor] = []
    term_scale, term_seen = state.term_scale, state.term_seen
    teacher = state.teacher
    for place in range(int(spend.max())):
        active = place < spend
        apply = active & moves
        factor = optim.learning_rate_factor(state.updates + place, state.budget, config.optimizer_config.warmup)
        lost = torch.zeros(len(moves), dtype=torch.bool, device=problem.device)
        known: passes.StudentPass | None = None
        if teacher is not None:  # before the student, who then learns from what the teacher says afterwards
            rows = state.next_rows[:, place]
            if config.student_config.dropout == 0:  # with dropout the real update has a pass of its own
                known = passes.student_pass(problem, state.params, problem.train.gather(rows))
            now = state._replace(
                teacher=teacher,
                optimizer_steps=state.optimizer_steps + applied,
                term_scale=term_scale,
                term_seen=term_seen,
                updates=state.updates + place,
            )
            teacher, lost = teaching.teach(
                problem,
                now,
                rows,
                effect.teacher,
                student_weights=device_weights,
                active=active,
                factor=factor * effect.update_scale,
                known=known,
                dropout_seed=sub_seed(int(state.seeds[0]), _TEACHER + 1 + int(state.updates[0]) + place),
            )
        found = gradients.gradients(
            problem,
            state.params,
            state.next_rows[:, place],
            device_weights,
            term_scale,
            term_seen,
            teacher=teacher,
            known=known,
            given=given,
            differentiate=bool(apply.any()),
            dropout_seed=sub_seed(int(state.seeds[0]), 3 + int(state.updates[0]) + place),
        )
        mask = torch.as_tensor(active, device=problem.device)[:, None, None]
        raw, scaled = raw + found.raw * mask, scaled + found.scaled * mask
        broken = ~torch.isfinite(found.loss) | lost
        if apply.any():
            norm = optim.gradient_norm(found.grads)
            keep = torch.as_tensor(apply, device=problem.device)
            broken = broken | (~torch.isfinite(norm) & keep)
            optim.clip_(found.grads, norm, config.optimizer_config.max_grad_norm)
            optim.adamw_(
                state.params,
                found.grads,
                state.exp_avg,
                state.exp_avg_sq,
                steps=state.optimizer_steps + applied,
                learning_rates=config.optimizer_config.rate * factor * effect.update_scale,
                apply=apply,
                non_finite=broken.float(),
                config=config.optimizer_config,
            )
            applied = applied + apply
            # An update that is not applied leaves the running scale as it was, too: a skip changes nothing.
            term_scale = torch.where(keep[:, None, None], found.term_scale, term_scale)
            term_seen = term_seen + keep.to(term_seen.dtype)
            cosines = torch.where(keep[:, None, None], found.cosines, cosines)
        bad_at.append(broken & mask[:, 0, 0])
        bad = torch.maximum(bad, bad_at[-1].float())
        # Else two sets of gradients are alive, and the allocator gives memory back and asks for it again.
        del found, known
    count = torch.as_tensor(np.maximum(spend, 1), device=problem.device)[:, None, None]
    norms = _distance(before, state.params) if before else torch.zeros(len(moves), device=problem.device)
    diverged = bad.cpu().numpy() > 0
    state = state._replace(
        optimizer_steps=state.optimizer_steps + applied,
        term_scale=term_scale,
        term_seen=term_seen,
        updates=state.updates + spend,
        steps=state.steps + 1,
        raw_losses=(raw / count).float().cpu().numpy(),
        scaled_losses=(scaled / count).float().cpu().numpy(),
        cosines=cosines.float().cpu().numpy(),
        weights=weights.mean(-1),
        update_scale=effect.update_scale,
        update_norm=np.where(moves, norms.float().cpu().numpy(), 0.0).astype(np.float32),
        skipped=~moves,
        given={name: np.asarray((effect.given or state.given)[name], np.float64) for name in state.given},
        teacher=teacher,
    )
    if problem.config.teacher_updates == "weighted" and effect.teacher is not None:
        weights = effect.teacher.weights[:, None, None]  # what the action said of the rows
    last: dict[str, Any] = _of_last_batch(problem, state, weights, spend)
    state = state._replace(**last)
    for index in np.flatnonzero(diverged):
        _report(state, int(index), int(spend[index]), [bool(flags[index]) for flags in bad_at])
    streams, next_rows = state.streams.copy(), state.next_rows.copy()
    for place, stream in enumerate(state.streams):
        next_rows[place], streams[place] = draw(problem.buckets, stream, config.updates_per_step)
    state = state._replace(streams=streams, next_rows=next_rows, diverged=diverged)
    return evaluated(problem, state)


def _of_last_batch(
    problem: Problem, state: DistillState, weights: np.ndarray, spend: np.ndarray
) -> dict[str, np.ndarray]:
    """What the state keeps of the step's last batch: rows, their weights, and the updated student's losses on them."""
    found: dict[str, np.ndarray] = {}
    # A budget that ends within the step leaves batches that were drawn and trained nothing.
    rows = state.next_rows[np.arange(len(spend)), np.maximum(spend, 1) - 1]
    if per_row := problem.decision.weights_per_row:
        found["last_rows"] = rows.copy()
        shape = (len(rows), per_row, rows.shape[1])
        found["row_weights"] = np.broadcast_to(problem.decision.row_weights(weights), shape).copy()
    if problem.config.reward in rewards.BATCH_REWARDS:
        found["batch_loss"], found["batch_divergence"] = gradients.batch_losses(problem, state, rows, weights)
    return found


def reward(problem: Problem, before: DistillState, after: DistillState) -> tuple[np.ndarray, np.ndarray]:
    """Reward of the step between two states, ``[N]`` float64 within its bounds, and whether it was clipped.

    The bounds are [-2, 2], or what the reward states itself (``rewards.bounded_by``). For a divergence see
    :func:`kd_env.mdp.episodes.bounded`.
    """
    value = problem.reward(
        rewards.RewardInputs(
            loss_before=before.loss,
            loss_after=after.loss,
            gap_scale=after.gap_scale,
            metric_before=before.metric,
            metric_after=after.metric,
            ended=terminal(after) | truncated(problem.config.max_episode_steps, after),
            batch_loss=after.batch_loss,
            batch_divergence=after.batch_divergence,
            raw_loss_before=before.raw_loss,
            raw_loss_after=after.raw_loss,
        )
    )
    return bounded(value, before, after, rewards.bounds_of(problem.reward))


def _copied(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """``params`` copied into ``buffers``, which are made where they are missing."""
    for name, value in params.items():
        if name not in buffers:
            buffers[name] = torch.empty_like(value)
        buffers[name].copy_(value)
    return buffers


def _distance(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """Norm of the change of each replica, ``[N]``; overwrites ``before``."""
    return optim.gradient_norm({name: old.sub_(after[name]) for name, old in before.items()})


def _report(state: DistillState, replica: int, spent: int, flags: list[bool]) -> None:
    place = flags.index(True)
    logger.warning(
        "Replica %d diverged: the loss or its gradient is not finite in update %d, train rows %s.",
        replica,
        state.updates[replica] - spent + place,
        state.next_rows[replica, place].tolist(),
    )
