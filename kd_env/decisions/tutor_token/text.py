"""The text that a tutor fills: masked and read, again as it fills, and as it is edited.

One update is: masked text -> the teacher reads it -> tokens are chosen for the slots -> the teacher reads the edited
text -> the student is updated on it -> the next masked text. With ``mode=joint`` that is one step, with
``mode=sequential`` as many as there are slots.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.core.trees import upload
from kd_env.core.types import Batch
from kd_env.decisions.tutor_token.state import TokenRewards, TokenState
from kd_env.knowledge import plausibility
from kd_env.mdp.episodes import sub_seed
from kd_env.mdp.objectives import reading
from kd_env.mdp.objectives.batches import Edit, StudentBatch, edited
from kd_env.mdp.objectives.text import MASKS, SAMPLES
from kd_env.mdp.passes import logits_of
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState


def next_text(problem: Problem, state: DistillState) -> TokenState:
    """The batch that is next, masked and read; what is kept of the last update stays."""
    rows, count = state.next_rows[:, 0], len(state.seeds)
    shape = (*rows.shape, problem.reader.slots)
    positions, valid = np.zeros(shape, np.int64), np.ones(shape, bool)
    masked, dropped = np.empty(shape, np.int64), np.zeros(count, np.int64)
    for index in range(count):
        rng = np.random.default_rng([sub_seed(int(state.seeds[index]), MASKS), int(state.updates[index])])
        slots = reading.train_slots(problem, rows[index], rng)
        positions[index], valid[index], dropped[index] = slots.positions, slots.valid, slots.dropped
        masked[index] = slots.masked
    places, there, written = (upload(array, problem.device) for array in (positions, valid, masked))
    base = reading.read(problem, edited(problem.train.gather(rows), places, there, written), places)
    kept: TokenState | None = state.decision_state
    if kept is None:
        zeros = TokenRewards(*(np.zeros(shape, np.float32) for _ in TokenRewards._fields))
        ids = np.zeros(shape, np.int64)
        last = (np.zeros(count, bool), np.zeros(count, np.int64), ids, ids, zeros)
    else:
        last = (kept.updated, kept.edited, kept.tokens, kept.originals, kept.rewards)
    return TokenState(
        positions=positions,
        valid=valid,
        masked=masked,
        dropped=dropped,
        base=base,
        # A copy: where single replicas read again, their rows of ``view`` are written in place.
        view=trees.copy(base) if problem.config.mode == "sequential" else base,
        chosen=np.full(shape, -1, np.int64),
        filled=np.zeros(count, np.int64),
        updated=last[0],
        edited=last[1],
        tokens=last[2],
        originals=last[3],
        rewards=last[4],
    )


def read_again(problem: Problem, state: DistillState) -> TokenState:
    """The teacher reads the text with what is filled so far."""
    kept: TokenState = state.decision_state
    device = problem.device
    written_tokens = np.where(kept.chosen >= 0, kept.chosen, kept.masked)
    places, there, written = (upload(array, device) for array in (kept.positions, kept.valid, written_tokens))
    batch = edited(problem.train.gather(state.next_rows[:, 0]), places, there, written)
    return kept._replace(view=reading.read(problem, batch, places))


def edit(problem: Problem, state: DistillState, tokens: Tensor) -> Edit:
    """What stands in the slots of the present batch where ``tokens [N, B, P]`` are chosen."""
    kept: TokenState = state.decision_state
    device = problem.device
    places, valid, masked = (upload(array, device) for array in (kept.positions, kept.valid, kept.masked))
    batch: Batch = problem.train.gather(state.next_rows[:, 0])
    return reading.written(problem, batch, places, valid, masked, kept.base, tokens.to(device))


def student_errors(problem: Problem, state: DistillState, tokens: Tensor) -> Tensor:
    """The reward ``student_error`` of N students for a choice ``[N, B, P]`` that is not made; 0 at unused slots.

    Without dropout.
    """
    rows, choice = state.next_rows[:, 0], edit(problem, state, tokens)
    batch = StudentBatch(rows, reading.with_edit(problem.train.gather(rows), choice), choice)
    with torch.no_grad():
        student = logits_of(problem, state.params, batch.batch)
        return torch.where(choice.valid, problem.objective.student_error(problem, batch, student, None), 0.0)


def plausibility_of(edit: Edit) -> Tensor:
    """``m`` of the chosen tokens, ``[N, B, P]``, says the reader."""
    return plausibility.plausibility(edit.log_original, edit.log_chosen)


def masked_ids(problem: Problem, state: DistillState) -> np.ndarray:
    """Token ids of the text with its masks and what is filled so far, ``[N, B, S]`` int64, S the longest row of all."""
    kept: TokenState = state.decision_state
    ids: np.ndarray = problem.reader.ids[state.next_rows[:, 0]].astype(np.int64)
    written = np.where(kept.chosen >= 0, kept.chosen, kept.masked)
    here = np.take_along_axis(ids, kept.positions, axis=-1)
    np.put_along_axis(ids, kept.positions, np.where(kept.valid, written, here), axis=-1)
    return ids


def originals(problem: Problem, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Tokens of the text at ``positions [N, B, P]`` of train rows ``[N, B]``."""
    return np.asarray(np.take_along_axis(problem.reader.ids[rows], positions, axis=-1), np.int64)


def draw_seeds(state: DistillState) -> list[list[int]]:
    """Seeds of what a view draws in this step, by replica."""
    purposes = [sub_seed(int(seed), SAMPLES) for seed in state.seeds]
    return [
        list(parts)
        for parts in zip(purposes, state.updates.tolist(), state.decision_state.filled.tolist(), strict=True)
    ]
