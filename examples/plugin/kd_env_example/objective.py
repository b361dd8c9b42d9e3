"""An objective: students are judged by the Brier score, which forgives confident mistakes more than cross-entropy."""

from __future__ import annotations

import numpy as np

from kd_env.mdp.objectives.labels import LabelsObjective
from kd_env.mdp.problem import Problem


class Brier(LabelsObjective):
    """Labels of a task, with another loss ``e``: rewards, gaps and reports count it, for the teacher too."""

    def error(self, problem: Problem, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The mean of ``sum_c (p_c - y_c)^2`` in [0, 2] of logits ``[..., R, C]``."""
        if problem.task.regression:
            raise ValueError("objective='brier' is for tasks of classes; with scores use objective='labels'.")
        powers = np.exp(np.asarray(outputs, np.float64) - outputs.max(-1, keepdims=True))
        probabilities = powers / powers.sum(-1, keepdims=True)
        truth = np.eye(outputs.shape[-1])[labels]
        return np.asarray(((probabilities - truth) ** 2).sum(-1).mean(-1))


BRIER = Brier()
