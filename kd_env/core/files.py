"""What files of results are made of, beside :mod:`kd_files`, which writes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kd_files.writing import atomic_write

__all__ = ["atomic_write", "without_infinities"]


def without_infinities(value: Any) -> Any:
    """JSON has no infinity and no NaN: None stands for "unknown"."""
    if isinstance(value, dict):
        return {str(key): without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(item) for item in value]
    if isinstance(value, np.generic):
        return without_infinities(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
