"""Nested tuples, named tuples and dictionaries of tensors and arrays whose first axis is the replica.

Leaves are torch tensors and NumPy arrays (of objects too, where the objects are immutable); everything else is passed
through unchanged, and None stands for an absent leaf.

Also their way between host and device, on which the host waits no more often than it must.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Tree = TypeVar("Tree")
_LEAVES = (Tensor, np.ndarray)


def map_leaves(fn: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply ``fn`` to every leaf of ``tree`` (with the same leaf of ``others``) and keep the structure."""
    result: Any
    if isinstance(tree, _LEAVES):
        return fn(tree, *others)  # type: ignore[no-any-return]
    if isinstance(tree, dict):
        if not others:
            result = {key: map_leaves(fn, value) for key, value in tree.items()}
        else:
            result = {key: map_leaves(fn, value, *(other[key] for other in others)) for key, value in tree.items()}  # type: ignore[index]
    elif isinstance(tree, tuple):
        if not others:  # a step asks for a hundred of these
            values = [map_leaves(fn, branch) for branch in tree]
        else:
            values = [map_leaves(fn, *branches) for branches in zip(tree, *others, strict=True)]
        result = type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    else:
        result = tree
    return result  # type: ignore[no-any-return]


def copy(tree: Tree) -> Tree:
    """Every leaf copied; objects in object arrays are immutable and shared."""
    return map_leaves(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf.copy(), tree)


def copy_arrays(tree: Tree) -> Tree:
    """Host arrays copied, tensors shared: what may be written in place where the tensors are given away."""
    return map_leaves(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def take(tree: Tree, rows: Sequence[int] | np.ndarray) -> Tree:
    """Rows of the first axis, copied, in the given order."""
    index = np.asarray(rows, dtype=np.int64)
    return map_leaves(
        lambda leaf: leaf[torch.as_tensor(index, device=leaf.device)] if isinstance(leaf, Tensor) else leaf[index], tree
    )


def set_rows(tree: Tree, rows: Sequence[int] | np.ndarray, values: Tree) -> Tree:
    """Write ``values`` (leading size ``len(rows)``) into the named rows of ``tree``, in place, and return ``tree``."""
    index = np.asarray(rows, dtype=np.int64)

    def put(leaf: Any, value: Any) -> Any:
        leaf[torch.as_tensor(index, device=leaf.device) if isinstance(leaf, Tensor) else index] = value
        return leaf

    return map_leaves(put, tree, values)


def to_device(tree: Tree, device: torch.device) -> Tree:
    """Tensors moved to ``device``; arrays stay on the host."""
    return map_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def nbytes(tree: Any) -> int:
    """Bytes held by the leaves."""
    total = 0

    def add(leaf: Any) -> Any:
        nonlocal total
        total += leaf.numel() * leaf.element_size() if isinstance(leaf, Tensor) else leaf.nbytes
        return leaf

    map_leaves(add, tree)
    return total


def upload(values: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Host values as a tensor on the device; the host goes on before they are there."""
    held = torch.as_tensor(values, dtype=dtype)
    if device.type != "cuda":
        return held.to(device)
    # From ordinary memory the copy, and with it all that the device was asked for before, would be waited for.
    return held.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """Values of tensors of one device on their way to the host, as one copy.

    Whoever waits for a later copy of the same device has waited for this one, too.
    """

    def __init__(self, *tensors: Tensor) -> None:
        parts = [tensor.detach().contiguous() for tensor in tensors]
        self._shapes = [(part.shape, part.dtype) for part in parts]
        self._order = sorted(range(len(parts)), key=lambda place: -parts[place].element_size())  # each begins aligned
        packed = torch.cat([parts[place].flatten().view(torch.uint8) for place in self._order])
        self._values = packed.to("cpu", non_blocking=True)
        self._done = torch.cuda.Event() if packed.is_cuda else None
        if self._done is not None:
            self._done.record()

    def arrays(self) -> list[np.ndarray]:
        """Arrays of the tensors' shapes and types, once they are there."""
        if self._done is not None:
            self._done.synchronize()
        together, begin = self._values.numpy(), 0
        arrays: list[np.ndarray] = [together] * len(self._shapes)
        for place in self._order:
            shape, dtype = self._shapes[place]
            end = begin + shape.numel() * dtype.itemsize
            kind = str(dtype).removeprefix("torch.")  # NumPy has the same names
            arrays[place] = together[begin:end].view(kind).reshape(shape)
            begin = end
        return arrays


def to_host(*tensors: Tensor) -> list[np.ndarray]:
    """Values of tensors of one device as arrays of the same shapes and types, in one copy."""
    return HostCopy(*tensors).arrays()
