"""A score of rows: their length."""

from __future__ import annotations

import numpy as np

from kd_env.decisions.sample_weighting.scores import Score
from kd_env.mdp.observations.base import View


def length(view: View) -> np.ndarray:
    """Tokens of the rows of the next batch, ``[N, B]``."""
    return np.asarray(view.problem.train.lengths[view.rows], np.float64)


LENGTH = Score(length)
