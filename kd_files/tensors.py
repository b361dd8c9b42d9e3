"""Tensors as safetensors, never as pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kd_files.reading import damaged


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a folder that is not in place yet, each with memory of its own (shared memory is refused).

    Raises:
        OSError: the disk is full, read-only or the like.
    """
    values: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        held = value.detach().cpu().contiguous()
        storage = held.untyped_storage()
        # A part of a larger tensor, or one that stands there twice, gets memory of its own; the others need no copy.
        own = storage.nbytes() == held.nbytes and storage.data_ptr() not in places
        values[name] = held if own else held.clone()
        places.add(storage.data_ptr())
    try:
        save_file(values, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error}); free some room, or choose another place.") from error


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        DamagedFile: it is missing, or no whole safetensors file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error, remedy) from error
