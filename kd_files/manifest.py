"""The manifest of a folder: the sizes and hashes of its files, written last and checked before they are read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from kd_files.reading import check_keys, damaged, read_json

logger = logging.getLogger("kd_env")

MANIFEST = "kd_env_manifest.json"
FORMAT = 1
_FOREIGN_REMEDY = "copy the folder again, or delete {manifest} if you changed the file yourself"

_SETTLED = 10**9
"""Nanoseconds after which a changed file has another time: clocks of file systems are coarse."""

_digests: dict[tuple[str, int, int], str] = {}
"""What was hashed in this process, by path, size and time of the last change."""
_told: set[str] = set()


def write_manifest(folder: Path, *, deep: bool = True) -> None:
    """Write the manifest of a folder, and where it is ``deep`` one into every folder in it.

    It is whole or not there, and all files that it names are on the disk.
    """
    for child in sorted(path for path in folder.iterdir() if deep and path.is_dir()):
        write_manifest(child)
    files = {}
    hidden = (MANIFEST, ".")
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(hidden)):
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    temporary = folder / f".{MANIFEST}.tmp"
    with temporary.open("w", encoding="utf-8") as opened:
        opened.write(json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(folder / MANIFEST)


def check_manifest(folder: Path, remedy: str | None = None, *, ours: bool = True) -> bool:
    """Check a folder against its manifest; whether it has one.

    Args:
        folder: to be read.
        remedy: for the message; None: copy it again, or delete the manifest.
        ours: whether a folder without a manifest was written by an earlier version, so that it is said once.

    Raises:
        DamagedFile: a file is missing, or has other content than when it was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if ours and str(folder) not in _told:
            _told.add(str(folder))
            logger.warning("%s is of an earlier version: without %s damage in it goes unseen.", folder, MANIFEST)
        return False
    remedy = _FOREIGN_REMEDY.format(manifest=path) if remedy is None else remedy
    entries = read_json(path, remedy, {"format": int, "files": dict})["files"]
    for name, entry in entries.items():
        if not isinstance(entry, dict) or Path(name).name != name:
            raise damaged(path, f"{name!r} has no size and hash", remedy)
        check_keys(path, entry, {"bytes": int, "sha256": str}, remedy)
        _check_file(folder / name, entry, remedy)
    return True


def check_file(path: Path, remedy: str) -> None:
    """Check one file against the manifest of its folder; one that stands in none is not checked.

    Raises:
        DamagedFile: it has other content than when it was written, or the manifest is damaged.
    """
    manifest = path.parent / MANIFEST
    if not manifest.is_file() or not path.is_file():
        return
    entry = read_json(manifest, remedy, {"files": dict})["files"].get(path.name)
    if isinstance(entry, dict):
        check_keys(manifest, entry, {"bytes": int, "sha256": str}, remedy)
        _check_file(path, entry, f"{remedy}, or delete {manifest} if you changed the file yourself")


def _check_file(path: Path, entry: dict[str, Any], remedy: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}.")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise damaged(path, f"{size} bytes, {entry['bytes']} when it was written", remedy)
    if digest(path) != entry["sha256"]:
        raise damaged(path, "other content than when it was written", remedy)


def digest(path: Path) -> str:
    """SHA-256 of a file, remembered as long as its size and the time of its last change stay."""
    stat = path.stat()
    key = str(path.resolve()), stat.st_size, stat.st_mtime_ns
    if key in _digests:
        return _digests[key]
    with path.open("rb") as file:  # read in pieces: mapping it would make all of it resident
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - stat.st_mtime_ns > _SETTLED:
        _digests[key] = found
    return found


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder by name; empty where there is no folder."""
    return {path.name: digest(path) for path in sorted(folder.iterdir()) if path.is_file()} if folder.is_dir() else {}
