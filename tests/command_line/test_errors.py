"""What the system refuses is an error of the user: one line with the file and the remedy, and exit status 2."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from cli.errors import guarded
from cli.main import main
from cli.settings.options import folder_name
from kd_files.reading import DamagedFile, damaged

WORDS = ["task=toy", "agent=rule/all", "evaluation.rules=[]", "evaluation.seeds=1", "env.budget=2", "progress=false"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some room"),
        (errno.EDQUOT, "free some room"),
        (errno.EROFS, "choose another place"),
        (errno.EACCES, "choose another place"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EISDIR, "a file is where a folder should be"),
        (errno.ENOTDIR, "a file is where a folder should be"),
        (errno.ENOENT, "check the path"),
        (errno.EMFILE, "too many files are open"),
    ],
)
def test_refusals_of_the_system_are_one_line(number: int, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        raise OSError(number, os.strerror(number), "/some/place")

    assert guarded(job, "kd-env train", debug=False) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kd-env train: error: /some/place: {os.strerror(number)}; ") and remedy in line


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return str(line)


def test_places_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "cannot be made" in told(["train", *WORDS, f"runs_dir={file}"], capsys)
    assert "name=xxxx" in told(["train", *WORDS, f"runs_dir={tmp_path}", f"name={300 * 'x'}"], capsys)
    assert "(File name too long); choose another place" in told(
        ["train", *WORDS, f"runs_dir={tmp_path}/{300 * 'x'}"], capsys
    )
    (tmp_path / "mine").touch()
    assert "mine exists" in told(["train", *WORDS, f"runs_dir={tmp_path}", "name=mine"], capsys)
    assert "no run folder" in told(["train", *WORDS, f"runs_dir={tmp_path}", "name=mine", "resume=true"], capsys)
    (tmp_path / "ours" / "config.yaml").mkdir(parents=True)
    assert "exists" in told(["train", *WORDS, f"runs_dir={tmp_path}", "name=ours"], capsys)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "new"))

    monkeypatch.setattr(os, "fsync", full)
    line = told(["train", *WORDS, f"runs_dir={tmp_path}", "name=new"], capsys)
    assert "No space left on device; the disk or the quota is full" in line


@pytest.mark.parametrize("value", [5, "", "a/b", "..", ".hidden", "ä" * 101])
def test_names_of_folders(value: Any) -> None:
    with pytest.raises(ValueError, match="name="):
        folder_name(value)
    assert folder_name("ä" * 100) == "ä" * 100


def test_a_damaged_file_is_told_by_other_processes_too() -> None:
    """An error that cannot be pickled breaks the pool of processes, and nobody learns which file it was."""
    error = pickle.loads(pickle.dumps(damaged(Path("a"), "x", "copy it")))
    assert type(error) is DamagedFile and str(error) == "a is damaged (x); copy it."
