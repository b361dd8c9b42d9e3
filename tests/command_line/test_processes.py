"""Processes end with the one that started them, whatever ends it, and say what they did or why not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kd_env.core import processes
from tests import sleepers

ROOT = Path(__file__).resolve().parents[2]


def test_workers_tell_and_give_their_results() -> None:
    told: list[int] = []
    assert processes.side_by_side(sleepers.sleep, [(0.0,), (0.01,)], told.append) == ["slept 0.0", "slept 0.01"]
    assert len(set(told)) == 2 and os.getpid() not in told


def test_an_error_of_a_worker_is_that_of_the_job() -> None:
    """One worker fails, and the others do not go on for nobody."""
    told: list[int] = []

    def failing() -> None:
        processes.side_by_side(sleepers.fail, [(ValueError("a fault"),), (ValueError("a fault"),)], told.append)

    with pytest.raises(ValueError, match="a fault") as raised:
        failing()
    assert "in fail" in raised.value.__notes__[0]
    with pytest.raises(ChildProcessError, match=r"ended from outside \(exit status -9\)"):
        processes.side_by_side(sleepers.die, [()], told.append)


@pytest.mark.parametrize(
    ("stop", "status", "words"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, 143, "sleepers: stopped: all is kept."),
        (signal.SIGINT, 130, "sleepers: stopped: all is kept."),
    ],
)
def test_nothing_is_left_of_a_job_that_is_ended(stop: signal.Signals, status: int, words: str) -> None:
    code = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{code}runpy.run_module('tests.sleepers', run_name='__main__', alter_sys=True)"]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None
    ids = [int(job.stdout.readline()) for _ in range(3)]
    job.send_signal(stop)
    _, said = job.communicate(timeout=60)
    assert job.returncode == status and said.strip() == words
    end = time.monotonic() + 30
    while (left := [each for each in ids if runs(each)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def runs(identity: int) -> bool:
    """Whether a process is there, and more than what is left of one until its parent looks."""
    try:
        state = Path(f"/proc/{identity}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_what_a_started_process_prints(tmp_path: Path) -> None:
    printed = processes.output(["timeit", "-n1", "-r1", "print('here')"], environment={"OMP_NUM_THREADS": "1"})
    assert printed.startswith("here")
    with pytest.raises(RuntimeError, match=r"timeit.* failed:\n[\s\S]*no_such_name"):
        processes.output(["timeit", "-n1", "-r1", "no_such_name"])


def test_workers_find_imported_what_they_need_and_have_the_variables_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    forked = sys.platform == "linux" and torch.version.cuda is None
    assert processes.workers().get_start_method() == ("forkserver" if forked else "spawn")
    monkeypatch.setenv("KD_ENV_SAID", "first")
    processes.side_by_side(sleepers.sleep, [(0.0,)], lambda _: None)  # the server runs since then at the latest
    monkeypatch.setenv("KD_ENV_SAID", "now")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    found = processes.side_by_side(sleepers.surroundings, [(), ()], lambda _: None)
    assert [each[:3] for each in found] == [("now", None, forked)] * 2
    assert found[0][3] != found[1][3]  # a fork copies the state of what draws


@pytest.mark.parametrize("built", ["cuda", "hip", "xpu"])
def test_nothing_is_forked_where_torch_may_drive_devices(built: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, built, "12.8", raising=False)
    assert processes.workers().get_start_method() == "spawn"


@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")
@pytest.mark.parametrize("built", [None, "12.8"])
def test_a_module_runs_in_a_worker_as_on_its_own(
    built: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)  # the second time spawned
    log = tmp_path / "log"
    log.write_text("before\n")
    words, variables = ["tests.sleepers", "said", "3"], {**os.environ, "KD_ENV_SAID": "here"}
    worker = processes.workers().Process(target=processes.run_module, args=(words, log, variables, 2))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 3
    before, said, *last = log.read_text().splitlines()
    assert before == "before" and last == ["a thread has ended", "left"]  # what it registered for its end was done
    # A session and an empty input of its own, and the way to start processes that everybody has.
    assert said == f"['said', '3'] here 2 True {multiprocessing.get_context().get_start_method()}  b''"


@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")
@pytest.mark.parametrize("again", [False, True])
def test_trainings_close_what_they_opened_or_are_killed(again: bool, tmp_path: Path) -> None:
    """A signal to the whole group, as of ``timeout``, leaves them their time; a second one ends all at once."""
    log = tmp_path / "log"
    code = (
        # Where the tests run in the background of a shell, SIGINT is ignored, by all that they start, too.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import pathlib, torch; from cli.errors import guarded; from cli.runs.backends.base import Child\n"
        "from cli.runs.backends.local import Local; from cli.runs.pool import run_all\n"
        f"child = Child('one', ('tests.sleepers', 'slow', '{60 if again else 1}'), pathlib.Path({str(log)!r}))\n"
        "raise SystemExit(guarded(lambda: run_all([child], Local(1), shown=False), 'job', debug=False))"
    )
    job = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)
    wait_for(lambda: log.exists() and "works" in log.read_text())
    os.killpg(job.pid, signal.SIGTERM)
    if again:
        time.sleep(1)
        os.kill(job.pid, signal.SIGINT)
    begun = time.monotonic()
    job.communicate(timeout=60)
    assert time.monotonic() - begun < 10  # within PATIENCE, though a training would take a minute
    assert ("closed" in log.read_text()) is not again


def wait_for(found: Callable[[], bool]) -> None:
    """Until something is there, for a minute at most."""
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)
