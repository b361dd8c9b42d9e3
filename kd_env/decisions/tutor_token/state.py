"""The values that flow through a run of the tutor's environment. Shape letters as in :mod:`kd_env.core.types`; P slots
of a row, k candidates of a slot, E the width that the teacher's decoder multiplies with word vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor


class SlotView(NamedTuple):
    """What the teacher says at the slots of N batches, on the device."""

    hidden: Tensor  # [N, B, P, H] last hidden states
    features: Tensor  # [N, B, P, E] what its decoder reads
    log_partition: Tensor  # [N, B, P] log of the sum over the vocabulary of the exponentiated logits
    candidates: Tensor  # [N, B, P, k] int64, its most likely tokens, the most likely first
    log_candidates: Tensor  # [N, B, P, k] their log-probabilities


class Written(NamedTuple):
    """What stands in the slots of N edited batches, on the device."""

    places: Tensor  # [N, B, P]
    valid: Tensor  # [N, B, P]
    original: Tensor  # [N, B, P]
    chosen: Tensor  # [N, B, P]
    plausibility: Tensor  # [N, B, P], m


class TokenRewards(NamedTuple):
    """Of the last update, per token, on the host; 0 at slots that are not valid."""

    teacher_recognises: np.ndarray  # [N, B, P] float32 in [-1, 1]
    student_error: np.ndarray  # [N, B, P] float32 in [0, 1]
    plausibility: np.ndarray  # [N, B, P] float32 in [0, 1], the label m
    teacher_probability: np.ndarray  # [N, B, P] float32, p_T(a | X^M)


class TutorState(NamedTuple):
    """One distillation run per replica: everything that decides how it goes on. Leading axis N everywhere.

    Tensors live on the device of the run. A shell may give its state away to ``transition``, which then updates the
    students in place; host arrays are always replaced, never written.
    """

    params: dict[str, Tensor]  # trainable student tensors and the projection, name -> [N, ...]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    optimizer_steps: np.ndarray  # [N] int64, updates that were applied
    streams: np.ndarray  # [N] objects, BatchStream
    rows: np.ndarray  # [N, B] int64, train rows of the batch that is edited
    positions: np.ndarray  # [N, B, P] int64, places of the slots, rising; 0 where a slot is not valid
    valid: np.ndarray  # [N, B, P] bool
    masked: np.ndarray  # [N, B, P] int64, what stands at the slots of X^M: [MASK], a random token or the original
    dropped: np.ndarray  # [N] int64, masked positions of this batch beyond P (masking=bernoulli)
    base: SlotView  # of X^M
    view: SlotView  # of X^M with the slots that were filled when the teacher last read it
    chosen: np.ndarray  # [N, B, P] int64, tokens that were chosen for this batch; -1 where none is yet
    filled: np.ndarray  # [N] int64, slots of this batch that are filled; always 0 between joint steps
    seeds: np.ndarray  # [N] int64, the episode's seed
    updates: np.ndarray  # [N] int64, budget spent
    budget: np.ndarray  # [N] int64
    steps: np.ndarray  # [N] int64, elapsed steps
    loss_reset: np.ndarray  # [N] float64, feedback loss at reset
    gap_scale: np.ndarray  # [N] float64, D
    loss: np.ndarray  # [N] float64, feedback loss at the last evaluation
    returns: np.ndarray  # [N] float64, sum of the rewards of this episode
    diverged: np.ndarray  # [N] bool
    updated: np.ndarray  # [N] bool, whether the last step updated the student
    losses: np.ndarray  # [N, L] float32, the student's losses in the last update, unweighted
    update_norm: np.ndarray  # [N] float32, norm of the last update's change
    tokens: np.ndarray  # [N, B, P] int64, tokens of the last update
    originals: np.ndarray  # [N, B, P] int64, what stood there in the text
    token_rewards: TokenRewards  # of the last update
