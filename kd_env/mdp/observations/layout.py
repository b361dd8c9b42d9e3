"""The flat observation: features by name, where each stands, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from kd_env.core.types import FeatureSlice
from kd_env.mdp.observations import rows as features_sample
from kd_env.mdp.observations import teachers
from kd_env.mdp.observations.base import FEATURES, Feature, View
from kd_env.mdp.state import DistillState

if TYPE_CHECKING:
    from kd_env.mdp.problem import Problem

__all__ = ["FEATURES", "Feature", "View", "make_layout", "make_space", "observe", "resolve"]

teachers.register()
features_sample.register()


def resolve(names: Sequence[str], regression: bool, num_terms: int, *, rows: bool = False) -> dict[str, Feature]:
    """Features by name, in order.

    Args:
        names: registered names.
        regression: kind of the task.
        num_terms: K.
        rows: whether actions address the rows of the next batch.

    Raises:
        ValueError: an unknown name, a name twice, or a feature without meaning for this task or decision.
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
        if feature.per_row and not rows:
            raise ValueError(
                f"The feature {name!r} describes single rows of the next batch, but actions do not address them; set "
                f"weighting='sample' (or decision='sample_weighting'), or use {name.removeprefix('row_')!r} or its "
                "like for the batch."
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
