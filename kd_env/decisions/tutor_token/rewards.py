"""Quantities of the task-level tutor as pure functions: the tutor rewrites tokens of a labelled sentence.

Not in the paper of Tutor-KD, which distils masked language models: the natural extension, in which the label takes the
place of the token. Shape letters as in :mod:`kd_env.core.types`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_env.knowledge.tensors import wide


def label_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """``p_T(y | X')`` ``[..., B]`` in [0, 1]: what is left of the teacher's confidence in the gold label.

    Args:
        logits: ``[..., B, C]`` of the teacher on the edited text.
        labels: ``[..., B]`` int64 gold labels of the text before the edit.
    """
    return torch.softmax(logits, -1).gather(-1, labels[..., None])[..., 0]


def label_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the L1 distance of the label distributions (total variation), ``[..., B]`` in [0, 1].

    The student's divergence from the teacher as a reward; unlike the KL it is bounded, so that no single text outweighs
    all others.

    Args:
        student: ``[..., B, C]`` logits on the edited text, before the update that it causes.
        teacher: ``[..., B, C]`` logits on the same text.
    """
    return 0.5 * (torch.softmax(student, -1) - torch.softmax(teacher, -1)).abs().sum(-1)


def soft_label_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(p_T || p_S)`` in nats, mean over the rows ``[B, C]``: a scalar."""
    taught = torch.log_softmax(wide(teacher), -1)
    return (taught.exp() * (taught - torch.log_softmax(wide(student), -1))).sum(-1).mean()


def hard_label_loss(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats with the gold labels ``[B]`` of the text before the edit, mean over rows: a scalar."""
    return -torch.log_softmax(wide(student), -1).gather(-1, labels[..., None]).mean()
