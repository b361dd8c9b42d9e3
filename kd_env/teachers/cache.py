"""Arrays kept on disk under the hash of what they hold: built once, in chunks that survive an interruption, and read
memory-mapped.

Beside the finished folder ``teacher-<key>`` there may be, while one is built, ``teacher-<key>.lock`` (held by the
process that builds; a dead one lets go of it by itself) and ``teacher-<key>.partial`` (what is done so far, which the
next process goes on with). Keys are of the content, so that other options never meet.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_env.core.locks import POLL_SECONDS, acquire, release
from kd_files.manifest import digest
from kd_files.reading import read_json
from kd_files.writing import write_json

logger = logging.getLogger("kd_env")

CACHE_FORMAT = 3
"""Part of every key: caches of another format are left alone, and built anew. It rises, too, where passes round
otherwise: outputs of former passes give other courses than those that a new cache would hold."""
CHUNKS_A_RECORD = 4
"""Chunks between two records of the progress; a killed process loses at most so many, an interrupted one none."""
_META, _PROGRESS = "meta.json", "progress.json"
_READS_A_DROP = 32

Array = np.memmap[Any, Any]
Fill = Callable[[Mapping[str, np.ndarray], int], Iterator[int]]
"""``fill(arrays, start)`` computes the chunks from number ``start`` on, writes each into the arrays (by file name) and
yields how many are finished in all. A chunk's values must not depend on where it started."""


def stored_arrays(
    cache_dir: str | Path,
    content: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    dtype: str,
    fill: Fill,
    *,
    rows: int,
    rows_at_once: int,
    progress: bool = False,
) -> dict[str, Array]:
    """Read-only memory-mapped arrays by file name, computed where no finished folder holds them yet.

    An interrupted or killed build goes on at its last recorded chunk and gives the same bits as one in a single piece.
    Of several processes that want the same content one builds; the others wait and use what it has made.

    Args:
        cache_dir: parent folder, made where it is missing.
        content: what the values depend on, as JSON: its hash names the folder.
        shapes: file name -> shape.
        dtype: of all the files.
        fill: computes the chunks.
        rows: rows in all, for the progress of a process that waits.
        rows_at_once: rows of a chunk; a build that was begun with another number starts afresh.
        progress: whether a waiting process shows a progress bar (it logs a line in any case).

    Raises:
        ValueError: the folder under the key holds something else or is damaged, the disk has too little room, or the
            system has no file locks.
    """
    meta = {
        **content,
        "format": CACHE_FORMAT,
        "dtype": dtype,
        "signals": {file: list(shape) for file, shape in shapes.items()},
    }
    key = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"teacher-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(folder.name + ".partial")
        with _alone(folder.with_name(folder.name + ".lock"), partial, math.ceil(rows / rows_at_once), progress):
            if not folder.exists():  # else another process has finished it while this one waited
                _build(folder, partial, meta, fill, rows_at_once)
    _check(folder, meta)
    return {file: np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in shapes}


class MappedArray:
    """Reads spans of rows of a memory-mapped array ``[M, F]`` and gives their pages back at once.

    Pages of a mapped file count as resident memory for as long as they are mapped, and a page that is touched brings
    its neighbours with it (up to 2 MiB on Linux): without giving them back a process would soon hold the whole file.
    They stay in the system's file cache, so that reading them again costs no access to the disk.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        self._plain = array.view(np.ndarray)  # slices of a memmap cost several times as much

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Single rows: ``[...]`` numbers give ``[..., F]``, copied."""
        return self.spans(index, np.ones_like(index), 1)[..., 0, :]

    def spans(self, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """Rows ``start`` to ``start + length``, padded with zeros: ``[...]`` spans give ``[..., width, F]``."""
        padded = np.zeros((starts.size, width, self._plain.shape[1]), dtype=self._plain.dtype)
        for place, start, length in self._walk(starts, lengths):
            padded[place, :length] = self._plain[start : start + length]
        return padded.reshape(*starts.shape, *padded.shape[1:])

    def squares(self, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """``length * length`` rows from ``start`` each, padded with zeros to ``[..., width, width, F]``."""
        padded = np.zeros((starts.size, width, width, self._plain.shape[1]), dtype=self._plain.dtype)
        for place, start, length in self._walk(starts, lengths):
            cells = self._plain[start : start + length * length]
            padded[place, :length, :length] = cells.reshape(length, length, -1)
        return padded.reshape(*starts.shape, *padded.shape[1:])

    def _walk(self, starts: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, int, int]]:
        pairs = zip(starts.reshape(-1).tolist(), lengths.reshape(-1).tolist(), strict=True)
        for place, (start, length) in enumerate(pairs):
            yield place, start, length
            if (place + 1) % _READS_A_DROP == 0:
                drop_pages(self._array)
        drop_pages(self._array)


def drop_pages(array: Array) -> None:
    """Unmap what was read or written of a mapped file; the next access maps it again, with the same values."""
    mapping: Any = array._mmap  # type: ignore[attr-defined]  # numpy has no public name for it
    if hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _build(folder: Path, partial: Path, meta: Mapping[str, Any], fill: Fill, rows_at_once: int) -> None:
    arrays, start = _begin(partial, meta, rows_at_once)
    done = recorded = start
    try:
        for done in fill(arrays, start):
            if done - recorded >= CHUNKS_A_RECORD:
                _record(partial, arrays, done, rows_at_once)
                recorded = done
    finally:
        _record(partial, arrays, done, rows_at_once)
    digests = {file: digest(partial / file) for file in arrays}
    write_json(partial / _META, {**meta, "sha256": digests})
    os.rename(partial, folder)
    (folder / _PROGRESS).unlink()


def _begin(partial: Path, meta: Mapping[str, Any], rows_at_once: int) -> tuple[dict[str, Array], int]:
    """The files to write into, and how many chunks of them are finished."""
    shapes, dtype = meta["signals"], np.dtype(meta["dtype"])
    progress = _recorded(partial)
    if progress is not None and progress.get("rows_at_once") == rows_at_once:
        try:
            arrays = {file: np.load(partial / file, mmap_mode="r+", allow_pickle=False) for file in shapes}
        except (OSError, ValueError):  # a file is gone or was cut short by hand
            arrays = {}
        if arrays and all(list(arrays[file].shape) == shapes[file] and arrays[file].dtype == dtype for file in shapes):
            logger.info("Going on with the teacher cache %s: %d chunks are done.", partial, progress["chunks"])
            return arrays, int(progress["chunks"])
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    arrays = {
        file: np.lib.format.open_memmap(partial / file, mode="w+", dtype=dtype, shape=tuple(shape))
        for file, shape in shapes.items()
    }
    _reserve(partial, shapes)
    _record(partial, arrays, 0, rows_at_once)
    return arrays, 0


def _reserve(partial: Path, files: Mapping[str, Any]) -> None:
    """Ask for the room beforehand: on a full disk, writing into a mapped file kills the process without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    sizes = {file: (partial / file).stat().st_size for file in files}
    try:
        for file, size in sizes.items():
            with (partial / file).open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(partial)
        raise ValueError(
            f"The teacher cache {partial.parent} has no room for {sum(sizes.values()) / 2**20:.0f} MiB; free some, "
            "name another cache_dir, or keep less (cache_dtype=float16, fewer mapped layers)."
        ) from error


def _record(partial: Path, arrays: Mapping[str, Array], chunks: int, rows_at_once: int) -> None:
    """Say that so many chunks are finished, once their values are on the disk."""
    for array in arrays.values():
        array.flush()
        drop_pages(array)
    write_json(partial / _PROGRESS, {"rows_at_once": rows_at_once, "chunks": chunks})


def _recorded(partial: Path) -> dict[str, Any] | None:
    try:
        return read_json(partial / _PROGRESS, "", {"rows_at_once": int, "chunks": int})
    except (OSError, ValueError):  # nothing was begun, or the system went down before the file was on the disk
        return None


@contextmanager
def _alone(lock: Path, partial: Path, chunks: int, progress: bool) -> Iterator[None]:
    """Hold the lock; wait for a process that holds it, showing how far that has come."""
    try:
        held = acquire(lock)
    except ModuleNotFoundError as error:
        raise ValueError("A teacher cache on disk needs file locks of Unix; leave out cache_dir.") from error
    if held is None:
        from tqdm import tqdm

        logger.warning("Another process builds the teacher cache %s; waiting for it.", lock.with_suffix(""))
        with tqdm(total=chunks, desc="waiting for another process", disable=not progress, leave=False) as bar:
            while (held := acquire(lock)) is None:
                bar.update(int((_recorded(partial) or {}).get("chunks", 0)) - bar.n)
                time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        release(lock, held)


def _check(folder: Path, meta: Mapping[str, Any]) -> None:
    remedy = f"Delete {folder} or name another cache_dir."
    try:
        stored = read_json(folder / _META, "", {"sha256": dict})
    except (OSError, ValueError) as error:
        raise ValueError(f"The teacher cache {folder} has no readable {_META}. {remedy}") from error
    for name, value in meta.items():
        if stored.get(name) != value:
            raise ValueError(
                f"The teacher cache {folder} is of other content: {name} is {stored.get(name)!r} there and {value!r} "
                f"here. {remedy}"
            )
    for file in meta["signals"]:
        path = folder / file
        if not path.is_file() or digest(path) != stored["sha256"].get(file):
            raise ValueError(f"The teacher cache file {path} is missing, cut short or of other content. {remedy}")
