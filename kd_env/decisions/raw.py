"""Raw actions from outside: what no action space holds is refused here, for every view of every decision."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


def raw_array(actions: Any) -> NDArray[Any]:
    """Actions as one array.

    Raises:
        ValueError: lists of different lengths, which are no array.
    """
    try:
        return np.asarray(actions)
    except ValueError:
        raise ValueError(f"The action {actions!r} has parts of different lengths; give one array of numbers.") from None


def checked_actions(actions: Any, space: spaces.Space[Any], count: int) -> NDArray[Any]:
    """Raw actions ``[N, ...]`` of N replicas: integers where the space holds whole numbers, else as they are.

    Args:
        actions: one raw action for each replica.
        space: of one replica. Spaces of spaces (``Dict``, ``Tuple``) are left to the decision that has them.
        count: N.

    Raises:
        ValueError: values that are no numbers, another shape, or a value outside the space (a fraction or NaN too).
    """
    limits = _limits(space)
    if limits is None:
        return np.asarray(actions)
    raw, shape, kind = raw_array(actions), (count, *(space.shape or ())), type(space).__name__
    whole = not isinstance(space, spaces.Box)
    if raw.dtype.kind not in ("biuf" if isinstance(space, spaces.MultiBinary) else "iuf"):
        numbers = "whole numbers" if whole else "numbers"
        raise ValueError(f"The action holds values of type {raw.dtype}, but the action space {kind} takes {numbers}.")
    if raw.shape != shape:
        raise ValueError(
            f"The actions have shape {raw.shape}, but the action space {kind} takes {shape}, one action for each of "
            f"{count} replicas."
        )
    low, high = (np.broadcast_to(limit, shape) for limit in limits)
    outside = ~((raw >= low) & (raw <= high))  # NaN fails both comparisons
    if outside.any():
        raise ValueError(
            f"The action holds {raw[outside][0]}, outside [{low[outside][0]}, {high[outside][0]}] of the action space "
            f"{kind}."
        )
    if not whole:
        return raw
    integers = raw.astype(np.int64)
    if (raw != integers).any():
        raise ValueError(
            f"The action holds {raw[raw != integers][0]}, but the action space {kind} takes whole numbers."
        )
    return integers


def _limits(space: spaces.Space[Any]) -> tuple[Any, Any] | None:
    """Least and greatest value of a space, or of each component; None for a space of spaces."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return (0, 1) if isinstance(space, spaces.MultiBinary) else None
