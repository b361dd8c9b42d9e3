"""A feature: the share of the most frequent label in the next batch."""

from __future__ import annotations

import numpy as np

from kd_env.mdp.observations.base import Feature, View


def batch_purity(view: View) -> np.ndarray:
    """One number for each of N students, ``[N, 1]`` in [1/C, 1]."""
    labels = view.problem.train.labels[view.rows]  # [N, B]
    counts = (labels[..., None] == np.arange(view.problem.task.num_labels)).sum(1)  # [N, C]
    return np.asarray(counts.max(-1, keepdims=True) / labels.shape[1])


BATCH_PURITY = Feature(
    lambda problem: (1,), batch_purity, low=0.0, high=1.0, classification_only=True, labels_only=True
)
