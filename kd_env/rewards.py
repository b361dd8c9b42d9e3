"""Rewards: functions of what an evaluation said before and after the update that the action caused."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kd_env.registry import Registry

REWARD_LIMIT = 2.0
GAP_FLOOR = 0.05


class RewardInputs(NamedTuple):
    """Fields ``[N]``, float64 unless noted. Losses are means over the evaluated feedback rows."""

    loss_before: np.ndarray
    loss_after: np.ndarray
    gap_scale: np.ndarray  # D
    metric_before: np.ndarray
    metric_after: np.ndarray
    ended: np.ndarray  # bool, the episode ends with this step


RewardFn = Callable[[RewardInputs], np.ndarray]
REWARDS: Registry[RewardFn] = Registry("reward", "kd_env.rewards")


@REWARDS.register("gap_closed")
def gap_closed(x: RewardInputs) -> np.ndarray:
    """``(e_before - e_after) / D``; the undiscounted return is the fraction of the teacher-student gap that was closed.

    ``D = max(e_reset - e_T, 0.05 e_reset)``: without the floor an over-confident teacher would turn the reward round.
    """
    return np.asarray((x.loss_before - x.loss_after) / x.gap_scale)


@REWARDS.register("loss_drop")
def loss_drop(x: RewardInputs) -> np.ndarray:
    """``e_before - e_after``, the reward of KS (Wang et al. 2022)."""
    return np.asarray(x.loss_before - x.loss_after)


@REWARDS.register("metric_gain")
def metric_gain(x: RewardInputs) -> np.ndarray:
    """Change of the task's headline metric on the feedback rows."""
    return np.asarray(x.metric_after - x.metric_before)


@REWARDS.register("final_metric")
def final_metric(x: RewardInputs) -> np.ndarray:
    """The headline metric at the end of the episode, 0 before."""
    return np.where(x.ended, x.metric_after, 0.0)


def gap_scale(loss_reset: np.ndarray, teacher_loss: float) -> tuple[np.ndarray, np.ndarray]:
    """``D`` and whether its floor is active, both shaped like ``loss_reset``."""
    floor = GAP_FLOOR * loss_reset
    return np.maximum(loss_reset - teacher_loss, floor), loss_reset - teacher_loss < floor


def divergence_reward(returns: np.ndarray) -> np.ndarray:
    """The reward that brings the return to ``min(return so far, 0) - 1``."""
    return np.asarray(np.minimum(returns, 0.0) - 1.0 - returns)
