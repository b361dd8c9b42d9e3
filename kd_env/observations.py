"""Observation features by name: each says its shape and its bounds, and computes itself for N replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from kd_env.losses import entropy
from kd_env.optim import learning_rate_factor
from kd_env.registry import Registry
from kd_env.types import DistillState, FeatureSlice
from kd_env.updates import next_cls

if TYPE_CHECKING:
    from kd_env.problem import Problem


class View:
    """What features look at; costly parts that several features share are computed once."""

    def __init__(self, problem: Problem, state: DistillState) -> None:
        self.problem = problem
        self.state = state

    @cached_property
    def cls(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean last-layer [CLS] of student and teacher over the first batch of the next step."""
        return next_cls(self.problem, self.state.params, self.state.next_rows[:, 0])


@dataclass(frozen=True)
class Feature:
    """One part of the observation.

    Attributes:
        shape: shape of the feature for a problem.
        compute: values ``[N, *shape]``; clipped to the bounds and freed of NaN by :func:`observe`.
        low: lower bound of every entry.
        high: upper bound of every entry.
        next_batch: whether it costs a forward pass on the batch that the next action will be applied to.
        classification_only: whether it has no meaning in regression, where it is refused.
    """

    shape: Callable[[Problem], tuple[int, ...]]
    compute: Callable[[View], np.ndarray]
    low: float = 0.0
    high: float = 1.0
    next_batch: bool = False
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
    return _column(entropy(v.problem.teacher_train_logits[rows.reshape(len(rows), -1)]).mean(-1))


def _learning_rate(v: View) -> np.ndarray:
    warmup = v.problem.config.optimizer_config.warmup
    return _column(learning_rate_factor(v.state.updates, v.state.budget, warmup))


def _cosine_pairs(v: View) -> np.ndarray:
    upper = np.triu_indices(len(v.problem.terms), k=1)
    return v.state.cosines[:, upper[0], upper[1]]


def _previous_action(v: View) -> np.ndarray:
    return np.concatenate([v.state.weights[:, v.problem.present], v.state.update_scale[:, None]], axis=1)


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
    cls: dict[str, Any] = {"low": -10.0, "high": 10.0, "next_batch": True}
    add("teacher_cls", lambda v: v.cls[1], lambda p: (p.teacher.facts.hidden_size,), **cls)
    add("student_cls", lambda v: v.cls[0], lambda p: (p.student.facts.hidden_size,), **cls)
    add("gradient_cosines", _cosine_pairs, lambda p: (len(p.terms) * (len(p.terms) - 1) // 2,), low=-1.0)


_register()


def resolve(names: Sequence[str], regression: bool, num_terms: int) -> dict[str, Feature]:
    """Features by name, in order.

    Raises:
        ValueError: an unknown name, a name twice, or a feature without meaning for this task.
    """
    found: dict[str, Feature] = {}
    for name in names:
        if name in found:
            raise ValueError(f"The feature {name!r} is named twice; remove one.")
        feature = FEATURES[name]
        if regression and feature.classification_only:
            allowed = [other for other in FEATURES if not FEATURES[other].classification_only]
            raise ValueError(
                f"The feature {name!r} has no meaning in a regression task; leave it out. Valid there: "
                f"{', '.join(allowed)}."
            )
        if name == "gradient_cosines" and num_terms < 2:
            raise ValueError("The feature 'gradient_cosines' needs at least two terms; leave it out.")
        found[name] = feature
    return found


def make_layout(features: dict[str, Feature], problem: Problem) -> dict[str, FeatureSlice]:
    """Where each feature stands in the flat observation."""
    layout, start = {}, 0
    for name, feature in features.items():
        shape = feature.shape(problem)
        stop = start + int(np.prod(shape))
        layout[name] = FeatureSlice(start, stop, shape, feature.low, feature.high)
        start = stop
    return layout


def make_space(layout: dict[str, FeatureSlice]) -> spaces.Box:
    """The flat float32 box with every feature's bounds."""
    size = max(part.stop for part in layout.values())
    low, high = np.empty(size, np.float32), np.empty(size, np.float32)
    for part in layout.values():
        low[part.slice], high[part.slice] = part.low, part.high
    return spaces.Box(low, high, dtype=np.float32)


def observe(problem: Problem, state: DistillState) -> np.ndarray:
    """Observation of every replica, ``[N, O]`` float32, finite and inside the bounds."""
    parts, view = [], View(problem, state)
    for name, feature in problem.features.items():
        values = np.asarray(feature.compute(view), dtype=np.float32).reshape(len(state.seeds), -1)
        part = problem.layout[name]
        finite = np.nan_to_num(values, nan=0.0, posinf=part.high, neginf=part.low)
        parts.append(np.clip(finite, part.low, part.high))
    return np.concatenate(parts, axis=1, dtype=np.float32)
