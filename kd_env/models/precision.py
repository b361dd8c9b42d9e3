"""The floating type of a run's passes: what ``auto`` is on this machine."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable
from functools import cache

import torch

from kd_env.core.types import EncoderFacts

logger = logging.getLogger("kd_env")

BF16_WIDTH = 128
"""Hidden size from which a CPU with products in bf16 is faster with them (docs/benchmarks.md)."""


def resolve_precision(name: str, device: torch.device, models: Iterable[EncoderFacts]) -> str:
    """The precision of a run: what ``auto`` is where these models run at every step, any other name as it is.

    ``auto`` is ``bf16`` on a CPU with instructions for it, where the widest model has :data:`BF16_WIDTH` or more, and
    else ``fp32``; so it is on a GPU, where nothing was measured. A CPU without them that is asked for ``bf16`` is said
    to be slow, once in a process.

    Args:
        name: ``auto``, ``fp32``, ``bf16`` or ``fp64``.
        device: of the run.
        models: sizes of what runs at every step.
    """
    fast = device.type == "cpu" and _multiplies_bf16()
    if name == "auto":
        return "bf16" if fast and max(facts.hidden_size for facts in models) >= BF16_WIDTH else "fp32"
    if name == "bf16" and device.type == "cpu" and not fast:
        _say_slow()
    return name


def _multiplies_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16; oneDNN makes them of conversions on those without."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cpu._is_avx512_bf16_supported()


@cache
def _say_slow() -> None:
    logger.warning(
        "precision='bf16' is slow here: this CPU has no instructions for products in bf16. It works; "
        "precision='auto' takes what is fast."
    )
