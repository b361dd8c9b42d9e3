"""What reports measure where teachers are weighed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.mdp.problem import Problem


def follows(problem: Problem) -> bool:
    """Whether single rows choose between teachers."""
    return problem.config.decision == "teacher_weighting" and problem.config.weighting == "sample"


def follows_best(problem: Problem, rows: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Share of the rows ``[N, B]`` whose best teacher (lowest loss) has the largest of the weights ``[N, T, B]``."""
    best = problem.teacher_facts.loss[:, rows].argmin(axis=0)  # [N, B]
    largest = weights == weights.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(largest, best[:, None], axis=1)[:, 0]
    return np.asarray((chosen / largest.sum(axis=1)).mean(axis=-1))
