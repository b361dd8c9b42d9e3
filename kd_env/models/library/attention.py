"""The attention of our encoders: the library's models ask for it by name, unmodified and under ``torch.func.vmap``.

It records raw scores, queries, keys and values where a knowledge term needs them.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_env.core.types import Signal

ATTENTION = "kd_env"
ATTENTION_KINDS = ("attention_scores", "queries", "keys", "values")


class Recorder(threading.local):
    """What the attention function keeps during one forward pass."""

    def __init__(self) -> None:
        self.wanted: frozenset[Signal] = frozenset()
        self.eager = False
        self.first_token = False
        self.recompute = False
        self.layer = 0
        self.tensors: dict[Signal, Tensor] = {}


recorder = Recorder()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention ``[B, A, S, D] -> [B, S, A, D]`` that records what was asked for."""
    recorder.layer += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    sharing = query.shape[-3] // key.shape[-3]
    if sharing > 1:  # heads of a decoder that share their keys and values
        key, value = (tensor.repeat_interleave(sharing, dim=-3) for tensor in (key, value))
    wanted = {kind for kind in ATTENTION_KINDS if Signal(kind, recorder.layer) in recorder.wanted}  # type: ignore[arg-type]
    for kind, tensor in (("queries", query), ("keys", key), ("values", value)):
        if kind in wanted:
            recorder.tensors[Signal(kind, recorder.layer)] = tensor  # type: ignore[arg-type]
    if not recorder.eager and "attention_scores" not in wanted:
        out = _fused_attention(query, key, value, attention_mask, dropout, scaling)
        return out.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if "attention_scores" in wanted:
        recorder.tensors[Signal("attention_scores", recorder.layer)] = scores
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(torch.softmax(scores, -1), dropout, training=dropout > 0)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float
) -> Tensor:
    """PyTorch's fused attention; on a CPU in float32, since its way back takes up to 15 times as long in bf16."""
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling)
    with torch.autocast("cpu", enabled=False):  # which would cast them back
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, dropout, scale=scaling)


def register_attention() -> None:
    """Make :data:`ATTENTION` known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
