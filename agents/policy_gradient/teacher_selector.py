"""Reinforced teacher selection (RL-KD; Yuan et al., AAAI 2021): which teachers each training example learns from.

From the paper: the state of an example is the embedding of its input, with what the teachers say about it and their
losses; each teacher has a logistic policy on it, ``P(teacher k is chosen) = sigmoid(A_k . state + b_k)``; the chosen
teachers share the weight; the policies learn by REINFORCE, with the reward of the student's update that the choice
caused.

What the env gives of it: the actions (``action_view='subset'``, one coin a teacher and row with
``weighting='sample'``), the equal shares, the rewards (its own, or the paper's three by name) and the state, which is
the features of the rows that it observes: for the paper's, ``row_teacher_representations``, ``row_teacher_losses``,
``row_teacher_entropies`` and ``row_teacher_confidences`` (in place of the teachers' whole outputs).

Ours, since the paper does not state it, and options: the learning rate and optimiser (Adam), running moments of the
state, whole episodes in a rollout, and that an action is credited with the reward of its own step alone (``gamma=0``).
A baseline is not in the paper either, and without one the gradient is noisy where rewards are far from 0: ``baseline``
adds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.common.base import AnyEnv, Spaces, decision_name, inner_env, require
from agents.common.networks import Policy
from agents.common.rollout import Floats, Rollout
from agents.policy_gradient.reinforce import Reinforce, ReinforceConfig
from agents.policy_gradient.row_policy import RowPolicy
from agents.policy_gradient.rows import RowLayout, find_rows

BASELINES = ("none", "mean", "learned")


@dataclass(frozen=True)
class TeacherSelectorConfig(ReinforceConfig):
    """Options of :class:`TeacherSelector`; ``hidden_sizes`` are those of the learned baseline, policies are linear."""

    gamma: float = 0.0
    """Discount. 0 credits an action with the reward of its own step."""
    ent_coef: float = 0.0
    """Weight of an entropy bonus; the paper has none."""
    advantage_normalization: str = "none"
    """As in :class:`agents.policy_gradient.on_policy.OnPolicyConfig`; the paper has none. ``per_step`` subtracts a
    mean, too."""
    baseline: str = "none"
    """What is subtracted from returns: ``none`` (the paper), ``mean`` (of the rollout at the same step of an episode)
    or ``learned`` (a value network)."""
    use_other_features: bool = False
    """Whether a row's state holds the features that belong to no row (progress, ...); the paper's does not."""
    per_batch: bool = False
    """Whether teachers are chosen once a batch (``weighting='batch'``), on the whole observation: not in the paper."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        super().__post_init__()
        require(self.baseline in BASELINES, "baseline", self.baseline, "one of " + ", ".join(BASELINES))
        fitting = self.row_shared in ("auto", not self.per_batch)
        require(
            fitting, "row_shared", self.row_shared, f"'auto' or {not self.per_batch} with per_batch={self.per_batch}"
        )


class TeacherSelector(Reinforce):
    """RL-KD as an agent; arguments as in :class:`agents.policy_gradient.on_policy.OnPolicyAgent`.

    Without a learned baseline nothing stands in for what follows a truncated step: it counts 0.

    Raises:
        ValueError: an env that does not select teachers by subsets, for each row or (``per_batch``) batch.
    """

    name = "teacher_selector"
    config: TeacherSelectorConfig
    config_class: ClassVar[type[TeacherSelectorConfig]] = TeacherSelectorConfig

    def _find_rows(self, env: AnyEnv | Spaces | RowLayout) -> RowLayout | None:
        per_batch = self.config.per_batch
        if not isinstance(env, Spaces | RowLayout):
            check_selects(env, per_batch)
        return find_rows(env, not per_batch)

    def _make_policy(self, init: torch.Generator) -> Policy | RowPolicy:
        return self._policy_of((), self.config.log_std_init, init, use_others=self.config.use_other_features)

    def _rollout_values(self, rollout: Rollout) -> tuple[Floats, Floats]:
        if self.config.baseline == "learned":
            return super()._rollout_values(rollout)
        return np.zeros_like(rollout.rewards), np.zeros_like(rollout.rewards)

    def _advantages(self, returns: Floats, values: Floats, rollout: Rollout) -> Floats:
        if self.config.baseline == "mean":
            values = step_means(returns, rollout)
        return super()._advantages(returns, values, rollout)

    def _fit_value(self, inputs: Tensor, targets: Tensor) -> float:
        return super()._fit_value(inputs, targets) if self.config.baseline == "learned" else 0.0


def step_means(returns: Floats, rollout: Rollout) -> Floats:
    """Mean of the valid returns at the same step of an episode, ``[T, N]``."""
    group, weight = rollout.step_index.ravel(), rollout.valid.ravel().astype(np.float64)
    totals = np.bincount(group, weights=weight * returns.ravel())
    means = totals / np.maximum(np.bincount(group, weights=weight), 1.0)
    return np.asarray(means[group].reshape(returns.shape))


def check_selects(env: AnyEnv, per_batch: bool) -> None:
    """Raise ``ValueError`` with the remedy where an env does not let its agent choose subsets of teachers."""
    base = inner_env(env)
    decision = decision_name(env)
    if decision != "teacher_weighting":
        raise ValueError(
            f"teacher_selector selects teachers, but the env leaves {decision!r} to decide; make an env of "
            "'teacher_weighting', for example kd_env/TeacherWeighting-v0."
        )
    if base.action_view != "subset":
        raise ValueError(
            f"teacher_selector chooses subsets of teachers, but the env has action_view={base.action_view!r}; make it "
            "with action_view='subset'."
        )
    if per_batch and base.weighting != "batch":
        raise ValueError(
            f"per_batch=True chooses teachers once a batch, but the env has weighting={base.weighting!r}; make it with "
            "weighting='batch', or set per_batch=False."
        )
    if not per_batch and base.weighting != "sample":
        raise ValueError(
            f"teacher_selector chooses teachers for each row, but the env has weighting={base.weighting!r}; make it "
            "with weighting='sample', or set per_batch=True."
        )
