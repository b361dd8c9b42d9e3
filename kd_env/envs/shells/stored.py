"""The state of a run on disk: numbers as safetensors, what holds them as JSON, nothing that could run code.

What is read back is what was written, to the last bit: arrays keep their type and shape, and Python's numbers survive
JSON. Types are not written but named, and a name counts only where a state of the present environment has that type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_env.core.locks import owned
from kd_files.manifest import check_manifest
from kd_files.reading import damaged, read_json
from kd_files.tensors import read_tensors, write_tensors
from kd_files.writing import new_folder, write_json

STATE, NUMBERS = "state.json", "state.safetensors"
FORMAT = 1
REMEDY = "go on from another state, or begin anew"
_PLAIN = (bool, int, float, str, type(None))


def write_state(folder: Path, state: Any, about: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all.

    Args:
        folder: new, or one that holds a state, which is replaced.
        state: named tuples, tuples and mappings of tensors, arrays and plain values.
        about: plain values that say of which problem it is.

    Raises:
        ValueError: ``folder`` holds something else, or another process is writing a state there.
        TypeError: the state holds something that cannot be written.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).is_file()):
        raise ValueError(f"{folder} exists and holds no state of an environment; choose another folder.")
    numbers: dict[str, Tensor] = {}
    form = _written(state, "", numbers)
    with owned(folder, "state", "wait until it is whole, or choose another folder"), new_folder(folder) as fresh:
        write_tensors(fresh / NUMBERS, numbers)
        write_json(fresh / STATE, {"format": FORMAT, "about": dict(about), "state": form})


def read_about(folder: Path) -> dict[str, Any]:
    """Of which problem the state in a folder is; raises ``ValueError`` where it holds none, or a damaged one."""
    about: dict[str, Any] = _read(folder)["about"]
    return about


def read_state(folder: Path, present: Any) -> Any:
    """What :func:`write_state` wrote.

    Args:
        folder: of the state.
        present: a state of the same problem, whose types are those that may be read.

    Raises:
        ValueError: no state, a damaged one, or one of another version.
    """
    form = _read(folder)["state"]
    numbers = read_tensors(folder / NUMBERS, REMEDY)
    kinds = {kind.__name__: kind for kind in _kinds(present)}
    try:
        return _made(form, numbers, kinds)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(folder / STATE, f"it is no state as this version writes them ({error!r})", REMEDY) from error


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / STATE).is_file():
        raise ValueError(f"{folder} holds no state of an environment ({STATE} is missing); {REMEDY}.")
    check_manifest(folder, REMEDY)
    values = read_json(folder / STATE, REMEDY, {"format": int, "about": dict, "state": dict})
    if values["format"] != FORMAT:
        raise ValueError(f"{folder / STATE} has format {values['format']}, this version reads {FORMAT}; {REMEDY}.")
    return values


def _written(value: Any, name: str, numbers: dict[str, Tensor]) -> dict[str, Any]:
    """The form of a value; its numbers join ``numbers`` under names that begin with ``name``."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        items = [_written(item, f"{name}/{place}", numbers) for place, item in enumerate(value)]
        return {"kind": "objects", "items": items}
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        numbers[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
        return {"kind": kind, "name": name, "shape": list(value.shape)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"The mapping at {name!r} has keys that are no texts.")
        return {"kind": "mapping", "items": {key: _written(value[key], f"{name}/{key}", numbers) for key in value}}
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        places = range(len(value)) if fields is None else fields
        items = [_written(item, f"{name}/{place}", numbers) for place, item in zip(places, value, strict=True)]
        if fields is None:
            return {"kind": "tuple", "items": items}
        return {"kind": "named", "type": type(value).__name__, "items": dict(zip(fields, items, strict=True))}
    if type(value) in _PLAIN:
        return {"kind": "plain", "value": value}
    raise TypeError(f"A state cannot hold {type(value).__name__} at {name!r}: only tensors, arrays and plain values.")


def _made(form: Mapping[str, Any], numbers: Mapping[str, Tensor], kinds: Mapping[str, Any]) -> Any:
    """What :func:`_written` was given."""

    def made(inner: Mapping[str, Any]) -> Any:
        return _made(inner, numbers, kinds)

    match form["kind"]:
        case "plain":
            return form["value"]
        case "tensor":
            return numbers[form["name"]].reshape(form["shape"])
        case "array":
            return numbers[form["name"]].numpy().reshape(form["shape"])
        case "objects":
            objects = np.empty(len(form["items"]), dtype=object)
            for place, inner in enumerate(form["items"]):
                objects[place] = made(inner)
            return objects
        case "mapping":
            return {key: made(inner) for key, inner in form["items"].items()}
        case "tuple":
            return tuple(made(inner) for inner in form["items"])
        case "named":
            return kinds[form["type"]](**{key: made(inner) for key, inner in form["items"].items()})
    raise ValueError(f"unknown kind {form['kind']!r}")


def _kinds(value: Any) -> Iterator[type[Any]]:
    """Types of the named tuples in a value."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            yield type(value)
        for inner in value:
            yield from _kinds(inner)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for inner in value:
            yield from _kinds(inner)
