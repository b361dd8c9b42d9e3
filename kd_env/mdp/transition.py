"""The decision process as pure functions: initial, transition, reward, terminal (observation:
``observations.observe``).

Named as in Gymnasium's ``FuncEnv``. All of them work on N replicas at once; a single environment is N = 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.data.tables import draw, start_stream
from kd_env.mdp import rewards
from kd_env.mdp.episodes import bounded, sub_seed, terminal, truncated
from kd_env.mdp.objectives.samples import before_update, estimate, evaluated_part
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect
from kd_env.mdp.teaching import learning_teacher
from kd_env.mdp.update import TEACHER, update, with_record

logger = logging.getLogger("kd_env")


def initial(problem: Problem, seeds: Sequence[int], budgets: Sequence[int]) -> DistillState:
    """The start of one episode per seed, a function of it: fresh student, first batches, first evaluation."""
    count, config = len(seeds), problem.config
    students = [problem.student.initial(sub_seed(seed, 0)) for seed in seeds]
    params = {name: torch.stack([student[name] for student in students]) for name in problem.student.trainable}
    generators = [torch.Generator().manual_seed(sub_seed(seed, 1)) for seed in seeds]
    for name, shape in problem.assets.projections.items():
        projections = torch.stack([_draw_projection(shape, generator) for generator in generators])
        params[name] = projections.to(problem.device, problem.dtype)
    streams = np.empty(count, dtype=object)
    next_rows = np.empty((count, config.updates_per_step, config.batch_size), dtype=np.int64)
    for index, seed in enumerate(seeds):
        stream = start_stream(problem.buckets, sub_seed(seed, 2))
        next_rows[index], streams[index] = draw(problem.buckets, stream, config.updates_per_step)
    teacher = (
        learning_teacher.begin(problem, [sub_seed(seed, TEACHER) for seed in seeds]) if config.teacher_learns else None
    )
    measured = problem.objective.evaluate(problem, params, teacher)
    loss_reset = problem.objective.reset_loss(
        problem, measured.loss, problem.feedback, problem.reference.feedback_logits
    )
    scale, _ = rewards.gap_scale(loss_reset, problem.teacher_loss)
    table = (count, *problem.present.shape)
    pairs = len(problem.term_names) if problem.wants_cosines else 0
    per_row = problem.decision.weights_per_row
    addressed = config.batch_size if per_row else 0
    state = DistillState(
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
        loss_reset=loss_reset,
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
        given=problem.decision.nothing_given(count, config.batch_size),
        teacher=teacher,
        sampled=measured if config.evaluation_sample is not None and config.sample_paired else None,
    )
    return problem.decision.prepare(problem, state)


def transition(
    problem: Problem, state: DistillState, effect: Effect, scratch: dict[str, Tensor] | None = None
) -> DistillState:
    """One step: student updates on the drawn batches, next batches, evaluation. Takes ``state`` over (tensors in
    place).

    Replicas that are not ready (``effect.ready``: a text that is filled slot by slot) keep batch and student. Rewards
    are not part of it: :func:`reward` compares the two states, and :func:`credit` adds them to the return.

    Args:
        problem: the problem.
        state: of N replicas.
        effect: of their actions.
        scratch: buffers that calls may share, filled here; without them every step asks the system for memory of the
            size of the students again.
    """
    state = state._replace(steps=state.steps + 1)
    if effect.decision_state is not None:
        state = state._replace(decision_state=effect.decision_state)
        effect = effect._replace(decision_state=None)
    buffers = {} if scratch is None else scratch
    if effect.ready is None or effect.ready.all():
        return _whole(problem, state, effect, buffers)
    ready = effect.ready
    waiting = ~ready
    # Replicas are out of step where one was cut off in the middle of a text. Buffers are of all students.
    state = _in_rows(state, ready, lambda part: _whole(problem, part, trees.take(effect, np.flatnonzero(ready)), {}))
    # An episode that is cut off there is evaluated at its end, too.
    cut_off = waiting & truncated(problem.config.max_episode_steps, state)
    state = _in_rows(state, cut_off, lambda part: _evaluated(problem, part))
    return _in_rows(state, waiting, lambda part: problem.decision.proceed(problem, part))


def _whole(problem: Problem, state: DistillState, effect: Effect, scratch: dict[str, Tensor]) -> DistillState:
    """Update, next batches, evaluation."""
    state = before_update(problem, state)
    state, record = update(problem, state, effect, scratch)
    state = problem.decision.prepare(problem, _next_batches(problem, state))
    return with_record(_evaluated(problem, state), state, record)


def _in_rows(state: DistillState, chosen: np.ndarray, change: Callable[[DistillState], DistillState]) -> DistillState:
    """``change`` the chosen replicas ``[N]``; all at once where they are all."""
    if not chosen.any():
        return state
    if chosen.all():
        return change(state)
    rows = np.flatnonzero(chosen)
    return trees.set_rows(trees.copy_arrays(state), rows, change(trees.take(state, rows)))


def _next_batches(problem: Problem, state: DistillState) -> DistillState:
    streams, next_rows = state.streams.copy(), state.next_rows.copy()
    for place, stream in enumerate(state.streams):
        next_rows[place], streams[place] = draw(problem.buckets, stream, problem.config.updates_per_step)
    return state._replace(streams=streams, next_rows=next_rows)


def _evaluated(problem: Problem, state: DistillState) -> DistillState:
    """Evaluate the replicas that are due; the others keep what they had."""
    every, ended = problem.config.evaluate_every, terminal(state) | truncated(problem.config.max_episode_steps, state)
    due = ended | (every > 0 and state.updates % (every * problem.config.updates_per_step) == 0)
    if problem.config.evaluation_sample is None:
        return _measured(problem, state, due, _on_all_rows)
    return _measured(problem, _measured(problem, state, ended, _on_all_rows), ~ended, estimate)


def _on_all_rows(problem: Problem, state: DistillState) -> Mapping[str, Any]:
    return problem.objective.evaluate(problem, state.params, state.teacher)._asdict()


def _measured(
    problem: Problem,
    state: DistillState,
    due: np.ndarray,
    measure: Callable[[Problem, DistillState], Mapping[str, Any]],
) -> DistillState:
    """The state with the fields that ``measure`` gives of the replicas that are ``due [N]`` and have not diverged."""
    due = due & ~state.diverged
    if not due.any():
        return state
    rows = np.flatnonzero(due)
    measured = measure(problem, evaluated_part(state, rows))
    finite = np.isfinite(measured["loss"])
    good = rows[finite]
    diverged = state.diverged.copy()
    diverged[rows[~finite]] = True
    for bad in rows[~finite]:
        logger.warning("Replica %d: the feedback loss is not finite after update %d.", bad, state.updates[bad])
    values = {
        name: trees.set_rows(trees.copy(getattr(state, name)), good, trees.take(measurements, np.flatnonzero(finite)))
        for name, measurements in measured.items()
    }
    return state._replace(diverged=diverged, **values)


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
            scores=problem.decision.scores(before, after),
        )
    )
    return bounded(value, before, after, rewards.bounds_of(problem.reward))


def _draw_projection(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A map ``[out, in]`` that keeps the scale of its input: normal with variance 1 / in."""
    return torch.empty(shape).normal_(0.0, 1.0 / math.sqrt(shape[1]), generator=generator)
