"""Evaluations keep what is judged and go on with the rest: in the main job and again from a run folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from agents import load_agent
from cli.jobs import contenders, evaluate
from cli.jobs.progress import show_progress
from cli.main import main, run
from cli.runs.watch import read_history
from cli.settings.compose import compose
from cli.settings.read import read_settings
from kd_env.evaluation.judging import protocol
from kd_env.evaluation.judging.keeping.kept import KeptResults
from kd_env.evaluation.judging.results import Measured, PolicyResult, SplitScores, TaughtBeside

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def words(tiny: dict[str, Any], tmp_path: Path) -> list[str]:
    return [
        "task=custom",
        f"task.data_dir={tiny['data_dir']}",
        f"teacher.path={tiny['teacher']}",
        *("student=toy_small", "student.hidden_size=8", "task.feedback_rows=32", "task.selection_rows=32"),
        *("env.evaluation_rows=32", "env.batch_size=4", "env.budget=4", "evaluation.seeds=2", "agent=rule/all"),
        *("evaluation.rules=[soft_label_only,hard_label_only]", f"runs_dir={tmp_path}", "name=mine"),
    ]


def interrupted_at(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Policies that are driven, until one of them is interrupted."""
    original, driven = protocol.drive, list[str]()

    def drive(stack: Any, *rest: Any) -> Any:
        [policy] = stack.contenders
        if policy == name:
            raise KeyboardInterrupt
        driven.append(policy)
        return original(stack, *rest)

    monkeypatch.setattr(protocol, "drive", drive)
    return driven


def policies(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())["policies"]


def test_the_evaluation_of_a_run_goes_on(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    with monkeypatch.context() as patch:
        driven = interrupted_at("hard_label_only", patch)
        assert main(["train", *words]) == 130
        assert driven == ["all", "soft_label_only"] and (folder / "judged").is_dir()
    said = capsys.readouterr().err
    assert f"stopped: {folder} keeps the trained policy; the same command with resume=true goes on." in said
    with monkeypatch.context() as patch:
        driven = interrupted_at("", patch)
        assert main(["train", *words, "resume=true"]) == 0
        assert driven == ["hard_label_only"] and not (folder / "judged").exists()
    assert "Judged before, and kept: all, soft_label_only." in capsys.readouterr().out
    assert main(["train", *words[:-1], "name=whole"]) == 0
    assert policies(folder) == policies(tmp_path / "whole")

    with monkeypatch.context() as patch:
        interrupted_at("soft_label_only", patch)
        assert main(["evaluate", f"run={folder}"]) == 130
    assert "the same command goes on with the others" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        driven = interrupted_at("", patch)
        assert main(["evaluate", f"run={folder}", "env.budget=2"]) == 0  # another one
        assert (folder / "evaluations" / "2" / "results.json").is_file() and len(driven) == 3
        (folder / "evaluations" / ".1.lock").touch()  # of a process that was killed
        assert main(["evaluate", f"run={folder}"]) == 0
        assert driven[3:] == ["soft_label_only", "hard_label_only"]
    assert policies(folder / "evaluations" / "1") == policies(folder)
    assert main(["evaluate", f"run={folder}", "name=1"]) == 2


def test_results_of_other_options_or_damaged_ones_do_not_count(tmp_path: Path) -> None:
    scores = SplitScores(
        {"accuracy": np.array([0.5, np.nan])},
        np.array([0.1, 1 / 3]),
        np.zeros(2),
        np.array([True, False]),
        None,
        None,
        np.array([0.25, 0.5]),
        np.array([[0, 1], [1, 1]]),
    )
    beside = TaughtBeside({"dev": {"accuracy": np.ones(2)}}, {"teacher_loss": np.ones((3, 2))})
    measure = Measured("x", "the x", (0.0, float("inf")), np.array([1.0, 2.0]))
    result = PolicyResult(
        *("a/b", True, False, "native", {"dev": scores}, np.ones(2), np.zeros(2), np.array([False, True])),
        *(np.full((3, 2, 1), np.nan), np.ones((3, 2)), True, (measure,), beside, {"course": np.ones((3, 2))}),
    )
    kept = KeptResults(tmp_path / "judged", {"seeds": [0, 1]})
    assert kept.read("a/b", ["a", {}]) is None
    kept.write("a/b", ["a", {}], result)
    found = kept.read("a/b", ["a", {}])
    same(found, result)
    assert kept.read("a/b", ["a", {"x": 1}]) is None and kept.read("b", ["a", {}]) is None
    assert KeptResults(tmp_path / "judged", {"seeds": [0]}).read("a/b", ["a", {}]) is None
    (arrays,) = (tmp_path / "judged").glob("*/arrays.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x07")
    assert kept.read("a/b", ["a", {}]) is None
    kept.remove()
    assert not (tmp_path / "judged").exists()


def same(one: Any, other: Any) -> None:
    """Types and bits are equal."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes() and one.shape == other.shape
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict | tuple):
        pairs = [(one[key], other[key]) for key in one] if isinstance(one, dict) else list(zip(one, other, strict=True))
        assert len(one) == len(other)
        for each in pairs:
            same(*each)
    else:
        assert one == other


def test_the_evaluation_of_tutors_goes_on(tiny_text: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    words = [
        *("env=tutor_token", "agent=rule/teacher_samples", f"env.text={tiny_text['text']}", "env.protocol=frozen"),
        *(f"teacher.path={tiny_text['teacher']}", "student=toy_small", "student.hidden_size=8", "env.budget=4"),
        *("env.batch_size=4", "env.slots=2", "evaluation.seeds=2", "evaluation.rules=[keep_masked,keep_original]"),
        *(f"task.{name}={tiny_text[name]}" for name in ("feedback_rows", "selection_rows") if name in tiny_text),
        *("env.samples=0", "progress=false", f"runs_dir={tmp_path}"),
    ]
    original, driven = protocol.drive, list[str]()

    def one(stack: Any, *args: Any) -> Any:
        driven.extend(stack.contenders)
        if driven == ["teacher_samples", "keep_masked"]:
            raise KeyboardInterrupt
        return original(stack, *args)

    monkeypatch.setattr(protocol, "drive", one)
    assert main(["train", *words, "name=mine"]) == 130
    assert main(["train", *words, "name=mine", "resume=true"]) == 0
    assert driven == ["teacher_samples", "keep_masked", "keep_masked", "keep_original"]
    assert main(["train", *words, "name=whole"]) == 0
    assert policies(tmp_path / "mine") == policies(tmp_path / "whole")


def test_processes_share_policies_by_what_is_judged_together() -> None:
    settings = read_settings(compose("config", ["name=mine"]))
    names = contenders.names(settings)
    first, second = contenders.parts(settings, names, 2)
    assert first == ["actor_critic", "all", "random_hard", "soft_label_only"]
    assert second == [f"{name} (train+feedback)" for name in first[1:]]
    assert [len(part) for part in contenders.parts(settings, names[:2], 4)] == [1, 1]
    rules = "evaluation.rules=[all,random_soft,greedy,random_gate]"
    some = read_settings(compose("config", ["experiment=none", rules]))
    found = contenders.parts(some, contenders.names(some), 2)
    assert found == [["random_soft", "random_gate", "actor_critic"], ["all", "greedy"]]  # box views, and native ones


def test_progress_is_told_in_lines_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = show_progress(2)
    for name in ("a", "b"):
        for step in range(1, 41):
            show(name, step, 40)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0].startswith("evaluating 10%  a 8/40  ETA ") and lines[0].endswith(" s")
    assert lines[-1] == "evaluating 100%  b 40/40  ETA 0 s"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show_progress(1)("a", 1, 1)
    assert capsys.readouterr().err.endswith("evaluating 100%  a 1/1  ETA 0 s\n")


def test_a_run_that_goes_on_says_so_and_can_be_trained_further(words: list[str], tmp_path: Path) -> None:
    """Commands and versions of before stay; more steps of a finished training are taken from its policy."""
    trained = [
        *(word for word in words if word != "agent=rule/all" and not word.startswith("evaluation.rules")),
        *("agent=actor_critic", "agent.options.n_steps=2", "num_envs=2", "checkpoint_every=0", "evaluation.rules=[]"),
    ]
    folder = tmp_path / "mine"
    assert run("train", [*trained, "total_timesteps=8"], "first") == 0
    assert json.loads((folder / "results.json").read_text())["resumed"] == 0
    assert run("train", [*trained, "total_timesteps=8", "resume=true"], "second") == 0
    assert load_agent(folder / "policy").num_timesteps == 8  # type: ignore[attr-defined]
    assert run("train", [*trained, "total_timesteps=16", "resume=true"], "third") == 0
    assert load_agent(folder / "policy").num_timesteps == 16  # type: ignore[attr-defined]
    commands = (folder / "command.txt").read_text().splitlines()
    assert [line.split()[0] for line in commands] == ["first", "second", "third"]
    versions = json.loads((folder / "versions.json").read_text())
    assert len(versions.pop("resumed")) == 2 and "torch" in versions
    assert json.loads((folder / "results.json").read_text())["resumed"] == 2
    assert [point["timesteps"] for point in read_history(folder / "logs")] == [4, 8, 12, 16]
    assert run("train", [*trained, "total_timesteps=8", "resume=true"], "fewer") == 2


def test_a_folder_of_an_evaluation_that_was_killed_before_a_word_is_taken(tmp_path: Path) -> None:
    folder, settings = tmp_path / evaluate.EVALUATIONS / "1", cast(Any, None)
    folder.mkdir(parents=True)
    (folder / ".config.yaml.tmp").touch()
    assert evaluate._next_name(tmp_path, settings) == "1"
    (folder / "notes.txt").touch()  # somebody else's
    assert evaluate._next_name(tmp_path, settings) == "2"
