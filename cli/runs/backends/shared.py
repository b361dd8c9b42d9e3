"""Whether other machines see the folders of a study: marks that are written here and read there, and the reverse."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kd_env.core import locks
from kd_files.writing import atomic_write

Marks = Mapping[str, str]
"""Path of a mark by the option that says where its folder is."""


@contextmanager
def marked(folders: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """Write a mark into each folder, by the option that names it, while the block runs; their paths by option."""
    name = f".seen-{secrets.token_hex(8)}"
    marks = {option: folder.resolve() / name for option, folder in folders.items()}
    try:
        for path in marks.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, name)
        yield {option: str(path) for option, path in marks.items()}
    finally:
        for path in marks.values():
            path.unlink(missing_ok=True)


def unseen(marks: Marks, directory: str) -> str:
    """What of a study this machine does not see, in words; nothing where it sees all.

    Args:
        marks: as :func:`marked` gave them.
        directory: in which the study was started, to which its paths are relative.
    """
    here = socket.gethostname()
    for option, mark in marks.items():
        path = Path(mark)
        if not path.is_file() or path.read_text(encoding="utf-8") != path.name:
            return (
                f"{here} does not see {path.parent} as the machine of the study does: set {option}=... to a folder on "
                "a file system that all of them share."
            )
    if not os.path.isdir(directory):
        return (
            f"{here} has no folder {directory}, in which the study was started: start it in one that all machines see."
        )
    return ""


def answer(marks: Marks, node: str) -> bool:
    """Write beside every mark, from another machine; whether locks of the study's machine hold here, too."""
    for mark in marks.values():
        atomic_write(Path(f"{mark}.{node}"), node)
    return all(_is_locked(Path(f"{mark}.lock")) for mark in marks.values())


def unanswered(marks: Marks, node: str) -> str:
    """What :func:`answer` wrote on another machine and is not seen here, in words; nothing where all is."""
    for option, mark in marks.items():
        path = Path(f"{mark}.{node}")
        if not path.is_file():
            return (
                f"What {node} writes into {path.parent} is not seen here: set {option}=... to a folder on a file "
                "system that all machines share."
            )
        path.unlink()
    return ""


@contextmanager
def locked(marks: Marks) -> Iterator[None]:
    """Hold a lock beside every mark, so that other machines can try whether they are kept out."""
    paths = [Path(f"{mark}.lock") for mark in marks.values()]
    held = {path: locks.acquire(path) for path in paths}
    try:
        yield
    finally:
        for path, descriptor in held.items():
            if descriptor is not None:
                locks.release(path, descriptor)


def _is_locked(lock: Path) -> bool:
    held = locks.acquire(lock)
    if held is not None:
        locks.release(lock, held)
    return held is None
