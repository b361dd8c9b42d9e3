"""Rewards: functions of what an evaluation said before and after the update that the action caused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from kd_env.core.registry import Registry
from kd_files.plugins import function

REWARD_LIMIT = 2.0
"""Largest size of a reward that states none of its own."""
COST_LIMIT = 100.0
"""Largest size of a reward that is a loss in nats: a mean loss of 100 gives the right labels a probability of 4e-44."""
GAP_FLOOR = 0.05


class RewardInputs(NamedTuple):
    """Fields ``[N]``, float64 unless noted. Losses are means over the evaluated feedback rows."""

    loss_before: np.ndarray
    loss_after: np.ndarray
    gap_scale: np.ndarray  # D
    metric_before: np.ndarray
    metric_after: np.ndarray
    ended: np.ndarray  # bool, the episode ends with this step
    batch_loss: np.ndarray  # of the updated student, on the labels of the step's last batch; 0 unless in BATCH_REWARDS
    batch_divergence: np.ndarray  # its KL from the chosen teachers on that batch; 0 unless in BATCH_REWARDS
    raw_loss_before: np.ndarray  # of the evaluated feedback rows against gold labels, without a temperature
    raw_loss_after: np.ndarray
    scores: Mapping[str, np.ndarray] = MappingProxyType({})
    """What the decision measured in the step, by name."""


RewardFn = Callable[[RewardInputs], np.ndarray]
REWARDS: Registry[RewardFn] = Registry("reward", "kd_env.rewards", function)


class Bounds(NamedTuple):
    """What is known of a reward's values."""

    limit: float = REWARD_LIMIT
    """Values lie in ``[-limit, limit]``; those outside are clipped, and ``info["reward_clipped"]`` says so."""
    cost: bool = False
    """Whether every step costs something, so that an episode that ends early would save it: see
    :func:`divergence_reward`."""


def bounded_by(limit: float, *, cost: bool = False) -> Callable[[RewardFn], RewardFn]:
    """Decorator that states a reward's :class:`Bounds`; a reward without it has ``[-2, 2]``.

    Raises:
        ValueError: a limit that is not finite and above 0.
    """
    if not 0 < limit < float("inf"):
        raise ValueError(f"limit={limit!r} of a reward must be finite and above 0.")

    def state(reward: RewardFn) -> RewardFn:
        reward.bounds = Bounds(float(limit), cost)  # type: ignore[attr-defined]
        return reward

    return state


def of_scores(*names: str) -> Callable[[RewardFn], RewardFn]:
    """Decorator that states which scores of a decision a reward reads (``Decision.score_names``)."""

    def state(reward: RewardFn) -> RewardFn:
        reward.scores = names  # type: ignore[attr-defined]
        return reward

    return state


def scores_of(reward: RewardFn) -> tuple[str, ...]:
    """The scores that a reward reads."""
    names: tuple[str, ...] = getattr(reward, "scores", ())
    return names


def bounds_of(reward: RewardFn) -> Bounds:
    """What a reward states, or ``[-2, 2]``."""
    bounds: Bounds = getattr(reward, "bounds", Bounds())
    return bounds


@REWARDS.register("gap_closed")
def gap_closed(x: RewardInputs) -> np.ndarray:
    """``(e_before - e_after) / D``; the undiscounted return is the fraction of the teacher-student gap that was closed.

    ``D = max(e_reset - e_T, 0.05 e_reset)``: without the floor an over-confident teacher would turn the reward round.
    """
    return np.asarray((x.loss_before - x.loss_after) / x.gap_scale)


@REWARDS.register("loss_drop")
def loss_drop(x: RewardInputs) -> np.ndarray:
    """``e_before - e_after``; with ``gap=calibrated`` both after the student's temperature."""
    return np.asarray(x.loss_before - x.loss_after)


@REWARDS.register("raw_loss_drop")
def raw_loss_drop(x: RewardInputs) -> np.ndarray:
    """Drop of the held-out loss against gold labels, whatever ``gap`` is: the reward of KS (Wang et al. 2022).

    A student gains by the size of its logits alone, too.
    """
    return np.asarray(x.raw_loss_before - x.raw_loss_after)


@REWARDS.register("metric_gain")
def metric_gain(x: RewardInputs) -> np.ndarray:
    """Change of the task's headline metric on the feedback rows."""
    return np.asarray(x.metric_after - x.metric_before)


@REWARDS.register("final_metric")
def final_metric(x: RewardInputs) -> np.ndarray:
    """The headline metric at the end of the episode, 0 before."""
    return np.where(x.ended, x.metric_after, 0.0)


@REWARDS.register("rl_kd_label")
@bounded_by(COST_LIMIT, cost=True)
def rl_kd_label(x: RewardInputs) -> np.ndarray:
    """``-L_CE``, the first reward of RL-KD (Yuan et al., AAAI 2021): the updated student on the labels of its batch."""
    return np.asarray(-x.batch_loss)


@REWARDS.register("rl_kd_distill")
@bounded_by(COST_LIMIT, cost=True)
def rl_kd_distill(x: RewardInputs) -> np.ndarray:
    """``-L_CE - L_KD``, the second reward of RL-KD; ``L_KD`` is the weighted KL from the teachers that were chosen."""
    return np.asarray(-x.batch_loss - x.batch_divergence)


@REWARDS.register("rl_kd_accuracy")
@bounded_by(COST_LIMIT, cost=True)
def rl_kd_accuracy(x: RewardInputs) -> np.ndarray:
    """``(-L_CE - L_KD + metric) / 2``, the third reward of RL-KD, mixed with held-out accuracy.

    The metric is that of the feedback rows. Equal shares are our choice, the source's are not known to us.
    """
    return np.asarray((x.metric_after - x.batch_loss - x.batch_divergence) / 2.0)


BATCH_REWARDS = frozenset({"rl_kd_label", "rl_kd_distill", "rl_kd_accuracy"})
"""Rewards that read the updated student's losses on its own batch, one more forward pass."""

END_REWARDS = frozenset({"gap_closed", "loss_drop", "raw_loss_drop", "metric_gain", "final_metric"})
"""Rewards whose sum over an episode, unless one is clipped, says how it began and ended, nothing of steps between."""


def gap_scale(loss_reset: np.ndarray, teacher_loss: float) -> tuple[np.ndarray, np.ndarray]:
    """``D`` and whether its floor is active, both shaped like ``loss_reset``."""
    floor = GAP_FLOOR * loss_reset
    return np.maximum(loss_reset - teacher_loss, floor), loss_reset - teacher_loss < floor


def divergence_reward(returns: np.ndarray, step_costs: np.ndarray | float = 0.0) -> np.ndarray:
    """The reward that brings the return to ``min(return so far, 0) - 1``, less ``step_costs``, all ``[N]``.

    Args:
        returns: sums of the rewards so far.
        step_costs: what the steps that the episode no longer has would have cost; 0 but for rewards that are costs,
            with which a lost student would otherwise be the cheapest one.
    """
    return np.asarray(np.minimum(returns, 0.0) - 1.0 - returns - step_costs)
