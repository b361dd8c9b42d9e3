"""Evaluation losses on the host in float64: feedback, selection and dev use the same functions."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def gold_loss(logits: np.ndarray, labels: np.ndarray, label_width: float | None) -> np.ndarray:
    """Mean loss against gold labels, ``[..., R, C] -> [...]``.

    Cross-entropy in nats; for regression (``label_width`` given) the squared error over the squared label range.
    """
    return np.asarray(row_gold_loss(logits, labels, label_width).mean(axis=-1))


def row_gold_loss(logits: np.ndarray, labels: np.ndarray, label_width: float | None) -> np.ndarray:
    """:func:`gold_loss` of every row, ``[..., R, C] -> [..., R]``."""
    if label_width is not None:
        return np.asarray(((logits[..., 0].astype(np.float64) - labels) / label_width) ** 2)
    log_p = log_softmax(logits)
    index = np.broadcast_to(labels.astype(np.int64)[..., None], (*log_p.shape[:-1], 1))
    return np.asarray(-np.take_along_axis(log_p, index, axis=-1)[..., 0])


def token_cross_entropy(scores: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Mean over real tokens of the binary cross-entropy of ``sigmoid(score)``, ``[..., R, S] -> [...]``, in nats.

    Args:
        scores: of every token.
        labels: ``[R, S]`` in [0, 1].
        lengths: ``[R]`` real tokens.
    """
    wide = scores.astype(np.float64)
    losses = np.logaddexp(0.0, wide) - labels * wide
    real = np.arange(labels.shape[1]) < lengths[:, None]
    return np.asarray(np.where(real, losses, 0.0).sum((-1, -2)) / lengths.sum())


def divergence_loss(logits: np.ndarray, teacher: np.ndarray, label_width: float | None) -> np.ndarray:
    """Mean KL(teacher || student) in nats, or the scaled squared difference; ``[..., R, C] -> [...]``."""
    return np.asarray(row_divergence(logits, teacher, label_width).mean(axis=-1))


def row_divergence(logits: np.ndarray, teacher: np.ndarray, label_width: float | None) -> np.ndarray:
    """:func:`divergence_loss` of every row, ``[..., R, C] -> [..., R]``."""
    if label_width is not None:
        return np.asarray(((logits[..., 0].astype(np.float64) - teacher[..., 0]) / label_width) ** 2)
    log_t = log_softmax(teacher)
    return np.asarray((np.exp(log_t) * (log_t - log_softmax(logits))).sum(-1))


def entropy(logits: np.ndarray) -> np.ndarray:
    """Entropy of each row's distribution in units of log C, in [0, 1]; ``[..., C] -> [...]``."""
    log_p = log_softmax(logits)
    return np.asarray(np.clip(-(np.exp(log_p) * log_p).sum(-1) / np.log(logits.shape[-1]), 0.0, 1.0))


def margin(logits: np.ndarray) -> np.ndarray:
    """Difference between the two largest probabilities of each row, in [0, 1]; ``[..., C] -> [...]``."""
    largest = np.sort(np.exp(log_softmax(logits)), axis=-1)[..., -2:]
    return np.asarray(largest[..., 1] - largest[..., 0])


def confidence(logits: np.ndarray) -> np.ndarray:
    """Largest probability of each row, in [1/C, 1]; ``[..., C] -> [...]``."""
    return np.asarray(np.exp(log_softmax(logits).max(axis=-1)))


def predictions(logits: np.ndarray, regression: bool) -> np.ndarray:
    """Class indices, or scores for regression; ``[..., C] -> [...]``."""
    return logits[..., 0] if regression else logits.argmax(axis=-1)
