"""The gate: the component of box views that scales or skips an update."""

from __future__ import annotations

import numpy as np

GATE_SKIPS_BELOW = -0.5


def decode_gate(raw: np.ndarray) -> np.ndarray:
    """Factor on the update for gate components ``[N]`` in [-1, 1]: 0 below -0.5, else (g + 1) / 2."""
    gate = raw.astype(np.float32)
    return np.where(gate < GATE_SKIPS_BELOW, 0.0, (gate + 1.0) / 2.0).astype(np.float32)


def encode_gate(gate: float, gated: bool) -> list[float]:
    """The gate component for a factor on the update, none where there is no gate.

    Raises:
        ValueError: a factor that no gate expresses.
    """
    if 0.0 < gate < (GATE_SKIPS_BELOW + 1.0) / 2.0 or not 0.0 <= gate <= 1.0:
        raise ValueError(f"gate={gate} must be 0 (skip) or lie in [0.25, 1].")
    if not gated and gate != 1.0:
        raise ValueError(f"gate={gate} needs action_view='box' with gate=true.")
    return [2.0 * gate - 1.0] if gated else []
