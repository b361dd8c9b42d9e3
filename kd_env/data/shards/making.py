"""A corpus in shards: made where it is not there, gone on with where it was begun, checked whenever it is opened."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from kd_env.core import processes
from kd_env.core.locks import alone
from kd_env.data.shards.corpus import CORPORA, FORMAT, Corpus, Outlook
from kd_env.data.shards.work import FAULT, Entry, Plan, entry_path, read_entry, work, write_plan
from kd_files.manifest import digest
from kd_files.reading import DamagedFile, read_json
from kd_files.writing import flush_folder, sweep, write_json

log = logging.getLogger("kd_env")

MANIFEST = "manifest.json"
_POLL = 0.2  # seconds between two looks at what processes have made


def open_corpus(outlook: Outlook, cache: Path, *, workers: int | None = None, progress: bool = False) -> Corpus:
    """The corpus of some sources; it is made first where it is not there.

    Args:
        outlook: from :func:`look`.
        cache: folder that holds corpora by their identity.
        workers: processes that make it; None: one for each core.
        progress: whether a bar is shown.

    Raises:
        ValueError: a source that cannot be read, or shards that are damaged and cannot be made again.
    """
    (sources, plan), identity = outlook, outlook.identity
    folder = cache / CORPORA / identity[:16]
    parts = _opened(folder, identity, plan)
    if parts is None:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, "corpus"):
            parts = _opened(folder, identity, plan)  # another process may have made it meanwhile
            if parts is None:
                parts = _made(folder, identity, plan, workers, progress)
    return Corpus(folder, identity, sources, plan, parts)


def _opened(folder: Path, identity: str, plan: Plan) -> tuple[Entry, ...] | None:
    """The parts of a corpus that is whole; None where it has to be made, or made whole."""
    parts = _read_manifest(folder, identity, len(plan.parts))
    return parts if parts is not None and not _damaged(folder, parts) else None


def _read_manifest(folder: Path, identity: str, count: int) -> tuple[Entry, ...] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found = read_json(path, "it is made again", {"format": int, "identity": str, "parts": list})
    except DamagedFile as error:
        log.warning("%s", error)
        return None
    return tuple(found["parts"]) if found["identity"] == identity and len(found["parts"]) == count else None


def _damaged(folder: Path, parts: Sequence[Entry]) -> dict[int, str]:
    """Parts with a file that is not as it was written, and what is wrong with it."""

    def fault(part: int) -> str | None:
        for name, written in parts[part]["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != written["bytes"]:
                return f"{path} is damaged ({path.stat().st_size} bytes, {written['bytes']} when it was written)"
            if digest(path) != written["sha256"]:
                return f"{path} is damaged (other content than when it was written)"
        return None

    with ThreadPoolExecutor(_cores()) as pool:  # hashing leaves the interpreter to others
        faults = list(pool.map(fault, range(len(parts))))
    return {part: found for part, found in enumerate(faults) if found is not None}


# -- making


def _made(folder: Path, identity: str, plan: Plan, workers: int | None, progress: bool) -> tuple[Entry, ...]:
    known = _read_manifest(folder, identity, len(plan.parts))
    before = dict(enumerate(known or ()))
    begun = known or [read_entry(folder, part) for part in range(len(plan.parts))]
    done = {part: entry for part, entry in enumerate(begun) if entry is not None}
    numbers = list(done)
    for place, fault in _damaged(folder, [done[part] for part in numbers]).items():
        log.warning("%s; it is made again from its source.", fault)
        del done[numbers[place]]
    for part in range(len(plan.parts)):
        if part not in done:
            entry_path(folder, part).unlink(missing_ok=True)
        elif known is not None:
            write_json(entry_path(folder, part), done[part])
    sweep(folder)
    write_plan(folder, plan)
    _work(folder, plan, workers, progress)
    parts = []
    for part in range(len(plan.parts)):
        entry = read_entry(folder, part)
        assert entry is not None, "every part is done"
        if part in before and entry["files"] != before[part]["files"]:
            raise ValueError(
                f"Part {part} of the corpus {folder} was damaged, and its source no longer gives what it gave; delete "
                "the folder to pack all of it anew."
            )
        parts.append(entry)
    write_json(folder / MANIFEST, {"format": FORMAT, "identity": identity, "parts": parts})
    for part in range(len(parts)):
        entry_path(folder, part).unlink(missing_ok=True)
    flush_folder(folder)
    return tuple(parts)


def _work(folder: Path, plan: Plan, workers: int | None, progress: bool) -> None:
    """Make what is missing, with a bar over the bytes of text."""
    from tqdm import tqdm

    sizes = [sum(segment.size for segment in part) for part in plan.parts]
    missing = [part for part in range(len(sizes)) if not entry_path(folder, part).is_file()]
    count = min(workers or _cores(), len(missing))
    begun = sum(sizes) - sum(sizes[part] for part in missing)
    with tqdm(
        total=sum(sizes), initial=begun, desc="packing texts", unit="B", unit_scale=True, disable=not progress
    ) as bar:
        if count <= 1:
            work(folder, plan, bar.update)
        else:
            _in_processes(folder, count, lambda: bar.update(_finished(folder, sizes) - bar.n))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finished(folder: Path, sizes: Sequence[int]) -> int:
    return sum(size for part, size in enumerate(sizes) if entry_path(folder, part).is_file())


def _in_processes(folder: Path, count: int, tick: Callable[[], Any]) -> None:
    """Let processes work on a folder until all have ended; those of the others are ended where one fails."""
    with ExitStack() as stack:
        running: list[tuple[processes.Process, IO[str]]] = []
        for _ in range(count):
            said: IO[str] = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = processes.start(
                ["kd_env.data.shards.work", str(folder)],
                environment={"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append((process, said))
        while any(process.poll() is None for process, _ in running):
            for process, said in running:
                if process.returncode:
                    raise _failed(process.returncode, said)
            tick()
            time.sleep(_POLL)
        for process, said in running:
            if process.returncode:
                raise _failed(process.returncode, said)
        tick()


def _failed(status: int, said: IO[str]) -> Exception:
    """What went wrong in a process."""
    said.seek(0)
    lines = said.read().splitlines()
    fault = next((line.removeprefix(FAULT) for line in lines if line.startswith(FAULT)), None)
    if fault is not None:
        return ValueError(fault)
    if status < 0:
        return ChildProcessError(
            f"A process that packed texts was ended from outside (exit status {status}); what is packed stays: run the "
            "same again to go on."
        )
    return RuntimeError("A process that packed texts failed:\n" + "\n".join(lines[-20:]))
