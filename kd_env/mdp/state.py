"""The state of a distillation, and what an action does to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


class TeacherEffect(NamedTuple):
    """What an action does to the update of a teacher that learns, of N replicas."""

    weights: np.ndarray  # [N, B] float32, of the rows' auxiliary losses
    influence: np.ndarray  # [N] float32, factor of the influence gradient; where it is 0 for all it is not computed
    matched: bool = False
    """Whether that gradient is first scaled to the norm of the auxiliary one, so that the factor is their ratio."""
    target: str = "student_loss"
    """Which form of the influence gradient: ``student_loss`` (the derivative) or ``teacher_loss`` (LGTM's code)."""


class Effect(NamedTuple):
    """What an action does to one step of N replicas. Host arrays: actions come from the host."""

    weights: np.ndarray  # [N, T, K, 1 or B] float32, raw weights of the table before normalisation
    update_scale: np.ndarray  # [N] float32 in [0, 1], multiplies the learning rate; 0 skips the update
    teacher: TeacherEffect | None = None  # where the teacher learns; None: every row alike, without influence
    given: dict[str, np.ndarray] | None = None  # numbers by name, [N] or [N, B], that knowledge terms read
    decision_state: Any = None  # the decision's part of the state as the action leaves it; None: as it was
    ready: np.ndarray | None = None  # [N] bool, whose students are updated; None: all. The others' batch stays
    block: int | None = None  # replicas of one policy, where N are those of several: each block is updated as if alone


class TeacherState(NamedTuple):
    """A teacher that learns beside each student. Leading axis N everywhere."""

    params: dict[str, Tensor]  # trainable teacher tensors, name -> [N, ...]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    optimizer_steps: np.ndarray  # [N] int64, updates that were applied
    loss: np.ndarray  # [N] float64, mean auxiliary loss of the last batch before the update
    influence_ratio: np.ndarray  # [N] float32, ||h|| / ||d|| when it was last measured; 0 without one of them
    influence_cosine: np.ndarray  # [N] float32, between the two forms of h, where it is asked for, else 0


class Evaluation(NamedTuple):
    """What N students score on the evaluated feedback rows, each ``[N]`` float64."""

    loss: np.ndarray  # e of the problem
    raw_loss: np.ndarray  # against gold labels, without a temperature
    temperature: np.ndarray  # 1 where the gap is not calibrated
    metric: np.ndarray
    entropy: np.ndarray
    agreement: np.ndarray


class DistillState(NamedTuple):
    """One distillation run per replica: everything that decides how it goes on. Leading axis N everywhere.

    Tensors live on the device of the run. ``streams`` holds immutable objects. A shell may give its state away to
    ``transition``, which then updates the tensors in place; host arrays are always replaced, never written.
    """

    params: dict[str, Tensor]  # trainable student tensors and projections, name -> [N, ...]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    optimizer_steps: np.ndarray  # [N] int64, updates that were applied
    term_scale: Tensor  # [N, T, K] running mean of each term's raw loss
    term_seen: Tensor  # [N] number of updates in that mean
    streams: np.ndarray  # [N] objects, BatchStream
    next_rows: np.ndarray  # [N, U, B] int64, the batches of the next step
    seeds: np.ndarray  # [N] int64, the episode's seed
    updates: np.ndarray  # [N] int64, budget spent
    budget: np.ndarray  # [N] int64
    steps: np.ndarray  # [N] int64, elapsed steps
    loss_reset: np.ndarray  # [N] float64, feedback loss at reset; in regression that of the best constant
    gap_scale: np.ndarray  # [N] float64, D
    loss: np.ndarray  # [N] float64, feedback loss e at the last evaluation
    raw_loss: np.ndarray  # [N] float64, loss against gold labels there, without a temperature
    temperature: np.ndarray  # [N] float64, the student's fitted there; 1 where the gap is not calibrated
    metric: np.ndarray  # [N] float64, headline metric on the feedback rows at the last evaluation
    entropy: np.ndarray  # [N] float64, student's mean entropy there, in units of log C
    agreement: np.ndarray  # [N] float64, share of feedback rows where student and teacher choose the same class
    returns: np.ndarray  # [N] float64, sum of the rewards of this episode
    diverged: np.ndarray  # [N] bool
    raw_losses: np.ndarray  # [N, T, K] float32, mean raw loss of each term over the last step's updates
    scaled_losses: np.ndarray  # [N, T, K] float32, mean loss of each term over its running scale
    cosines: np.ndarray  # [N, K, K] float32, between the terms' gradients; empty [N, 0, 0] where not asked for
    weights: np.ndarray  # [N, T, K] float32, the last action's weights (mean over rows)
    update_scale: np.ndarray  # [N] float32
    update_norm: np.ndarray  # [N] float32, norm of the last step's change of the trainable tensors
    skipped: np.ndarray  # [N] bool, whether the last step applied no update
    last_rows: np.ndarray  # [N, B] int64, train rows of the last step; empty [N, 0] where no action addresses rows
    row_weights: np.ndarray  # [N, T, B] float32, the last action's, of teachers or (T = 1) of rows; empty [N, 0, 0]
    batch_loss: np.ndarray  # [N] float64, updated student's loss on the labels of the step's last batch, where asked
    batch_divergence: np.ndarray  # [N] float64, its KL from the chosen teachers there, where asked for
    given: dict[str, np.ndarray] = {}  # noqa: RUF012 - numbers [N] or [N, B] of the last action that terms read
    teacher: TeacherState | None = None  # None where the teacher is frozen
    decision_state: Any = None  # what the decision itself keeps, leading axis N; None where it keeps nothing
    sampled: Evaluation | None = None  # what students scored on their samples of feedback rows; None without pairs
