"""Small differentiable tools of the terms: means without padding, softmax without padding, safe norms.

Nothing here branches on values, so that everything runs under ``torch.func.vmap`` and ``torch.func.jvp``.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12
"""Added to squared norms: without it a zero vector has an infinite gradient. 1 / EPS**1.5 still fits in float32."""


def wide(x: Tensor) -> Tensor:
    """The tensor in at least float32: squares of float16 overflow at 256, and bfloat16 keeps 8 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values [B, S]`` over the real tokens of ``mask [B, S]``; 0 for a row without any. Returns ``[B]``."""
    return values.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def token_pair_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values [B, S, S]`` over pairs of real tokens; 0 for a row without any. Returns ``[B]``."""
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    return values.masked_fill(~both, 0.0).sum((-1, -2)) / both.sum((-1, -2)).clamp(min=1)


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax of ``scores [B, A, S, S]`` over real keys of ``mask [B, S]``; padded keys get the lowest number."""
    return torch.log_softmax(scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min), dim=-1)


def unit(x: Tensor) -> Tensor:
    """``x [..., H]`` divided by its Euclidean norm; a zero vector stays zero, with a finite gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)
