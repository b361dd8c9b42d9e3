"""A study on the terminal: read from its files, whole or half written, while it runs and from elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.errors import guarded
from cli.jobs.studies.watch import watch
from cli.main import run
from cli.runs import folder as runs
from cli.runs.backends.base import Child
from cli.runs.backends.local import Local
from cli.runs.pool import run_all
from cli.runs.shown import cells as c
from cli.runs.shown import live
from cli.runs.shown.studies import open_study
from cli.runs.shown.view import duration, render, summary
from kd_env.core.locks import owned


def make_run(study: Path, name: str, steps: int | None = None, total: int = 100, gap: float | None = None) -> Path:
    """A run folder as it looks while it trains (``steps``), or when it has finished (``gap``)."""
    folder = study / name
    (folder / runs.LOGS).mkdir(parents=True)
    (folder / runs.CONFIG).write_text(f"seed: 0\ntotal_timesteps: {total}\nenv:\n  total_timesteps: 7\n")
    lines = [json.dumps({"timesteps": step, "reward": 0.0}) + "\n" for step in range(10, (steps or 0) + 1, 10)]
    (folder / runs.LOGS / runs.METRICS).write_text("".join(lines))
    if gap is not None:
        policies = [policy("agent", gap, learned=True), policy("uniform", gap - 0.5), policy("oracle", 9.0, bound=True)]
        (folder / runs.RESULTS).write_text(json.dumps({"policies": policies}))
    return folder


def policy(name: str, gap: float, learned: bool = False, **marks: Any) -> dict[str, Any]:
    gaps = {"selection": {"mean": gap}, "validation": {"mean": -gap}}
    return {"policy": name, "learned": learned, "gap_closed": gaps, **marks}


def note(study: Path, states: dict[str, str], before: float = 0.0, ago: float = 100.0) -> None:
    record = {"begun": time.time() - ago, "before": before, "cells": states}
    (study / c.CELLS).write_text(json.dumps(record))


def shown(study: Path, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width, record=True)
    console.print(render(open_study(study).read(), width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two done, one at 60%, one that is judged, one that failed, one that waits."""
    folder = tmp_path / "harmful"
    make_run(folder, "toy-agent-seed0", gap=0.75)
    make_run(folder, "toy-agent-seed100", gap=0.25)
    make_run(folder, "toy-agent-seed200", 60)
    (make_run(folder, "toy-agent-seed300", 100) / runs.POLICY).mkdir()
    make_run(folder, "toy-agent-seed400", 20)
    (folder / "toy-agent-seed400.log").write_text("Traceback\nValueError: no room left\n")
    states = (c.ENDED, c.ENDED, c.RUNNING, c.RUNNING, c.FAILED, c.WAITING)
    note(folder, {f"toy-agent-seed{100 * index}": state for index, state in enumerate(states)})
    return folder


def test_a_view_of_all_cells(study: Path) -> None:
    with owned(study, "study", ""):
        found = open_study(study).read()
        text = shown(study)
    shares = [cell.share for cell in found.cells]
    assert shares == pytest.approx([1, 1, 0.8 * 0.6, 0.8, 0.8 * 0.2, 0]) and found.alive and not found.done
    left = found.left(found.parts[0].begun + 100)
    assert left == pytest.approx(100 / sum(shares) * (6 - sum(shares)))
    assert "2/6 done, 2 running, 1 failed, 1 waiting, ETA 7" in text
    assert "step 60/100  60%" in text and "judging" in text
    assert "failed: toy-agent-seed400: ValueError: no room left" in text
    # Means over trainings, of the selection split; dev numbers have the other sign, and bounds do not compete.
    assert "on the selection rows" in text and "toy-agent +0.500 (2 trainings), uniform +0.000 (rule)" in text
    assert "oracle" not in text


def test_a_narrow_terminal(study: Path) -> None:
    with owned(study, "study", ""):
        text = shown(study, 40)
    assert "60%" in text and "step" not in text and "toy-agent" in text and "failed:" in text


def test_only_progress_since_the_process_began_says_how_long_it_takes(study: Path) -> None:
    with owned(study, "study", ""):
        note(
            study,
            {f"toy-agent-seed{100 * index}": c.RUNNING for index in range(4)},
            before=open_study(study).read().share,
        )
        assert open_study(study).read().left(time.time()) is None  # nothing was made since
    assert open_study(study).read().left(time.time()) is None  # nobody works on it
    assert [duration(seconds) for seconds in (45, 750, 12600)] == ["45 s", "12 min", "3.5 h"]


def test_half_written_files_are_passed_over(study: Path) -> None:
    reader = open_study(study)
    (study / "toy-agent-seed0" / runs.RESULTS).write_text('{"policies": [{"policy": "ag')
    (study / "toy-agent-seed100" / runs.RESULTS).write_text("[]")
    log = study / "toy-agent-seed200" / runs.LOGS / runs.METRICS
    log.write_text(f"{log.read_text()}no json\n" + '{"timesteps": 9')
    (study / "toy-agent-seed300" / runs.CONFIG).write_text("total_times")
    (study / "pruning").mkdir()
    (study / "pruning" / "decision.json").write_text("{")
    with owned(study, "study", ""):
        found = {cell.name: cell for cell in reader.read().cells}
        assert found["toy-agent-seed200"].steps == 60 and found["toy-agent-seed300"].judging
        assert found["toy-agent-seed0"].state == "waiting" and reader.read().parts[0].best == ()
        (study / c.CELLS).write_text("{")  # then the runs in the folder are all that is known
        assert len(reader.read().cells) == 5
    agents = [{"pruned": True, "runs": ["toy-agent-seed400"]}, {"pruned": False, "runs": ["toy-agent-seed200"]}]
    (study / "pruning" / "decision.json").write_text(json.dumps({"agents": agents}))
    assert [cell.name for cell in reader.read().cells if "400" in cell.name] == []


def test_who_is_gone_is_stopped(study: Path) -> None:
    """Without a process nothing runs, whatever the file says; a run that is begun alone has a lock of its own."""
    assert "2/6 done, 1 failed, 1 waiting, 2 stopped" in shown(study)
    (study / c.CELLS).unlink()
    with owned(study / "toy-agent-seed200", "run folder", ""):
        states = {cell.name: cell.state for cell in open_study(study).read().cells}
    assert states["toy-agent-seed200"] == "running" and states["toy-agent-seed300"] == "stopped"
    lock = study / ".toy-agent-seed300.lock"
    lock.write_text(json.dumps({"pid": 2**22 + 1, "host": "elsewhere"}))
    assert open_study(study).read().count("running") == 1  # another host's process cannot be asked for
    lock.write_text('{"pid": ')
    assert open_study(study).read().count("running") == 0


def test_a_study_over_several_problems(tmp_path: Path) -> None:
    grid = tmp_path / "glue_small"
    for name, gap in (("sst2-clean", 0.5), ("rte-noisy", 0.25)):
        make_run(grid / name, f"{name}-agent-seed0", gap=gap)
        note(grid / name, {f"{name}-agent-seed0": c.ENDED, f"{name}-agent-seed100": c.WAITING})
    problems = [{"folder": name, "task": "x"} for name in ("sst2-clean", "rte-noisy", "cola-few")]
    (grid / "study.json").write_text(json.dumps({"name": "glue_small", "problems": problems}))
    with owned(grid / "rte-noisy", "study", ""):
        text = shown(grid)
        found = open_study(grid).read()
    assert "2/4 done, 2 waiting, 1 problem not begun" in text and found.alive
    assert "sst2-clean: sst2-clean-agent +0.500 (1 training), uniform +0.000 (rule)" in text
    assert "rte-noisy: rte-noisy-agent +0.250" in text and not found.done
    (grid / "study.json").write_text('{"problems": [')
    with pytest.raises(ValueError, match=r"study\.json names no problems"):
        open_study(grid)


# -- the command -------------------------------------------------------------------------------------------------------


def test_watch_ends_with_the_study(study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Without a terminal a line says what has changed; it ends when all is done, or nobody works on it."""
    steps: list[float] = []

    def sleep(seconds: float) -> None:
        steps.append(seconds)
        if len(steps) == 2:
            for name in ("toy-agent-seed200", "toy-agent-seed300", "toy-agent-seed400", "toy-agent-seed500"):
                (study / name).mkdir(exist_ok=True)
                (study / name / runs.RESULTS).write_text((study / "toy-agent-seed0" / runs.RESULTS).read_text())

    monkeypatch.setattr("cli.jobs.studies.watch.time.sleep", sleep)
    with owned(study, "study", ""):
        assert run("watch", [str(study), "every=0.5"], "kd-env watch") == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("harmful  2/6 done, 2 running, 1 failed, 1 waiting, ETA")
    assert first.endswith("best on selection: toy-agent +0.500 (2 trainings), uniform +0.000 (rule)")
    assert second.startswith("harmful  6/6 done; best") and last == "harmful is done." and steps == [0.5, 0.5]
    (study / "toy-agent-seed0" / runs.RESULTS).unlink()
    watch([f"study={study}"], "")
    assert "the command in its folder goes on" in capsys.readouterr().out
    watch([str(study), "once=true"], "")
    assert "5/6 done, 1 stopped" in capsys.readouterr().out


def test_watch_on_a_terminal(study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    watch([str(study)], "")
    out = capsys.readouterr().out
    assert "2/6 done" in out and "failed: toy-agent-seed400" in out and "Nobody works on harmful now" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{path}/harmfull"], "There is no folder .*harmfull; give that of a study.*There: harmful."),
        (["{path}/harmful/toy-agent-seed0"], "is the folder of one run; give that of its study"),
        (["{path}"], "No study lies in"),
        ([], "0 folders are given"),
        (["a", "study=b"], "2 folders are given"),
        (["{path}/harmful", "every=0"], r"every=0 must be a number of seconds in \(0, 3600\]"),
        (["{path}/harmful", "once=2"], "once=2 must be true or false"),
        (["{path}/harmful", "evry=1"], "Did you mean 'every'"),
    ],
)
def test_bad_words_are_refused(words: list[str], message: str, study: Path) -> None:
    with pytest.raises(ValueError, match=message):
        watch([word.format(path=study.parent) for word in words], "")


# -- the study itself --------------------------------------------------------------------------------------------------


def child(study: Path, name: str, code: str) -> Child:
    (study / f"{name}.py").write_text(code)
    return Child(name, ("runpy_child", str(study / f"{name}.py")), study / f"{name}.log")


class Here(Local):
    """Runs Python files."""

    def start(self, child: Child) -> Any:
        return super().start(child._replace(words=("timeit", "-n1", "-r1", f"exec(open({child.words[1]!r}).read())")))


def run_two(study: Path) -> list[Child]:
    study.mkdir()
    both = [child(study, "good", "pass"), child(study, "bad", "raise ValueError('no room left')")]
    return run_all(both, Here(2), shown=True, cells=True)


def test_a_study_keeps_what_became_of_its_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: the lines of before, and the file that others watch."""
    failed = run_two(tmp_path / "study")
    assert [one.name for one in failed] == ["bad"]
    record = c.read_record(tmp_path / "study")
    assert record is not None and record.cells == {"good": "ended", "bad": "failed"}
    err = capsys.readouterr().err
    assert "trainings 2/2" in err and "bad FAILED" in err and "study  " not in err
    assert "failed: bad: ValueError: no room left" in shown(tmp_path / "study")


def test_a_study_on_a_terminal_shows_its_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make_run(tmp_path / "other", "other-agent-seed0", gap=0.5)
    run_two(tmp_path / "study")
    err = capsys.readouterr().err
    assert "0/2 done" in err and "failed: bad: ValueError: no room left" in err and "trainings 2/2" not in err
    folders: Sequence[Path] = [tmp_path / "study", tmp_path / "other"]
    both = live._reader(folders).read()  # of several problems at once
    assert [part.name for part in both.parts] == ["study", "other"] and "1/3 done" in summary(both)


def test_interrupting_a_watch_loses_nothing(study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.jobs.studies.watch.time.sleep", interrupt)
    with owned(study, "study", ""):
        assert guarded(lambda: watch([str(study)], ""), "kd-env watch", debug=False) != 0
    assert "the study goes on" in capsys.readouterr().err
