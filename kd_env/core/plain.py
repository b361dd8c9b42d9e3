"""Options as plain values: mappings become dataclasses, keys that these do not have are refused."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_env.core import checks
from kd_env.core.registry import unknown_name

Plain = Mapping[str, Any]


class UnknownOption(TypeError, ValueError):
    """A keyword that does not exist. Tools that make environments by id go on without one after a ``TypeError``."""


def nested_options(name: str, options: Any, target: type[Any], allowed: str) -> Any:
    """``options`` if it is built already, else built from a mapping."""
    if isinstance(options, target):
        return options
    if not isinstance(options, Mapping):
        checks.refuse(name, options, allowed)
    refuse_unknown(f"{name} option", options, target)
    return target(**{key: plain_value(value) for key, value in options.items()})


def plain_value(value: Any) -> Any:
    """Paths as texts, NumPy's values as Python's, and lists (of lists) as tuples, so that configurations compare."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(plain_value(entry) for entry in value)
    return value


def refuse_unknown(kind: str, options: Plain, target: type[Any]) -> None:
    """Refuse keys that are no field of the dataclass ``target``, with near matches."""
    valid = [f.name for f in dataclasses.fields(target)]
    for key in options:
        if key not in valid:
            # TorchRL looks for Python's own words before it goes on without a keyword.
            python_words = f" (got an unexpected keyword argument {key!r})"
            raise UnknownOption(unknown_name(kind, key, valid) + python_words)
