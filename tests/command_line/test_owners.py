"""A folder has one owner at a time: who writes it is told to the others, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.jobs import study
from cli.main import main
from cli.settings.options import split_options
from kd_env.core import locks

pytestmark = pytest.mark.usefixtures("undrawn")
ROOT = Path(__file__).resolve().parents[2]
ME = f"process {os.getpid()} on {socket.gethostname()}"


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "evaluation.seeds=2"),
        *("evaluation.rules=[all]", "progress=false", f"runs_dir={tmp_path}"),
    ]


def told(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 2
    return capsys.readouterr().err.strip()


def test_one_process_at_a_time_writes_a_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beginning, resuming, judging and studies: whoever comes second is told who is there, and nothing is written."""
    with locks.owned(tmp_path / "mine", "run folder", ""):
        for more in ([], ["resume=true"]):
            message = told(capsys, ["train", *words, "agent=rule/all", "name=mine", *more])
            assert "being written by" in message and ME in message and "name=..." in message
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.lock"]
    assert main(["train", *words, "agent=rule/all", "name=mine"]) == 0
    capsys.readouterr()
    with locks.owned(tmp_path / "mine" / "evaluations" / "twice", "evaluation", ""):
        assert ME in told(capsys, ["evaluate", f"run={tmp_path / 'mine'}", "name=twice"])
    with locks.owned(tmp_path / "several", "study", ""):
        assert ME in told(capsys, ["study", *words, "name=several", "agents=[actor_critic]"])
    assert not (tmp_path / "several").exists()


def test_a_study_and_a_run_of_it_meet(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training that somebody else resumes is not written twice."""
    given = [
        *(word for word in words if "progress" not in word),
        "agents=[actor_critic]",
        "trainings=1",
        "name=several",
    ]
    options, main_options = split_options("study", given)
    (training,) = study.plan(options, main_options)
    with locks.owned(training.folder, "run folder", ""), pytest.raises(ValueError, match=f"1 of 1 .*by {ME}"):
        study.study([*given, "jobs=1"], "kd-env study")


def test_a_dead_owner_is_followed(tmp_path: Path) -> None:
    """A process that is killed lets go of what it held, and its name does not stay."""
    code = (
        "import os, signal, sys; from pathlib import Path; from kd_env.core import locks\n"
        "with locks.owned(Path(sys.argv[1]), 'folder', ''): os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = tmp_path / "held"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT)
    lock = tmp_path / ".held.lock"
    assert done.returncode == -9 and json.loads(lock.read_text())["pid"] != os.getpid()
    with locks.owned(folder, "folder", ""):
        assert locks.owner(lock) == ME
        with pytest.raises(ValueError, match="written by process"), locks.owned(folder, "folder", "wait"):
            pytest.fail("there are two owners")
    assert not lock.exists()


def test_two_names_of_one_folder_have_one_owner(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with (
        locks.owned(tmp_path / "link", "folder", ""),
        pytest.raises(ValueError, match="written by"),
        locks.owned(tmp_path / "real", "folder", "wait"),
    ):
        pytest.fail("there are two owners")


def test_who_has_not_written_its_name_yet_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    assert locks.owner(tmp_path / "lock") == locks.owner(tmp_path / "none") == "another process"
