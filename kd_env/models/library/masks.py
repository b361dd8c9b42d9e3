"""Attention masks as each family takes them ready-made, so that none branches on values, which ``vmap`` refuses."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_OPPOSITE = -1e9
"""What is added to the score of a key that is not to be read."""
_ZEROS_AND_ONES = ("deberta", "deberta-v2")
"""Families that fill the scores of masked keys themselves, and multiply their embeddings by the mask."""
_SLIDING = "sliding_attention"


class MaskKind(NamedTuple):
    """Which keys a query reads, and how a family wants to be told."""

    causal: bool
    """Whether a token reads none that come after it: a decoder."""
    window: int | None
    """How far away a key may be in layers of local attention; None where there are none."""
    by_type: tuple[str, ...]
    """Types of layers that take a mask each; () where one mask is for all."""
    numbers: bool
    """Whether the mask is one of zeros and ones rather than one that is added to the scores."""


def is_decoder(config: Any) -> bool:
    """Whether a configuration is of a family that reads from left to right: it generates text, and fills no masks."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    generating: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    filling: Any = MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in generating and type(config) not in filling


def mask_kind(config: Any) -> MaskKind:
    """What a configuration says about masks."""
    types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
    window = getattr(config, "sliding_window", None)
    local = isinstance(window, int) and (_SLIDING in types or not types)
    return MaskKind(
        causal=is_decoder(config),
        window=window if local else None,
        by_type=types if _SLIDING in types else (),
        numbers=config.model_type in _ZEROS_AND_ONES,
    )


def ready_mask(kind: MaskKind, real: Tensor, dtype: torch.dtype) -> Any:
    """The mask of a batch, ``[B, 1, 1, S]`` or ``[B, 1, S, S]``, or one for each type of layer.

    Args:
        kind: of the family.
        real: ``[B, S]`` bool, True at real tokens.
        dtype: of the scores.
    """
    if kind.numbers:
        return real[:, None, None, :].long()
    keys = torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill(~real, _OPPOSITE)[:, None, None, :]
    if not kind.causal and kind.window is None:
        return keys
    places = torch.arange(real.shape[-1], device=real.device)
    ahead = places[None, :] - places[:, None]  # of the query, where the key stands
    full = keys.masked_fill(ahead > 0, _OPPOSITE) if kind.causal else keys
    if kind.window is None:
        return full
    far = -ahead >= kind.window if kind.causal else ahead.abs() > kind.window
    near = full.masked_fill(far, _OPPOSITE)
    if not kind.by_type:
        return near
    return {name: near if name == _SLIDING else full for name in kind.by_type}
