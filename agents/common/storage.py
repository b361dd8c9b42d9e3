"""Agents on disk: a folder with ``agent.json``, safetensors and a manifest, never a pickle.

A folder is written beside its place under a temporary name and renamed, so that a crash leaves the old one. Nothing is
written, or read to act, that is not finite: such a policy does something, and nobody would see that it chooses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agents.common.base import ActionSpace, Spaces
from kd_files import reading, tensors, writing
from kd_files.manifest import check_manifest

HEADER = "agent.json"
FORMAT = 1
REMEDY = "copy the whole folder again, or train the agent again"
_ACTING = ("networks", "normalizer", "candidates")
"""Files of what actions are made from."""
_MISFITS = (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError, AssertionError)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``target`` when the block ends without an error.

    Raises:
        ValueError: ``target`` is a file, or a folder with content that is no saved agent.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / HEADER).is_file()):
        raise ValueError(f"{target} exists and is no saved agent; choose another folder.")
    with writing.new_folder(target) as fresh:
        yield fresh


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Write ``agent.json``; ``header["agent"]`` names the agent."""
    text = json.dumps({"format": FORMAT, **header}, indent=2) + "\n"
    (folder / HEADER).write_text(text, encoding="utf-8")


def read_header(folder: Path, expected: str | None = None) -> dict[str, Any]:
    """Read ``agent.json``, once all files of the folder are known to be as they were written.

    Raises:
        ValueError: no saved agent, a damaged one, one of another format, or another agent than ``expected``.
    """
    writing.recover(folder)
    path = folder / HEADER
    if not path.exists():
        raise ValueError(f"{folder} holds no saved agent ({HEADER} is missing).")
    check_manifest(folder, REMEDY)
    header = reading.read_json(path, REMEDY)
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format {header.get('format')!r}, this version reads {FORMAT}; train it again.")
    reading.check_keys(path, header, {"agent": str}, REMEDY)
    if expected is not None and header["agent"] != expected:
        raise ValueError(f"{folder} holds the agent {header['agent']!r}, not {expected!r}; use agents.load_agent.")
    return header


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Tell in one line that the files of a folder do not fit together, where an agent cannot be made from them.

    Raises:
        ValueError: in place of what a missing key, another type or another shape raises.
    """
    try:
        yield
    except (
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        MemoryError,
        AssertionError,
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"The files of the saved agent {folder} do not fit together ({reason}); {REMEDY}.") from error


def write_tensors(path: Path, values: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors.

    Raises:
        ValueError: values to act with that are not finite.
    """
    if name := _not_finite(path, values):
        raise ValueError(
            f"The agent's {path.stem} are not finite ({name}): its training diverged, and it is not saved. Go on from "
            "what was saved before, or train again with a lower learning_rate."
        )
    tensors.write_tensors(path, values)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: the file is missing or damaged, or holds values to act with that are not finite.
    """
    values = tensors.read_tensors(path, REMEDY)
    if name := _not_finite(path, values):
        raise ValueError(f"{path} holds values that are not finite ({name}): no policy can act with them; {REMEDY}.")
    return values


def _not_finite(path: Path, values: Mapping[str, Tensor]) -> str | None:
    if path.stem not in _ACTING:
        return None
    return next((name for name, value in values.items() if not bool(torch.isfinite(value).all())), None)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as ``<prefix><name>``."""
    return {prefix + name: value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with ``prefix``, without it: what :func:`with_prefix` was given."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def flatten_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an optimiser as ``<prefix>.<parameter index>.<name>``."""
    flat: dict[str, Tensor] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            flat[f"{prefix}.{index}.{name}"] = torch.as_tensor(value)
    return flat


def restore_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`flatten_optimizer` gave; the options of the parameter groups are those of ``optimizer``."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            index, name = key[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _numbers(values: NDArray[Any]) -> list[float | str]:
    # JSON has no infinity; a text keeps the file readable by every parser.
    return [float(v) if np.isfinite(v) else str(v) for v in values.ravel()]


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Plain description of one of the spaces that agents know."""
    if isinstance(space, spaces.Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"kind": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": int(space.shape[0])}
    raise ValueError(f"Cannot describe the space {space}.")


def space_from_json(data: Mapping[str, Any]) -> spaces.Space[Any]:
    """The space that :func:`space_to_json` described."""
    match data["kind"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (np.array([float(v) for v in data[k]], dtype=dtype).reshape(shape) for k in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(data["nvec"], start=data["start"])
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
    raise ValueError(f"Unknown kind of space {data['kind']!r} in {HEADER}.")


def spaces_to_json(pair: Spaces) -> dict[str, Any]:
    """Both spaces as plain values."""
    return {"observation": space_to_json(pair.observation), "action": space_to_json(pair.action)}


def spaces_from_json(data: Mapping[str, Any]) -> Spaces:
    """Both spaces from plain values."""
    observation, action = space_from_json(data["observation"]), space_from_json(data["action"])
    assert isinstance(observation, spaces.Box)
    assert isinstance(action, ActionSpace)
    return Spaces(observation, action)
