"""Observation features by name: each says its shape and its bounds, and computes itself for N replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kd_env.mdp.observations.base import FEATURES, Feature, View
from kd_env.mdp.passes import teacher_logits
from kd_env.mdp.problem import Problem
from kd_env.numerics.losses import entropy
from kd_env.numerics.optim import learning_rate_factor


def _scalar(_: Problem) -> tuple[int, ...]:
    return (1,)


def _entries(problem: Problem) -> tuple[int, ...]:
    return (int(problem.present.sum()),)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)[:, None]


def _relative_gap(v: View) -> np.ndarray:
    return _column((v.state.loss - v.problem.teacher_loss) / v.state.gap_scale)


def _teacher_entropy(v: View) -> np.ndarray:
    rows = v.state.next_rows
    single_batch = rows.shape[1] == 1  # then it is the batch that other features look at
    logits = v.teacher_logits if single_batch else teacher_logits(v.problem, v.state, rows.reshape(len(rows), -1))
    return _column(entropy(logits[v.problem.assets.reference]).mean(-1))


def _learning_rate(v: View) -> np.ndarray:
    warmup = v.problem.config.optimizer_config.warmup
    return _column(learning_rate_factor(v.state.updates, v.state.budget, warmup))


def _cosine_pairs(v: View) -> np.ndarray:
    upper = np.triu_indices(len(v.problem.term_names), k=1)
    return v.state.cosines[:, upper[0], upper[1]]


def _previous_action(v: View) -> np.ndarray:
    return np.concatenate([v.state.weights[:, v.problem.present], v.state.update_scale[:, None]], axis=1)


def _teacher_cls(v: View) -> np.ndarray:
    return np.asarray(v.next_batch.teacher_cls[v.problem.assets.reference].mean(1))


def register() -> None:
    """Add these features to the registry."""

    def add(
        name: str,
        compute: Callable[[View], np.ndarray],
        shape: Callable[[Problem], tuple[int, ...]] = _scalar,
        **options: Any,
    ) -> None:
        FEATURES.register(name)(Feature(shape, compute, **options))

    add("progress", lambda v: _column(v.state.updates / v.state.budget), about="Share of the budget that is spent.")
    # In units of the configured budget, since a reset may ask for another one.
    add(
        "remaining_budget",
        lambda v: _column((v.state.budget - v.state.updates) / v.problem.config.budget),
        high=10.0,
        about="Updates that are left, over the configured ``budget``.",
    )
    add("learning_rate", _learning_rate, about="The next update's learning rate, over the configured one.")
    add(
        "term_losses",
        lambda v: np.log1p(v.state.raw_losses[:, v.problem.present].clip(min=0.0)),
        _entries,
        high=10.0,
        about="``log(1 + loss)`` of every term in the last step, and of every teacher for it.",
    )
    add(
        "term_losses_normalized",
        lambda v: v.state.scaled_losses[:, v.problem.present],
        _entries,
        low=-10.0,
        high=10.0,
        about="The same losses as ``term_scale`` scales them.",
    )
    add(
        "gap",
        _relative_gap,
        low=-10.0,
        high=10.0,
        about="``(e - e_T) / D``: what is left of the gap on feedback rows, 1 at reset unless its floor is active.",
    )
    add(
        "student_entropy",
        lambda v: _column(v.state.entropy),
        classification_only=True,
        about="Mean entropy of the student on feedback rows, in units of ``log C``.",
    )
    add(
        "teacher_entropy",
        _teacher_entropy,
        classification_only=True,
        labels_only=True,
        about="Mean entropy of the reference teacher on the rows of the next step, in units of ``log C``.",
    )
    add(
        "agreement",
        lambda v: _column(v.state.agreement),
        classification_only=True,
        about="Share of feedback rows on which student and reference teacher have the same class.",
    )
    add(
        "feedback_metric",
        lambda v: _column(v.state.metric),
        low=-1.0,
        about="The headline metric of the task on feedback rows.",
    )
    add(
        "previous_action",
        _previous_action,
        lambda p: (int(p.present.sum()) + 1,),
        about="Weights of the last step's table, and the factor on its update.",
    )
    cls: dict[str, Any] = {"low": -10.0, "high": 10.0, "needs_cls": True, "labels_only": True}
    add(
        "teacher_cls",
        _teacher_cls,
        lambda p: (p.reference.source.facts.hidden_size,),
        about="Last [CLS] of the reference teacher, the mean over the next batch (KS).",
        **cls,
    )
    add(
        "student_cls",
        lambda v: v.student_cls.mean(1),
        lambda p: (p.student.facts.hidden_size,),
        about="Last [CLS] of the student, the mean over the next batch (KS).",
        **cls,
    )
    add(
        "gradient_cosines",
        _cosine_pairs,
        lambda p: (len(p.term_names) * (len(p.term_names) - 1) // 2,),
        low=-1.0,
        about="Cosines between the gradients of every two terms.",
    )
