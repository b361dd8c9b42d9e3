"""The decision process as pure functions: initial, transition, reward, terminal (observation: ``observe``).

One update is: masked text -> the teacher reads it -> tokens are chosen for the slots -> the teacher reads the edited
text -> the student is updated on it -> the next masked text. With ``mode=joint`` that is one step, with
``mode=sequential`` as many as there are slots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.data.tables import draw, start_stream
from kd_env.decisions.tutor_token import reading
from kd_env.decisions.tutor_token.actions import Choices
from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.decisions.tutor_token.state import SlotView, TokenRewards, TutorState
from kd_env.mdp import rewards
from kd_env.mdp.episodes import bounded, sub_seed, terminal, truncated
from kd_env.models.encoder import draw_projection
from kd_env.numerics import optim

logger = logging.getLogger("kd_env")

# Purposes of the random streams of an episode.
_STUDENT, _PROJECTION, _ORDER, _MASKS, _CHOICES, _DROPOUT = range(6)  # dropout: one more for every update


def initial(problem: TutorProblem, seeds: Sequence[int], budgets: Sequence[int]) -> TutorState:
    """The start of one episode per seed, a function of it: fresh student, first masked batch, first evaluation."""
    count, config = len(seeds), problem.config
    students = [problem.student.initial(sub_seed(seed, _STUDENT)) for seed in seeds]
    params = {name: torch.stack([student[name] for student in students]) for name in problem.student.trainable}
    if problem.projection is not None:
        generators = [torch.Generator().manual_seed(sub_seed(seed, _PROJECTION)) for seed in seeds]
        drawn = torch.stack([draw_projection(problem.projection, generator) for generator in generators])
        params[reading.PROJECTION] = drawn.to(problem.device, problem.dtype)
    streams = np.empty(count, dtype=object)
    for index, seed in enumerate(seeds):
        streams[index] = start_stream(problem.buckets, sub_seed(seed, _ORDER))
    loss = problem.lesson.evaluate(problem, params)
    scale, _ = rewards.gap_scale(loss, problem.loss_floor)
    shape = (count, config.batch_size, problem.slots)
    zeros = TokenRewards(*(np.zeros(shape, np.float32) for _ in TokenRewards._fields))
    blank = SlotView(*(torch.empty(0, device=problem.device) for _ in SlotView._fields))
    state = TutorState(
        params=params,
        exp_avg={name: torch.zeros_like(p) for name, p in params.items()},
        exp_avg_sq={name: torch.zeros_like(p) for name, p in params.items()},
        optimizer_steps=np.zeros(count, np.int64),
        streams=streams,
        rows=np.zeros(shape[:2], np.int64),
        positions=np.zeros(shape, np.int64),
        valid=np.zeros(shape, bool),
        masked=np.zeros(shape, np.int64),
        dropped=np.zeros(count, np.int64),
        base=blank,
        view=blank,
        chosen=np.full(shape, -1, np.int64),
        filled=np.zeros(count, np.int64),
        seeds=np.asarray(seeds, np.int64),
        updates=np.zeros(count, np.int64),
        budget=np.asarray(budgets, np.int64),
        steps=np.zeros(count, np.int64),
        loss_reset=loss,
        gap_scale=scale,
        loss=loss,
        returns=np.zeros(count),
        diverged=np.zeros(count, bool),
        updated=np.zeros(count, bool),
        losses=np.zeros((count, len(problem.loss_names)), np.float32),
        update_norm=np.zeros(count, np.float32),
        tokens=np.zeros(shape, np.int64),
        originals=np.zeros(shape, np.int64),
        token_rewards=zeros,
    )
    return _next_text(problem, state)


def choices(problem: TutorProblem, state: TutorState) -> Choices:
    """What the next action may refer to: every slot, or with ``mode=sequential`` the next one."""
    purposes = [sub_seed(int(seed), _CHOICES) for seed in state.seeds]
    done = zip(purposes, state.updates.tolist(), state.filled.tolist(), strict=True)
    parts = [
        state.view.candidates.cpu().numpy(),
        state.view.log_candidates.float().cpu().numpy(),
        originals(problem, state.rows, state.positions),
    ]
    if problem.config.mode == "sequential":
        replicas = np.arange(len(state.seeds))
        parts = [part[replicas, :, state.filled][:, :, None] for part in parts]
    return Choices(parts[0], parts[1], parts[2], [list(own) for own in done])


def transition(problem: TutorProblem, state: TutorState, tokens: np.ndarray) -> TutorState:
    """One step: the tokens are written, and where every slot is filled the student is updated on the edited text.

    Args:
        problem: the problem.
        state: of N replicas, taken over (students in place).
        tokens: ``[N, B, Q]`` tokens of the slots of this step: all, or the next one.
    """
    count = len(state.seeds)
    state = state._replace(steps=state.steps + 1, updated=np.zeros(count, bool))
    if problem.config.mode == "joint":
        return _complete(problem, state._replace(chosen=tokens))
    chosen = state.chosen.copy()
    chosen[np.arange(count), :, state.filled] = tokens[:, :, 0]
    state = state._replace(chosen=chosen, filled=state.filled + 1)
    # Replicas are out of step where one was truncated in the middle of a text.
    full = state.filled == problem.slots
    state = _in_rows(state, np.flatnonzero(full), lambda part: _complete(problem, part))
    # An episode that is cut off in the middle of a text is evaluated at its end, too.
    cut_off = truncated(problem.config.max_episode_steps, state) & ~full
    state = _in_rows(state, np.flatnonzero(cut_off), lambda part: _evaluated(problem, part))
    again = ~full & (state.filled % problem.config.teacher_every == 0)
    return _in_rows(state, np.flatnonzero(again), lambda part: _read_again(problem, part))


def _in_rows(state: TutorState, rows: np.ndarray, change: Callable[[TutorState], TutorState]) -> TutorState:
    """``change`` some replicas; all at once where they are all."""
    if not len(rows):
        return state
    if len(rows) == len(state.seeds):
        return change(state)
    return trees.set_rows(trees.copy_arrays(state), rows, change(trees.take(state, rows)))


def _complete(problem: TutorProblem, state: TutorState) -> TutorState:
    return _next_text(problem, _evaluated(problem, _updated(problem, state)))


def _updated(problem: TutorProblem, state: TutorState) -> TutorState:
    """One update of every student on the text with its chosen tokens."""
    config, count = problem.config, len(state.seeds)
    slots = (state.rows, state.positions, state.valid)
    dropout_seed = sub_seed(int(state.seeds[0]), _DROPOUT + int(state.updates[0]))
    found = reading.update(problem, state.params, *slots, state.base, state.chosen, dropout_seed)
    norm = optim.gradient_norm(found.grads)
    broken = ~(torch.isfinite(found.total) & torch.isfinite(norm))
    optim.clip_(found.grads, norm, config.optimizer_config.max_grad_norm)
    before = {name: p.clone() for name, p in state.params.items()}
    optim.adamw_(
        state.params,
        found.grads,
        state.exp_avg,
        state.exp_avg_sq,
        steps=state.optimizer_steps,
        learning_rates=config.optimizer_config.rate
        * optim.learning_rate_factor(state.updates, state.budget, config.optimizer_config.warmup),
        apply=np.ones(count, bool),
        non_finite=broken.float(),
        config=config.optimizer_config,
    )
    moved = optim.gradient_norm({name: old.sub_(state.params[name]) for name, old in before.items()})
    before_edit = originals(problem, state.rows, state.positions)
    diverged = broken.cpu().numpy()
    for replica in np.flatnonzero(diverged):
        logger.warning(
            "Replica %d diverged: the loss or its gradient is not finite in update %d, train rows %s.",
            replica,
            state.updates[replica],
            state.rows[replica].tolist(),
        )
    return state._replace(
        optimizer_steps=state.optimizer_steps + ~diverged,
        updates=state.updates + 1,
        diverged=diverged,
        updated=np.ones(count, bool),
        losses=found.losses.float().cpu().numpy(),
        update_norm=moved.float().cpu().numpy(),
        tokens=np.where(state.valid, state.chosen, before_edit),
        originals=before_edit,
        # A student that diverged has errors that are no numbers.
        token_rewards=TokenRewards(*(np.where(diverged[:, None, None], 0.0, part) for part in found.rewards)),
    )


def _evaluated(problem: TutorProblem, state: TutorState) -> TutorState:
    """Evaluate after an update, where it is due; a student whose loss is not finite has diverged."""
    every = problem.config.evaluate_every
    due = terminal(state) | truncated(problem.config.max_episode_steps, state)
    if every > 0:
        due |= state.updates % every == 0
    due &= ~state.diverged
    rows = np.flatnonzero(due)
    if not len(rows):
        return state
    index = torch.as_tensor(rows, device=problem.device)
    part = state.params if due.all() else {name: p[index] for name, p in state.params.items()}
    measured = problem.lesson.evaluate(problem, part)
    finite = np.isfinite(measured)
    loss, diverged = state.loss.copy(), state.diverged.copy()
    loss[rows[finite]] = measured[finite]
    diverged[rows[~finite]] = True
    return state._replace(loss=loss, diverged=diverged)


def _next_text(problem: TutorProblem, state: TutorState) -> TutorState:
    """Draw and mask the next batch, and let the teacher read it."""
    config, count = problem.config, len(state.seeds)
    shape = (count, config.batch_size, problem.slots)
    streams, rows = state.streams.copy(), np.empty(shape[:2], np.int64)
    positions, valid = np.zeros(shape, np.int64), np.ones(shape, bool)
    masked, dropped = np.empty(shape, np.int64), np.zeros(count, np.int64)
    for index, stream in enumerate(state.streams):
        [rows[index]], streams[index] = draw(problem.buckets, stream, 1)
        rng = np.random.default_rng([sub_seed(int(state.seeds[index]), _MASKS), int(state.updates[index])])
        slots = problem.draw_slots(rows[index], rng)
        positions[index], valid[index], dropped[index] = slots.positions, slots.valid, slots.dropped
        masked[index] = slots.masked
    state = state._replace(
        streams=streams,
        rows=rows,
        positions=positions,
        valid=valid,
        masked=masked,
        dropped=dropped,
        chosen=np.full(shape, -1, np.int64),
        filled=np.zeros(count, np.int64),
    )
    base = reading.read(problem, *_masked_text(problem, state))
    # A copy: where single replicas read again, their rows of ``view`` are written in place.
    return state._replace(base=base, view=trees.copy(base) if problem.config.mode == "sequential" else base)


def _read_again(problem: TutorProblem, state: TutorState) -> TutorState:
    """Let the teacher read the text with what is filled so far."""
    return state._replace(view=reading.read(problem, *_masked_text(problem, state)))


def _masked_text(problem: TutorProblem, state: TutorState) -> tuple[Any, Tensor]:
    """The text with its masks and what is filled so far, and the places of the slots on the device."""
    device = problem.device
    places, there = torch.as_tensor(state.positions, device=device), torch.as_tensor(state.valid, device=device)
    written = torch.as_tensor(np.where(state.chosen >= 0, state.chosen, state.masked), device=device)
    return reading.edited(problem.train.gather(state.rows), places, there, written), places


def masked_ids(problem: TutorProblem, state: TutorState) -> np.ndarray:
    """Token ids of the text with its masks and what is filled so far, ``[N, B, S]`` int64, S the longest row of all."""
    ids: np.ndarray = problem.host_ids[state.rows].astype(np.int64)
    written = np.where(state.chosen >= 0, state.chosen, state.masked)
    here = np.take_along_axis(ids, state.positions, axis=-1)
    np.put_along_axis(ids, state.positions, np.where(state.valid, written, here), axis=-1)
    return ids


def originals(problem: TutorProblem, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Tokens of the text at ``positions [N, B, P]`` of train rows ``[N, B]``."""
    return np.asarray(np.take_along_axis(problem.host_ids[rows], positions, axis=-1), np.int64)


def reward(problem: TutorProblem, before: TutorState, after: TutorState) -> tuple[np.ndarray, np.ndarray]:
    """Reward of the step between two states, ``[N]`` float64 in [-2, 2], and whether it was clipped.

    Per-token rewards are averaged over the valid slots, and 0 before a text is complete. A divergence brings the return
    to ``min(return so far, 0) - 1``.
    """
    return bounded(_value(problem, before, after), before, after)


def _value(problem: TutorProblem, before: TutorState, after: TutorState) -> np.ndarray:
    return REWARDS[problem.config.reward](before, after)


def _mean_over_slots(before: TutorState, after: TutorState, *names: str) -> np.ndarray:
    """The sum of some per-token rewards, averaged over the slots; 0 before a text is complete."""
    values = sum(getattr(after.token_rewards, name) for name in names)
    # Slots that are not valid hold 0; they are not counted either. ``before`` holds the slots that were filled.
    count = np.maximum(before.valid.sum((1, 2)), 1)
    return np.where(after.updated, np.asarray(values).astype(np.float64).sum((1, 2)) / count, 0.0)


REWARDS: Mapping[str, Callable[[TutorState, TutorState], np.ndarray]] = MappingProxyType(
    {
        "tutor": lambda before, after: _mean_over_slots(before, after, "teacher_recognises", "student_error"),
        "teacher_recognises": lambda before, after: _mean_over_slots(before, after, "teacher_recognises"),
        "student_error": lambda before, after: _mean_over_slots(before, after, "student_error"),
        "gap_closed": lambda before, after: np.asarray((before.loss - after.loss) / after.gap_scale),
        "loss_drop": lambda before, after: np.asarray(before.loss - after.loss),
    }
)
"""Rewards of a step between two states ``[N]``, by name."""
