"""Tutor-KD's quantities as pure functions: plausibility labels, the student's losses and the tutor's rewards.

Source: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor
Network", EMNLP 2022. Shape letters as in :mod:`kd_env.core.types`; P slots of a row.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core.types import Signal
from kd_env.knowledge.base import TERMS, Term, TermInputs, TermSpec
from kd_env.knowledge.options import number
from kd_env.knowledge.tensors import wide

EVERY_TOKEN = Fraction(1)


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


def row_plausibility_losses(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    row_tokens: Tensor | None = None,
    share: Fraction = EVERY_TOKEN,
) -> Tensor:
    """The rows' parts in ``L_pp``, ``[B]``: binary cross-entropies of ``sigmoid(u)`` with the plausibility.

    Their mean is the mean over all tokens that count, so that long rows count more; padding enters neither sum nor
    mean.

    Args:
        scores: ``[B, S]`` the student's scalar u of every token.
        labels: ``[B, S]`` in [0, 1].
        mask: ``[B, S]`` bool, True at real tokens.
        row_tokens: ``[B']`` real tokens of all rows of a larger batch, of which these are some.
        share: of each row's real tokens that count, the ones on which the student is most uncertain.
    """
    if share != EVERY_TOKEN:
        mask = uncertain_tokens(scores, mask, share)
        row_tokens = None if row_tokens is None else kept_tokens(row_tokens, share)
    losses = token_losses(scores, labels, mask).sum(-1)
    if row_tokens is not None:
        mean = row_tokens.sum() / len(row_tokens)
        return losses / mean.clamp(min=1e-9).to(losses.dtype)
    # In this order: a number over a whole tensor would be float32, whatever the losses are.
    return losses * len(mask) / mask.sum().clamp(min=1)


def token_losses(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropies of tokens, of the arguments' common shape; 0 at padding."""
    losses = F.binary_cross_entropy_with_logits(wide(scores), wide(labels), reduction="none")
    return losses.masked_fill(~mask, 0.0)


def kept_tokens(tokens: Tensor, share: Fraction) -> Tensor:
    """How many of so many real tokens are kept: the share, rounded up, and at least one of any; whole numbers."""
    kept = -(-tokens * share.numerator // share.denominator)
    return torch.minimum(kept.clamp(min=1), tokens)


def uncertain_tokens(scores: Tensor, mask: Tensor, share: Fraction) -> Tensor:
    """Which real tokens ``[B, S]`` of each row are among the share on which ``sigmoid(u)`` has the most entropy.

    That is where u is nearest to 0; of equals the earlier ones. Nothing is differentiated.
    """
    sureness = scores.detach().abs().masked_fill(~mask, float("inf"))
    ranks = sureness.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    return (ranks < kept_tokens(mask.sum(-1, keepdim=True), share)) & mask


@TERMS.register("plausibility")
def plausibility_term(spec: TermSpec, *, uncertain_share: float = 1.0) -> Term:
    """Plausibility of every token, ``L_pp`` of Tutor-KD (Kim et al., EMNLP 2022); for masked text (``objective=text``).

    ``BCE(m, sigmoid(u))`` over real tokens: u is the student's scalar of a token, and m what the teacher thinks of it,
    ``min(1, p_T(a | X^M) / p_T(x | X^M))`` where a was written in place of x, and 1 elsewhere. A row counts by its
    tokens: the mean over rows is the mean over the tokens of the batch.

    With ``uncertain_share`` (in (0, 1], 1) it is selective, as SE-KD ("Rethinking selective knowledge distillation",
    2026; 0.2 there): of each row only that share of its real tokens, rounded up, counts, those on which the student's
    own ``sigmoid(u)`` has the most entropy at this update; of equals the earlier ones. The choice is not
    differentiated. SE-KD takes the entropy over a vocabulary, and the mean within each row first; here it is the mean
    over the kept tokens of the batch, which is the same for rows of one length.

    Config: ``objective=text terms=[plausibility]``; ``terms=[{name: plausibility, uncertain_share: 0.2}]`` is SE-KD's.
    """
    number("plausibility", "uncertain_share", uncertain_share, 0.0, 1.0, open_low=True)
    # Exact, so that a fifth of 15 tokens are 3, and small enough for whole numbers of tokens times its parts.
    share = Fraction(str(float(uncertain_share))).limit_denominator(10**6)
    if not spec.text:
        raise ValueError(
            "The knowledge term 'plausibility' is about tokens written into masked text; set objective='text', or "
            "leave it out."
        )

    def loss(inputs: TermInputs) -> Tensor:
        scores = inputs.student.logits.squeeze(-1)
        mask = inputs.batch.attention_mask
        return row_plausibility_losses(scores, inputs.taught.logits, mask, inputs.row_tokens, share)

    logits = frozenset({Signal("logits")})
    return Term("plausibility", loss, logits, logits, {})


def plausibility_floor(labels: Tensor, mask: Tensor) -> Tensor:
    """The least ``L_pp`` that any student can have: the mean entropy of the labels over real tokens, a scalar."""
    return entropy(wide(labels)).masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def entropy(probability: Tensor) -> Tensor:
    """Entropy of a truth value in nats, elementwise; 0 at 0 and 1."""
    return -(torch.xlogy(probability, probability) + torch.xlogy(1 - probability, 1 - probability))


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
