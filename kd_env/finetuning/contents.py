"""What a model is made from, by content: what was made before is used again only as long as that is the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from kd_env.data.tasks import TASKS

MADE_FROM = "made_from"
"""Key of the record under which the contents stand."""
ROWS, ENCODERS = "rows", "encoders"
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_SETTLED = 10**9
"""Nanoseconds after which a changed file has another time: clocks of file systems are coarse."""

Contents = Mapping[str, str]


def task_contents(task: str, data_dir: str | None, encoders: Iterable[str]) -> Contents:
    """Hashes of the train split of a task and of the encoders that are trained on it.

    What lies on the hub, or is packaged, has no hash: its name stands for its content. Rows that a plug-in brings have.

    Args:
        task: by name.
        data_dir: of the task.
        encoders: folders or hub names.
    """
    folders = [Path(data_dir).expanduser() / task] if data_dir is not None else []
    if data_dir is not None and task == "custom":
        folders.append(Path(data_dir).expanduser())
    found = _contents((path for folder in folders for path in _files(folder, ("train*",))), encoders)
    read = TASKS[task].read if task in TASKS else None
    if read is None:
        return found
    columns = sorted((name, [str(value) for value in values]) for name, values in read("train").items())
    return {**found, ROWS: hashlib.sha256(json.dumps(columns).encode()).hexdigest()}


def text_contents(sources: Iterable[str], data_dir: str | None, encoder: str) -> Contents:
    """Hashes of the texts in folders and in the train splits of tasks, and of the encoder that is trained on them."""
    files: list[Path] = []
    for source in sources:
        folder = Path(source).expanduser()
        files += sorted(path for path in folder.rglob("*.txt") if path.is_file()) if folder.is_dir() else []
        files += _files(Path(data_dir).expanduser() / source, ("train*",)) if data_dir is not None else []
    return _contents(files, [encoder])


def changed(record: Mapping[str, Any], contents: Contents) -> list[str]:
    """What a record was made from, and is other now: ``rows`` or ``encoders``; records of earlier versions say nothing.

    A hash that one of the two has not is not compared: a folder may be gone that a model was made from.
    """
    before = record.get(MADE_FROM)
    if not isinstance(before, Mapping):
        return []
    both = before.keys() & contents.keys()
    return [name for name in (ROWS, ENCODERS) if name in both and before[name] != contents[name]]


def encoders_of(contents: Contents) -> Contents:
    """What an interrupted training has to agree on beside the rows, whose fingerprint says more."""
    return {ENCODERS: contents[ENCODERS]} if ENCODERS in contents else {}


def content_folder(plain: Path, contents: Contents, record: Mapping[str, Any] | None) -> Path:
    """Where a cache keeps what is made from these contents.

    Args:
        plain: where earlier versions kept it, whatever it was made from.
        contents: of now.
        record: of what lies there; None where nothing does.
    """
    if not contents or (record is not None and not changed(record, contents)):
        return plain
    mark = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:10]
    return plain.with_name(f"{plain.name}-{mark}")


def _contents(files: Iterable[Path], encoders: Iterable[str]) -> Contents:
    models = [path for name in encoders for path in _files(Path(name), _MODEL_FILES)]
    found = {ROWS: list(files), ENCODERS: models}
    return {name: _hash_of(paths) for name, paths in found.items() if paths}


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def _hash_of(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        settled = time.time_ns() - stat.st_mtime_ns > _SETTLED
        content = (_digest if settled else _digest.__wrapped__)(path.resolve(), stat.st_size, stat.st_mtime_ns)
        whole.update(f"{path.name} {content}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed_at: int) -> str:
    """SHA-256 of a file; remembered in this process by its size and the time of its last change."""
    with path.open("rb") as file:  # read in pieces: mapping it would make all of it resident
        return hashlib.file_digest(file, "sha256").hexdigest()
