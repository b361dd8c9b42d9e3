"""Nested tuples, named tuples and dictionaries of tensors and arrays whose first axis is the replica.

Leaves are torch tensors and NumPy arrays (of objects too, where the objects are immutable); everything else is passed
through unchanged, and None stands for an absent leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Tree = TypeVar("Tree")


def map_leaves(fn: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply ``fn`` to every leaf of ``tree`` (with the same leaf of ``others``) and keep the structure."""
    result: Any
    if isinstance(tree, Tensor | np.ndarray):
        return fn(tree, *others)  # type: ignore[no-any-return]
    if isinstance(tree, dict):
        result = {key: map_leaves(fn, value, *(other[key] for other in others)) for key, value in tree.items()}  # type: ignore[index]
    elif isinstance(tree, tuple):
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
