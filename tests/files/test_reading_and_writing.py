"""One reader and one writer: whatever is wrong with a file is one line that names it, and nothing is half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_files import manifest
from kd_files.manifest import MANIFEST, check_manifest, write_manifest
from kd_files.reading import DamagedFile, read_json, read_text
from kd_files.tensors import read_tensors, write_tensors
from kd_files.writing import atomic_write, new_folder, recover, write_json

DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 0x80]) + path.read_bytes()[1:]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "other content": lambda path: path.write_bytes(b"PK\x03\x04" * 20),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write_json(tmp_path / "values.json", {"name": "x"})
    write_tensors(tmp_path / "weights.safetensors", {"w": torch.ones(3)})
    assert read_json(tmp_path / "values.json", "") == {"name": "x"}
    assert read_tensors(tmp_path / "weights.safetensors", "")["w"].tolist() == [1.0, 1.0, 1.0]
    for name, read in (("values.json", read_json), ("weights.safetensors", read_tensors)):
        damage(tmp_path / name)
        with pytest.raises(ValueError) as told:
            read(tmp_path / name, "copy it again")
        assert str(tmp_path / name) in str(told.value) and str(told.value).endswith("; copy it again.")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[1]", "it holds no JSON object"),
        ("{}", "'steps' is missing"),
        ('{"steps": "5"}', "'steps' is '5', no int"),
        ('{"steps": true}', "'steps' is True, no int"),
        ('{"steps": %s}' % ("9" * 5000), "no JSON: Exceeds"),
        ("[" * 100_000, "no JSON: "),
    ],
)
def test_json_of_another_form_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"a\.json is damaged") as told:
        read_json(tmp_path / "a.json", "make it again", {"steps": int})
    assert fault in str(told.value)


def test_texts_are_utf8_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("größer".encode("latin-1"))
    with pytest.raises(DamagedFile, match="byte 2 is no UTF-8"):
        read_text(tmp_path / "a", "save it as UTF-8")
    with pytest.raises(DamagedFile, match="more than 3 bytes"):
        read_text(tmp_path / "a", "cut it", largest=3)


def test_writing_fails_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "a", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            atomic_write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(OSError, match="cannot be written"):
        write_tensors(tmp_path / "none" / "w.safetensors", {"w": torch.ones(1)})


def fill(folder: Path, text: str) -> None:
    with new_folder(folder) as fresh:
        (fresh / "a.txt").write_text(text)
        (fresh / "member").mkdir()
        (fresh / "member" / "b.txt").write_text(text)


def test_a_folder_is_there_whole_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as fresh:
        (fresh / "a.txt").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    fill(folder, "one")
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as fresh:
        raise KeyboardInterrupt
    assert (folder / "a.txt").read_text() == "one"
    shutil.copytree(folder, tmp_path / ".f.new")  # killed while it was written
    fill(folder, "two")
    assert (folder / "member" / "b.txt").read_text() == "two" and [path.name for path in tmp_path.iterdir()] == ["f"]
    folder.rename(tmp_path / ".f.old")  # killed between the two renames
    recover(folder)
    recover(folder)
    assert check_manifest(folder) and (folder / "a.txt").read_text() == "two"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("name", ["a.txt", "member/b.txt"])
def test_a_manifest_tells_every_damage(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    fill(tmp_path / "f", "content")
    damage(tmp_path / "f" / name)
    with pytest.raises(ValueError) as told:
        check_manifest((tmp_path / "f" / name).parent, "copy it again")
    assert str(tmp_path / "f" / name) in str(told.value) and "copy it again" in str(told.value)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "f", "content")
    path = tmp_path / "f" / MANIFEST
    whole = json.loads(path.read_text())
    for wrong in ({}, {"format": 1, "files": []}, {"format": 1, "files": {"a.txt": 3}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DamagedFile, match=rf"{MANIFEST} is damaged.*or delete"):
            check_manifest(tmp_path / "f")
    outside = {"format": 1, "files": {"../secret": whole["files"]["a.txt"]}}
    path.write_text(json.dumps(outside))
    with pytest.raises(DamagedFile, match=r"'\.\./secret' has no size"):
        check_manifest(tmp_path / "f")


def test_folders_of_earlier_versions_are_read_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not check_manifest(tmp_path) and not check_manifest(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} is of an earlier version: without {MANIFEST} damage in it goes unseen."
    ]
    assert not check_manifest(tmp_path / "foreign", ours=False) and len(caplog.records) == 1


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large teacher is read by several parts of a job; one that has just changed is hashed again in any case."""
    fill(tmp_path / "f", "content")
    hashed: list[str] = []
    original = manifest.hashlib.file_digest

    def digest(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return original(file, name)

    monkeypatch.setattr(manifest.hashlib, "file_digest", digest)
    os.utime(tmp_path / "f" / "a.txt", ns=(0, 0))
    for _ in range(3):
        check_manifest(tmp_path / "f")
    assert hashed == [str(tmp_path / "f" / "a.txt")]
    write_manifest(tmp_path / "f")
    assert hashed[1:] == [str(tmp_path / "f" / "member" / "b.txt")]
