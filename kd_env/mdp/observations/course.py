"""Observation features by name: each says its shape and its bounds, and computes itself for N replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kd_env.core import trees
from kd_env.core.registry import Registry
from kd_env.core.types import DistillState
from kd_env.mdp.passes import NextBatch, next_batch
from kd_env.mdp.row_influence import row_influence
from kd_env.numerics.losses import entropy
from kd_env.numerics.optim import learning_rate_factor
from kd_env.teachers.facts import TeacherFacts, changes, taught_logits, teacher_facts

if TYPE_CHECKING:
    from kd_env.mdp.problem import Problem


class View:
    """What features look at; costly parts that several features share are computed once."""

    def __init__(self, problem: Problem, state: DistillState, *, reads_cls: bool = True) -> None:
        self.problem = problem
        self.state = state
        self._reads_cls = reads_cls

    @property
    def rows(self) -> np.ndarray:
        """Train rows ``[N, B]`` of the first batch of the next step."""
        return self.state.next_rows[:, 0]

    @cached_property
    def next_batch(self) -> NextBatch:
        """What student and teachers say about these rows."""
        with_cls = self._reads_cls and any(feature.needs_cls for feature in self.problem.features.values())
        return next_batch(self.problem, self.state, self.rows, with_cls=with_cls)

    @cached_property
    def teacher_logits(self) -> np.ndarray:
        """Of the teachers on these rows, ``[T, N, B, C]``."""
        return taught_logits(self.problem, self.state, self.rows)

    @cached_property
    def teacher_facts(self) -> TeacherFacts:
        """What they say about these rows, each ``[T, N, B]``."""
        if not changes(self.problem):
            return trees.map_leaves(lambda part: part[:, self.rows], self.problem.teacher_facts)
        labels = self.problem.train.labels[self.rows]
        return teacher_facts(self.teacher_logits, labels, self.problem.label_width)

    @cached_property
    def row_influence(self) -> np.ndarray:
        """How much each of these rows lowers the feedback loss, ``[N, B]``."""
        return row_influence(self.problem, self.state)

    @property
    def student_cls(self) -> np.ndarray:
        """Last [CLS] of the student, ``[N, B, H_S]``."""
        assert self.next_batch.student_cls is not None
        return self.next_batch.student_cls


@dataclass(frozen=True)
class Feature:
    """One part of the observation.

    Attributes:
        shape: shape of the feature for a problem.
        compute: values ``[N, *shape]``; clipped to the bounds and freed of NaN by :func:`observe`.
        low: lower bound of every entry.
        high: upper bound of every entry.
        needs_cls: whether it reads the last [CLS] on the batch that the next action will be applied to.
        per_row: whether it has one part ``[B, n]`` for each row of that batch.
        classification_only: whether it has no meaning in regression, where it is refused.
    """

    shape: Callable[[Problem], tuple[int, ...]]
    compute: Callable[[View], np.ndarray]
    low: float = 0.0
    high: float = 1.0
    needs_cls: bool = False
    per_row: bool = False
    classification_only: bool = False


FEATURES: Registry[Feature] = Registry("feature", "kd_env.features")


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
    one = rows.shape[1] == 1  # then it is the batch that other features look at
    logits = v.teacher_logits if one else taught_logits(v.problem, v.state, rows.reshape(len(rows), -1))
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


def _register() -> None:
    def add(
        name: str,
        compute: Callable[[View], np.ndarray],
        shape: Callable[[Problem], tuple[int, ...]] = _scalar,
        **options: Any,
    ) -> None:
        FEATURES.register(name)(Feature(shape, compute, **options))

    add("progress", lambda v: _column(v.state.updates / v.state.budget))
    # In units of the configured budget, since a reset may ask for another one.
    add("remaining_budget", lambda v: _column((v.state.budget - v.state.updates) / v.problem.config.budget), high=10.0)
    add("learning_rate", _learning_rate)
    add("term_losses", lambda v: np.log1p(v.state.raw_losses[:, v.problem.present].clip(min=0.0)), _entries, high=10.0)
    add("term_losses_normalized", lambda v: v.state.scaled_losses[:, v.problem.present], _entries, low=-10.0, high=10.0)
    add("gap", _relative_gap, low=-10.0, high=10.0)
    add("student_entropy", lambda v: _column(v.state.entropy), classification_only=True)
    add("teacher_entropy", _teacher_entropy, classification_only=True)
    add("agreement", lambda v: _column(v.state.agreement), classification_only=True)
    add("feedback_metric", lambda v: _column(v.state.metric), low=-1.0)
    add("previous_action", _previous_action, lambda p: (int(p.present.sum()) + 1,))
    cls: dict[str, Any] = {"low": -10.0, "high": 10.0, "needs_cls": True}
    add("teacher_cls", _teacher_cls, lambda p: (p.reference.source.facts.hidden_size,), **cls)
    add("student_cls", lambda v: v.student_cls.mean(1), lambda p: (p.student.facts.hidden_size,), **cls)
    add("gradient_cosines", _cosine_pairs, lambda p: (len(p.term_names) * (len(p.term_names) - 1) // 2,), low=-1.0)


_register()
