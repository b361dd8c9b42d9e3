"""What teachers say about train rows, on the host: a frozen one once and for all, one that learns as it is now."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_env.numerics.losses import entropy, row_gold_loss


class TeacherFacts(NamedTuple):
    """What T teachers say about R train rows, each ``[T, R]``; the last four are None in regression."""

    loss: np.ndarray  # on the train labels: cross-entropy in nats, or the scaled squared error
    entropy: np.ndarray | None  # in units of log C
    confidence: np.ndarray | None  # probability of the label
    prediction: np.ndarray | None  # class
    agreement: np.ndarray | None  # share of the other teachers that choose the same class; 1 for a single teacher


def teacher_facts(logits: np.ndarray, labels: np.ndarray, label_width: float | None) -> TeacherFacts:
    """Facts for logits ``[T, ..., C]`` (uncalibrated) and labels ``[...]``."""
    loss = row_gold_loss(logits, labels, label_width)
    if label_width is not None:
        return TeacherFacts(loss, None, None, None, None)
    chosen = logits.argmax(-1)
    agreeing = (chosen[:, None] == chosen[None]).sum(1) - 1
    other_teachers = max(len(logits) - 1, 1)
    agreement = agreeing / other_teachers if len(logits) > 1 else np.ones(chosen.shape)
    return TeacherFacts(loss, entropy(logits), np.exp(-loss), chosen, agreement)
