"""The flat observation: features by name, where each stands, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_env.mdp.observations import course, geometry, rows, teachers
from kd_env.mdp.observations.base import FEATURES, Feature, View
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState

__all__ = ["FEATURES", "Feature", "View", "observe", "resolve"]

course.register()
teachers.register()
rows.register()
geometry.register()


def resolve(names: Sequence[str], regression: bool, num_terms: int, *, by_row: bool = False) -> dict[str, Feature]:
    """Features by name, in order.

    Args:
        names: registered names.
        regression: kind of the task.
        num_terms: K.
        by_row: whether actions address the rows of the next batch.

    Raises:
        ValueError: an unknown name, a name twice, or a feature without meaning for this task or decision.
    """
    features: dict[str, Feature] = {}
    for name in names:
        if name in features:
            raise ValueError(f"The feature {name!r} is named twice; remove one.")
        feature = FEATURES[name]
        if regression and feature.classification_only:
            allowed = [other for other in FEATURES if not FEATURES[other].classification_only]
            raise ValueError(
                f"The feature {name!r} has no meaning in a regression task; leave it out. Valid there: "
                f"{', '.join(allowed)}."
            )
        if feature.per_row and not by_row:
            raise ValueError(
                f"The feature {name!r} describes single rows of the next batch, but actions do not address them; set "
                f"weighting='sample' (or decision='sample_weighting'), or use {name.removeprefix('row_')!r} or its "
                "like for the batch."
            )
        if name == "gradient_cosines" and num_terms < 2:
            raise ValueError("The feature 'gradient_cosines' needs at least two terms; leave it out.")
        features[name] = feature
    return features


def observe(problem: Problem, state: DistillState) -> np.ndarray:
    """Observation of every replica, ``[N, O]`` float32, finite and inside the bounds."""
    blocks, view = [], View(problem, state)
    for name, feature in problem.features.items():
        values = np.asarray(feature.compute(view), dtype=np.float32).reshape(len(state.seeds), -1)
        place = problem.layout[name]
        finite = np.nan_to_num(values, nan=0.0, posinf=place.high, neginf=place.low)
        blocks.append(np.clip(finite, place.low, place.high))
    return np.concatenate(blocks, axis=1, dtype=np.float32)
