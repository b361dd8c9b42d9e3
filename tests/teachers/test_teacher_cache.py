"""The disk cache of teacher outputs: interruptions, several processes, damage, and memory while it is read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.data.tables import Table
from kd_env.teachers import cache as teacher_cache
from kd_env.teachers.cache import CHUNKS_A_RECORD, MappedArray, stored_arrays
from kd_env.teachers.outputs import teacher_outputs
from kd_env.teachers.sources import CachedTeacher

ROWS, CHUNK = 40, 2
SIGNALS = (Signal("cls", 1), Signal("hidden_states", 1), Signal("attention_scores", 1))
ROOT = Path(__file__).resolve().parents[2]


class Lookup:
    """In place of an encoder: looks tokens up, counts the rows it is asked for, and can be stopped before a call."""

    facts = EncoderFacts(1, 8, 2, 2, 50)

    def __init__(self, before: Callable[[int], object] = lambda call: None) -> None:
        self.rows = self.calls = 0
        self.before = before
        self.values = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))

    def forward(self, params: dict[str, torch.Tensor], batch: Batch, signals: Any) -> ModelOutput:
        self.before(self.calls)
        self.rows, self.calls = self.rows + len(batch.labels), self.calls + 1
        states = self.values[batch.input_ids]
        heads = states.unflatten(-1, (2, 4)).transpose(1, 2)
        scores = heads @ heads.transpose(-1, -2)
        return ModelOutput(states[:, 1, :2], {1: states[:, 0]}, {1: states}, {1: scores}, {}, {}, {})


def random_table(seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 13, size=ROWS)
    ids = torch.as_tensor(rng.integers(1, 50, size=(ROWS, 12)), dtype=torch.int32)
    labels = np.zeros(ROWS, np.int64)
    return Table(
        ids, torch.zeros(ROWS, 12, dtype=torch.int8), lengths, torch.as_tensor(lengths), torch.as_tensor(labels), labels
    )


def outputs(encoder: Lookup, folder: Path | None, **options: Any) -> dict[Signal, np.ndarray]:
    given = {"dtype": "float16", "rows_at_once": CHUNK, "signals": SIGNALS, **options}
    found: dict[Signal, np.ndarray] = teacher_outputs(
        encoder,  # type: ignore[arg-type]
        given.pop("table", random_table()),
        given.pop("signals"),
        cache_dir=None if folder is None else str(folder),
        **given,
    )
    return found


def files(folder: Path) -> dict[str, bytes]:
    """The only finished cache in a folder, which holds nothing else."""
    (made,) = folder.iterdir()
    return {path.name: path.read_bytes() for path in sorted(made.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a build that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    outputs(Lookup(), folder)
    return files(folder)


def stop_at(call: int) -> Callable[[int], None]:
    def before(now: int) -> None:
        if now == call:
            raise KeyboardInterrupt

    return before


def in_child(folder: Path, before: str) -> list[str]:
    """Command of a process that builds the same cache, with an expression that is called before every forward pass."""
    build = f"t.outputs(t.Lookup(lambda call: {before}), t.Path({str(folder)!r}))"
    return [sys.executable, "-c", f"import test_teacher_cache as t, os, signal, time; {build}"]


CHILD = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])}


def test_the_cache_equals_memory(whole: dict[str, bytes], tmp_path: Path) -> None:
    held, kept = outputs(Lookup(), None), outputs(Lookup(), tmp_path)
    assert kept.keys() == held.keys() == {Signal("logits"), *SIGNALS}
    for key, array in held.items():
        assert isinstance(kept[key], np.memmap)
        np.testing.assert_array_equal(kept[key], array)
    assert files(tmp_path) == whole


@pytest.mark.parametrize("stops", [(0,), (1,), (11,), (19,), (3, 6)])
def test_an_interrupted_build_goes_on(whole: dict[str, bytes], tmp_path: Path, stops: tuple[int, ...]) -> None:
    """No finished chunk is computed again, and the files are those of an uninterrupted build."""
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            outputs(Lookup(stop_at(stop)), tmp_path)
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"], "nothing that could be taken for finished"
    encoder = Lookup()
    outputs(encoder, tmp_path)
    assert encoder.rows == ROWS - sum(stops) * CHUNK
    assert files(tmp_path) == whole
    outputs(encoder, tmp_path)
    assert encoder.rows == ROWS - sum(stops) * CHUNK, "a finished cache runs no teacher"


def test_a_killed_build_goes_on(whole: dict[str, bytes], tmp_path: Path) -> None:
    """SIGKILL: the lock is free at once, and at most a few chunks are computed again."""
    command = in_child(tmp_path, "call == 11 and os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run(command, env=CHILD, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".partial"]
    encoder = Lookup()
    outputs(encoder, tmp_path)
    assert ROWS - 11 * CHUNK <= encoder.rows <= ROWS - (12 - CHUNKS_A_RECORD) * CHUNK
    assert files(tmp_path) == whole


def test_two_processes_make_one_cache(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second waits for the first, says so, and uses its files."""
    cache, signs = tmp_path / "cache", tmp_path / "signs"
    signs.mkdir()
    begun, go_on = signs / "begun", signs / "go_on"
    wait = f"[t.Path({str(begun)!r}).touch(), [time.sleep(0.01) for _ in iter(t.Path({str(go_on)!r}).exists, True)]]"
    first = subprocess.Popen(in_child(cache, wait), env=CHILD, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert first.poll() is None and time.monotonic() < deadline, "the first process did not begin"
            time.sleep(0.02)
        pause = time.sleep

        def sleep(seconds: float) -> None:  # called while this process waits
            go_on.touch()
            pause(seconds)

        monkeypatch.setattr(teacher_cache.time, "sleep", sleep)
        encoder = Lookup()
        found = outputs(encoder, cache)
        assert go_on.exists() and "waiting for it" in caplog.text
        assert first.wait(60) == 0, first.stderr.read() if first.stderr else ""
    finally:
        go_on.touch()
        first.communicate(timeout=60)
    assert encoder.rows == 0
    assert files(cache) == whole
    for key, array in outputs(Lookup(), None).items():
        np.testing.assert_array_equal(found[key], array)


def cut_short(partial: Path) -> None:
    os.truncate(partial / "cls-1.npy", 40)


@pytest.mark.parametrize(
    "damage",
    [
        lambda partial: (partial / "cls-1.npy").unlink(),
        cut_short,
        lambda partial: np.save(partial / "cls-1.npy", np.zeros(3, np.float16)),
        lambda partial: (partial / "progress.json").write_text("{"),
        lambda partial: (partial / "progress.json").unlink(),
        shutil.rmtree,
    ],
    ids=["file gone", "file cut short", "other file", "half a record", "no record", "all gone"],
)
def test_a_damaged_partial_build_starts_afresh(
    whole: dict[str, bytes], tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        outputs(Lookup(stop_at(11)), tmp_path)
    (partial,) = tmp_path.iterdir()
    damage(partial)
    encoder = Lookup()
    outputs(encoder, tmp_path)
    assert encoder.rows == ROWS
    assert files(tmp_path) == whole


def test_other_chunks_are_not_mixed(tmp_path: Path) -> None:
    """A build that was begun with other rows at once starts afresh: its chunk numbers mean other rows."""
    with pytest.raises(KeyboardInterrupt):
        outputs(Lookup(stop_at(11)), tmp_path)
    encoder = Lookup()
    found = outputs(encoder, tmp_path, rows_at_once=5)
    assert encoder.rows == ROWS
    np.testing.assert_array_equal(found[Signal("cls", 1)], outputs(Lookup(), None)[Signal("cls", 1)])


def test_other_content_lies_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type, signals, rows, precision and weights; a cache of another format is left alone, even a broken one."""
    variants: list[dict[str, Any]] = [
        {},
        {"dtype": "float32"},
        {"signals": SIGNALS[:1]},
        {"table": random_table(1)},
        {"precision": "bf16"},
        {"identity": "other weights"},
    ]
    for count, options in enumerate(variants, start=1):
        encoder = Lookup()
        outputs(encoder, tmp_path, **options)
        assert encoder.rows == ROWS
        assert len(list(tmp_path.iterdir())) == count
    monkeypatch.setattr(teacher_cache, "CACHE_FORMAT", teacher_cache.CACHE_FORMAT - 1)
    outputs(Lookup(), tmp_path / "old")
    (old,) = (tmp_path / "old").iterdir()
    (old / "meta.json").write_text("{}")
    monkeypatch.undo()
    encoder = Lookup()
    outputs(encoder, tmp_path / "old")
    assert encoder.rows == ROWS
    assert old.exists()


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    """The file and the remedy are named; after the remedy all is well."""
    outputs(Lookup(), tmp_path)
    (made,) = tmp_path.iterdir()
    path = made / "hidden_states-1.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name} is missing, cut short or of other content\. Delete {made}"):
        outputs(Lookup(), tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        outputs(Lookup(), tmp_path)
    (made / "meta.json").write_text(json.dumps({**json.loads((made / "meta.json").read_text()), "teacher": "x"}))
    with pytest.raises(ValueError, match="teacher is 'x' there"):
        outputs(Lookup(), tmp_path)
    shutil.rmtree(made)
    outputs(Lookup(), tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be asked for beforehand on this system")
def test_a_full_disk_is_refused_before_the_teacher_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    encoder = Lookup()
    with pytest.raises(ValueError, match=r"no room for .* MiB; free some"):
        outputs(encoder, tmp_path)
    assert encoder.rows == 0
    assert list(tmp_path.iterdir()) == []


def test_spans_and_squares_are_padded_with_zeros(tmp_path: Path) -> None:
    """Against the obvious indexing, for more reads than pages are kept for at once."""
    values = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    mapped = MappedArray(np.load(tmp_path / "a.npy", mmap_mode="r"))
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 6, size=(7, 10))
    starts = rng.integers(0, 400, size=(7, 10))
    spans, squares = mapped.spans(starts, lengths, 6), mapped.squares(starts, lengths, 6)
    for place in np.ndindex(7, 10):
        start, length = starts[place], lengths[place]
        expected = np.zeros((6, 3), np.float32)
        expected[:length] = values[start : start + length]
        np.testing.assert_array_equal(spans[place], expected)
        square = np.zeros((6, 6, 3), np.float32)
        for row in range(length):
            for column in range(length):
                square[row, column] = values[start + row * length + column]
        np.testing.assert_array_equal(squares[place], square)
    np.testing.assert_array_equal(mapped.rows(starts), values[starts])
    mapped.rows(starts)[:] = 0  # a copy: neither refused nor written through
    np.testing.assert_array_equal(mapped.rows(starts), values[starts])


def resident() -> float:
    """Resident memory of this process in MiB."""
    path = Path("/proc/self/status")
    if not path.is_file():
        pytest.skip("this system does not tell the resident memory of a process in /proc")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return next(int(line[1]) / 1024 for line in lines if line[0] == "VmRSS:")


@pytest.fixture
def big(tmp_path: Path) -> np.memmap[Any, Any]:
    """A file of 200 MiB."""
    np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float16, shape=(200 * 2**20 // 768, 384))
    loaded: np.memmap[Any, Any] = np.load(tmp_path / "big.npy", mmap_mode="r")
    return loaded


def test_reading_leaves_nothing_resident(big: np.memmap[Any, Any]) -> None:
    """A whole pass in batches of 16 spans of 64 rows; the same pass without giving pages back holds the file."""
    starts = np.random.default_rng(0).permutation(len(big) // 64) * 64
    batches = [starts[i : i + 16] for i in range(0, len(starts), 16)]
    mapped = MappedArray(big)
    before = resident()
    most = before
    for batch in batches:
        mapped.spans(batch, np.full(len(batch), 64), 64)
        most = max(most, resident())
    assert most - before < 100
    for batch in batches:
        big[batch[:, None] + np.arange(64)].sum()
    assert resident() - before > 150, "this would be seen if pages were kept"


def test_one_large_read_keeps_few_pages(big: np.memmap[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many replicas read many rows at once, far apart: pages are given back on the way, not only at the end."""
    index = np.linspace(0, len(big) - 1, 4096).astype(np.int64)
    mapped, drop, seen = MappedArray(big), teacher_cache.drop_pages, [resident()]

    def watched(array: Any) -> None:
        seen.append(resident())
        drop(array)

    monkeypatch.setattr(teacher_cache, "drop_pages", watched)
    mapped.rows(index)
    assert max(seen) - seen[0] < 100
    assert resident() - seen[0] < 50


def test_building_leaves_nothing_resident(tmp_path: Path) -> None:
    """Written pages are given back, too."""
    most = [resident()] * 2

    def fill(arrays: Any, start: int) -> Iterator[int]:
        for chunk in range(start, 50):
            arrays["a.npy"][chunk * 2**20 : (chunk + 1) * 2**20] = chunk
            most[1] = max(most[1], resident())
            yield chunk + 1

    found = stored_arrays(tmp_path, {}, {"a.npy": (50 * 2**20, 1)}, "float16", fill, rows=50, rows_at_once=1)
    assert most[1] - most[0] < 50
    np.testing.assert_array_equal(found["a.npy"][:: 2**20, 0], np.arange(50))


def test_a_batch_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What observation and step ask for in turn; another width or other rows are read anew."""
    table = random_table()
    teacher = CachedTeacher(Lookup.facts, outputs(Lookup(), tmp_path, table=table), table, torch.float32)
    none: Any = None
    rows = np.array([[1, 2, 3]])
    first = teacher.signals(rows, table.gather(rows), none)
    assert teacher.signals(rows, table.gather(rows), none) is first
    wide = table.gather(np.append(rows, np.argmax(table.lengths))[None])
    wide = Batch(*(field[:, :3] for field in wide[:4]))
    second = teacher.signals(rows, wide, none)
    assert second.hidden_states[1].shape[2] == wide.input_ids.shape[-1]
    flat = teacher.signals(rows[0], table.gather(rows[0]), none)
    assert torch.equal(flat.cls[1], first.cls[1][0])
    other = teacher.signals(rows[:, ::-1].copy(), table.gather(rows[:, ::-1].copy()), none)
    assert torch.equal(other.cls[1], first.cls[1].flip(1))
