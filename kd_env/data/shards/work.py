"""Parts of a corpus turned into shards, by any number of processes that share a folder.

A part is done when its entry is there, which is written last. Processes take parts under a lock each, so that none is
made twice at a time; what a process that was killed had begun is made anew.
``python -m kd_env.data.shards.work <folder>`` is such a process.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_env.core.locks import acquire, release
from kd_env.data.shards.packing import DEV, SPLITS, TRAIN, Packer, Packing, Shares, content_hashes, splits_of
from kd_env.data.shards.segments import BLOCK, Segment, texts_of
from kd_files.reading import DamagedFile, read_json
from kd_files.writing import atomic_write, write_json

PLAN = "plan.json"
FAULT = "fault: "
"""What a process says before a fault of the sources or the disk."""
_REMEDY = "delete the folder; it is made again"
DEV_PLACE = SPLITS.index(DEV)


class Plan(NamedTuple):
    """What is to be made."""

    parts: tuple[tuple[Segment, ...], ...]
    column: str
    data_dir: str | None
    packing: Packing
    keeps_hashes: bool  # of all texts but dev, so that those of a dev split can be compared with them


Entry = dict[str, Any]
"""What is known of a part that is done: ``rows``, ``ordinary`` (pairs: tokens that may be masked, rows), ``texts``,
``characters``, ``held`` (tokens by split), ``left_out`` (tokens at the end), ``files`` (size and hash by name)."""


def write_plan(folder: Path, plan: Plan) -> None:
    """Write a plan for other processes."""
    atomic_write(folder / PLAN, json.dumps(plan))


def read_plan(folder: Path) -> Plan:
    """A plan that was written."""
    parts, column, data_dir, packing, keeps = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    packing = Packing(*packing)
    packing = packing._replace(shares=Shares(*packing.shares))
    segments = tuple(tuple(Segment(*segment) for segment in part) for part in parts)
    return Plan(segments, column, data_dir, packing, keeps)


def entry_path(folder: Path, part: int) -> Path:
    """Where the entry of a part lies."""
    return folder / f"part-{part:05d}.json"


def shard_path(folder: Path, part: int, split: str) -> Path:
    """Where the tokens of a part lie: rows ``[R, S]`` of train, a stream ``[*]`` of what is held out."""
    return folder / (f"part-{part:05d}.npy" if split == TRAIN else f"part-{part:05d}.{split}.npy")


def read_entry(folder: Path, part: int) -> Entry | None:
    """The entry of a part; None where it is not done, or its entry is damaged."""
    path = entry_path(folder, part)
    try:
        return (
            read_json(path, _REMEDY, {"rows": int, "held": dict, "files": dict, "ordinary": list})
            if path.is_file()
            else None
        )
    except DamagedFile:
        return None


def work(folder: Path, plan: Plan, told: Callable[[int], None] = lambda size: None) -> None:
    """Make the parts that nobody has made or is making.

    Args:
        folder: of the corpus.
        plan: what is to be made.
        told: called with the bytes of text after each part.

    Raises:
        ValueError: a source that cannot be read, named.
    """
    packer = Packer(plan.packing)
    for part, segments in enumerate(plan.parts):
        lock = folder / f".part-{part:05d}.lock"
        if read_entry(folder, part) is not None or (held := acquire(lock)) is None:
            continue
        try:
            if read_entry(folder, part) is None:
                make_part(folder, part, plan, packer)
                told(sum(segment.size for segment in segments))
        finally:
            release(lock, held)


def make_part(folder: Path, part: int, plan: Plan, packer: Packer) -> Entry:
    """Tokenise, pack and write a part; the rows with most tokens that may be masked come first."""
    streams: list[list[np.ndarray]] = [[] for _ in SPLITS]
    hashes, texts, size = [], 0, 0
    for batch in _batches(plan, part):
        found = content_hashes(batch)
        splits = splits_of(found, plan.packing.shares)
        for kept, stream in zip(streams, packer.streams(batch, splits), strict=True):
            kept.append(stream)
        hashes.append(found[splits != DEV_PLACE] if plan.keeps_hashes else found[:0])
        texts += len(batch)
        size += sum(map(len, batch))
    train, *held = (np.concatenate([np.empty(0, plan.packing.dtype), *each]) for each in streams)
    rows = packer.rows(train)
    counts = packer.counts(rows)
    order = np.argsort(-counts, kind="stable")
    arrays = {shard_path(folder, part, TRAIN): rows[order]}
    arrays |= {shard_path(folder, part, name): each for name, each in zip(SPLITS[1:], held, strict=True) if len(each)}
    if plan.keeps_hashes:
        arrays[shard_path(folder, part, "hashes")] = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
    entry: Entry = {
        "rows": len(rows),
        "ordinary": [
            [int(count), int(number)] for count, number in zip(*np.unique(counts, return_counts=True), strict=True)
        ],
        "texts": texts,
        "characters": size,
        "held": {name: len(each) for name, each in zip(SPLITS[1:], held, strict=True)},
        "left_out": len(train) - len(rows) * plan.packing.width,
        "files": {path.name: _write(path, array) for path, array in arrays.items()},
    }
    write_json(entry_path(folder, part), entry)
    return entry


def _batches(plan: Plan, part: int) -> Iterator[list[str]]:
    """Texts of a part without blank ones, about a block at a time."""
    batch: list[str] = []
    size = 0
    for segment in plan.parts[part]:
        for texts in texts_of(segment, plan.column, plan.data_dir):
            for text in texts:
                if stripped := text.strip():
                    batch.append(stripped)
                    size += len(stripped)
                if size >= BLOCK:
                    yield batch
                    batch, size = [], 0
    if batch:
        yield batch


def _write(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write an array whole or not at all; its size and hash.

    Raises:
        OSError: the disk is full, read-only or the like.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    data = content.getvalue()
    try:
        atomic_write(path, data)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}); free some room, or choose another cache_dir.") from error
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def main(words: Sequence[str]) -> int:
    """A process that works on the folder it is told."""
    folder = Path(words[0])
    try:
        work(folder, read_plan(folder))
    except (ValueError, OSError) as error:
        print(f"{FAULT}{error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
