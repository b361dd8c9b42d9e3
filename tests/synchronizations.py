"""How often the host would wait for the device: counted where there is no device.

On a CPU no call waits. So every tensor counts as one of the device, but for copies that the host has waited for and
tensors that were made of host arrays.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SCALARS = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__array__", "numpy"}
"""Methods that look at a tensor's values."""
SIZES = {"nonzero", "masked_select", "argwhere", "unique"}
"""Operations whose results have a size that depends on values."""
MAKERS = {"as_tensor", "tensor", "from_numpy"}


class Synchronizations(TorchFunctionMode):
    """Counts within a ``with`` block.

    Attributes:
        waits: times that the host waits for values of the device, by the line that looks at them. Who looks at a copy
            that was begun without waiting waits for it, unless there was another wait since.
        uploads: times that it waits for host arrays to be sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self._host: dict[int, Tensor] = {}  # held, so that no other tensor gets their number
        self._begun: dict[int, tuple[Tensor, int]] = {}  # copies on their way, with the waits so far

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count, then do what is asked for."""
        named, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        result = func(*args, **named)
        if first is None:
            if name not in MAKERS:
                return result
            if named.get("device") is None:
                return self._at_host(result)
            self.uploads[_line()] += 1
        elif name == "cpu" or (name == "to" and "cpu" in args[1:]):
            return self._home(first, result, bool(named.get("non_blocking")))
        elif name == "to" and id(first) in self._host and any(isinstance(each, torch.device) for each in args[1:]):
            return result.view_as(result)  # kd_env.core.trees does not wait there
        elif name in SCALARS | SIZES or (name == "__getitem__" and _masks(args[1])):
            self._look(first)
        return result

    def _home(self, tensor: Tensor, copy: Tensor, non_blocking: bool) -> Tensor:
        copy = copy.view_as(copy)
        if non_blocking and id(tensor) not in self._host:
            self._begun[id(copy)] = (copy, self.waits.total())
            return copy
        self._look(tensor)
        return self._at_host(copy)

    def _look(self, tensor: Tensor) -> None:
        begun = self._begun.get(id(tensor))
        if id(tensor) not in self._host and (begun is None or begun[1] == self.waits.total()):
            self.waits[_line()] += 1

    def _at_host(self, tensor: Tensor) -> Tensor:
        self._host[id(tensor)] = tensor
        return tensor


def _masks(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


def _line() -> str:
    """The innermost line of the package, but for that which only copies."""
    for frame in reversed(traceback.extract_stack()):
        if "/kd_env/" in frame.filename and not frame.filename.endswith("core/trees.py"):
            return f"{frame.filename.rsplit('/kd_env/', 1)[1]}:{frame.lineno}"
    return "elsewhere"
