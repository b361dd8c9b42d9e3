"""What an episode leaves behind step by step, held together: a million steps are one array, not a million."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096


class Trace:
    """Arrays of one shape, one after another.

    Args:
        values: the first of them, ``[steps, ...]``; None: there are none yet.
    """

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self._blocks = [] if values is None or not len(values) else [np.asarray(values)]
        self._open: list[NDArray[Any]] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks) + len(self._open)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self.array())

    def append(self, values: NDArray[Any]) -> None:
        """Take those of one step."""
        self._open.append(values)
        if len(self._open) == _BLOCK:
            self._blocks.append(np.stack(self._open))
            self._open = []

    def array(self) -> NDArray[Any]:
        """All of them, ``[steps, ...]``; of no shape but ``[0]`` where there are none."""
        if self._open:
            self._blocks.append(np.stack(self._open))
            self._open = []
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0] if self._blocks else np.zeros(0)
