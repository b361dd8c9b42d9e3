"""Tutor-KD's quantities as pure functions: plausibility labels, the student's losses and the tutor's rewards.

Source: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor
Network", EMNLP 2022. Shape letters as in :mod:`kd_env.core.types`; P slots of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core.types import ModelOutput
from kd_env.knowledge.attentions import attention_distance
from kd_env.knowledge.features import hidden_state_distance
from kd_env.knowledge.tensors import wide


def plausibility(log_original: Tensor, log_chosen: Tensor) -> Tensor:
    """``m = min(1, p_T(a | X^M) / p_T(x | X^M))``: how plausible the teacher finds the chosen token.

    Args:
        log_original: ``[..., P]`` log-probabilities of the original tokens in the masked text.
        log_chosen: ``[..., P]`` of the chosen ones.

    Returns:
        ``[..., P]`` in [0, 1].
    """
    return (log_chosen - log_original).clamp(max=0.0).exp()


def token_labels(labels: Tensor, positions: Tensor, valid: Tensor, width: int) -> Tensor:
    """Plausibility of every token, ``[..., B, S]``: that of its slot, and 1 where nothing was replaced.

    Args:
        labels: ``[..., B, P]`` of the slots.
        positions: ``[..., B, P]`` int64 places of the slots, each once.
        valid: ``[..., B, P]`` bool; a slot that is not valid says nothing.
        width: S.
    """
    everywhere = labels.new_ones(*labels.shape[:-1], width)
    # A slot that is not valid writes what is there already: places of valid ones may be the same.
    at_slot = F.one_hot(positions, width).bool() & valid[..., None]
    return torch.where(at_slot.any(-2), (at_slot * labels[..., None]).sum(-2), everywhere)


def plausibility_loss(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """``L_pp``: binary cross-entropy of ``sigmoid(u)`` with the plausibility, mean over the real tokens of the batch.

    Args:
        scores: ``[B, S]`` the student's scalar u of every token.
        labels: ``[B, S]`` in [0, 1].
        mask: ``[B, S]`` bool, True at real tokens; padding enters neither sum nor mean.

    Returns:
        A scalar.
    """
    losses = F.binary_cross_entropy_with_logits(wide(scores), wide(labels), reduction="none")
    return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def plausibility_floor(labels: Tensor, mask: Tensor) -> Tensor:
    """The least ``L_pp`` that any student can have: the mean entropy of the labels over real tokens, a scalar."""
    p = wide(labels)
    entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
    return entropy.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def hidden_distance(
    student: ModelOutput,
    teacher: ModelOutput,
    projection: Tensor | None,
    pairs: Sequence[tuple[int, int]],
    mask: Tensor,
    reduction: str = "mean",
) -> Tensor:
    """Mean squared error between mapped hidden states, through one map of all layers; mean over rows.

    Args:
        student: with hidden states ``[B, S, H_S]``.
        teacher: with ``[B, S, H_T]``.
        projection: ``[H_T, H_S]``; None compares them as they are.
        pairs: (student layer, teacher layer); layer 0 is the embedding output.
        mask: ``[B, S]`` bool, True at real tokens.
        reduction: of the pairs: ``mean``, or ``sum`` (Tutor-KD's released code).
    """
    losses = []
    for student_layer, teacher_layer in pairs:
        states = wide(student.hidden_states[student_layer])
        mapped = states if projection is None else states @ projection.to(states).T
        losses.append(hidden_state_distance(mapped, teacher.hidden_states[teacher_layer], mask).mean())
    return _over_layers(losses, reduction)


def attention_loss(
    student: ModelOutput,
    teacher: ModelOutput,
    pairs: Sequence[tuple[int, int]],
    mask: Tensor,
    reduction: str = "mean",
) -> Tensor:
    """Mean squared error between raw attention scores of mapped blocks (TinyBERT, eq. 7); mean over heads and rows.

    Args:
        student: with scores before mask and softmax ``[B, A, S, S]``.
        teacher: the same number of heads.
        pairs: (student layer, teacher layer), from 1.
        mask: ``[B, S]`` bool; pairs with padding do not count.
        reduction: of the pairs, as in :func:`hidden_distance`.
    """
    losses = []
    for student_layer, teacher_layer in pairs:
        scores = student.attention_scores[student_layer], teacher.attention_scores[teacher_layer]
        losses.append(attention_distance(*scores, mask).mean())
    return _over_layers(losses, reduction)


def _over_layers(losses: Sequence[Tensor], reduction: str) -> Tensor:
    stacked = torch.stack(list(losses))
    return stacked.sum() if reduction == "sum" else stacked.mean()


def teacher_recognises(log_original: Tensor, log_chosen: Tensor) -> Tensor:
    """``R_T = p_T(x | X') - p_T(a | X')`` ``[..., P]`` in [-1, 1]: the edited text is easy for the teacher.

    Args:
        log_original: log-probabilities of the original tokens in the edited text X'.
        log_chosen: of the chosen ones there.
    """
    return log_original.exp() - log_chosen.exp()


def student_error(scores: Tensor, labels: Tensor) -> Tensor:
    """``R_S = |m - sigmoid(u)|`` ``[..., P]`` in [0, 1]: the chosen tokens are difficult for the student as it is.

    Args:
        scores: the student's u at the slots, before the update that they cause.
        labels: the plausibility m of the slots.
    """
    return (labels - torch.sigmoid(scores)).abs()
