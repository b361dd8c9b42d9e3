"""The flat observation space: where each feature stands, and its bounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

from kd_env.core.types import FeatureSlice


def make_layout(features: Mapping[str, tuple[tuple[int, ...], float, float]]) -> dict[str, FeatureSlice]:
    """Where each feature stands in the flat observation, of features ``(shape, low, high)`` by name."""
    layout, start = {}, 0
    for name, (shape, low, high) in features.items():
        stop = start + int(np.prod(shape))
        layout[name] = FeatureSlice(start, stop, shape, low, high)
        start = stop
    return layout


def make_space(layout: dict[str, FeatureSlice]) -> spaces.Box:
    """The flat float32 box with every feature's bounds."""
    size = max(place.stop for place in layout.values())
    low, high = np.empty(size, np.float32), np.empty(size, np.float32)
    for place in layout.values():
        low[place.slice], high[place.slice] = place.low, place.high
    return spaces.Box(low, high, dtype=np.float32)
