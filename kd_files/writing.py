"""Files and folders that are whole or not there at all, whatever ends the process: written, flushed, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from kd_files.manifest import write_manifest


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, then rename: readers see the old file or the whole new one."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else the name could reach the disk before the content does
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    atomic_write(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the place of ``target``, with its manifest, when the block ends without an error.

    What was there stays until the new one is whole and on the disk. A process that is killed between the two renames
    leaves it under another name, and :func:`recover` puts it back.

    Raises:
        OSError: the disk is full, read-only or the like; also where a library says so in its own way.
    """
    recover(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = _beside(target, "new"), _beside(target, "old")
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
    fresh.mkdir()
    try:
        yield fresh
        write_manifest(fresh)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        flush_folder(target.parent)
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written ({error}); free some room, or choose another place.") from error
    finally:
        recover(target)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Put back what was in ``target`` where a process was killed while :func:`new_folder` replaced it."""
    old = _beside(target, "old")
    if old.is_dir() and not target.exists():
        with suppress(FileNotFoundError):  # another process puts it back as well
            old.rename(target)


def sweep(folder: Path) -> None:
    """Delete what a process that was killed had begun to write in a folder, or in one below; nobody else may write."""
    for path in [*folder.rglob(".*.tmp"), *folder.rglob(".*.new")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")
