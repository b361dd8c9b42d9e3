"""What the tutor keeps of a run. Shape letters as in :mod:`kd_env.core.types`; P slots of a row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_env.mdp.objectives.reading import SlotView


class TokenRewards(NamedTuple):
    """Of the last update, per token, on the host; 0 at slots that are not valid."""

    teacher_recognises: np.ndarray  # [N, B, P] float32 in [-1, 1]
    student_error: np.ndarray  # [N, B, P] float32 in [0, 1]
    plausibility: np.ndarray  # [N, B, P] float32 in [0, 1], the label m
    teacher_probability: np.ndarray  # [N, B, P] float32, p_T(a | X^M)


class TokenState(NamedTuple):
    """The batch that is edited, and the last one that was. Leading axis N everywhere."""

    positions: np.ndarray  # [N, B, P] int64, places of the slots, rising; 0 where a slot is not valid
    valid: np.ndarray  # [N, B, P] bool
    masked: np.ndarray  # [N, B, P] int64, what stands at the slots of X^M: [MASK], a random token or the original
    dropped: np.ndarray  # [N] int64, masked positions of this batch beyond P (masking=bernoulli)
    base: SlotView  # of X^M
    view: SlotView  # of X^M with the slots that were filled when the teacher last read it
    chosen: np.ndarray  # [N, B, P] int64, tokens that were chosen for this batch; -1 where none is yet
    filled: np.ndarray  # [N] int64, slots of this batch that are filled; always 0 between joint steps
    updated: np.ndarray  # [N] bool, whether the last step updated the student
    edited: np.ndarray  # [N] int64, valid slots of the last update
    tokens: np.ndarray  # [N, B, P] int64, tokens of the last update
    originals: np.ndarray  # [N, B, P] int64, what stood there in the text
    rewards: TokenRewards  # of the last update
