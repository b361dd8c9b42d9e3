"""``kd-env glue``: chosen on selection rows alone, resumed with the same bits, and printed numbers as they are printed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from kd_env.data.tasks import GLUE
from kd_env.envs.environments import TutorTokenEnv
from kd_env.evaluation.downstream import fine_tuning
from kd_env.evaluation.downstream.glue import lines_of
from kd_env.evaluation.downstream.grid import Point, choose, edges, grid_of
from kd_env.evaluation.downstream.printed import PRINTED
from kd_env.evaluation.statistics.crossed import policy_interval


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Students of the embedded text: a fresh one, and one after an update."""
    folder = tmp_path_factory.mktemp("students")
    few = {"max_train_rows": 64, "feedback_rows": 16, "selection_rows": 16, "evaluation_rows": 16}
    env = TutorTokenEnv(student={"hidden_size": 8, "num_attention_heads": 4}, budget=4, batch_size=4, **few)
    env.reset(seed=0)
    env.save_student(folder / "none")
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    env.save_student(folder / "random")
    return {name: folder / name for name in ("none", "random")}


def words(students: dict[str, Path], tmp_path: Path, *more: str) -> list[str]:
    """The command on a few rows, but for what ``more`` gives in place of its own options."""
    each = ", ".join(f"{name}: {folder}" for name, folder in students.items())
    own = [f"students={{{each}}}", "tasks=[toy]", "train_rows=32", "selection_rows=32", "learning_rates=[0.1,0.01]"]
    own += ["epochs=1", "seeds=2", "progress=false", "jobs=1", f"runs_dir={tmp_path}", "name=glue"]
    given = {word.split("=", 1)[0] for word in more}
    return [*(word for word in own if word.split("=", 1)[0] not in given), *more]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def cell_files(folder: Path) -> dict[str, str]:
    """Everything that fine-tuning wrote, by its place."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.glob("cells/**/*.json"))
        if path.name != "versions.json"
    }


def test_the_grid_is_chosen_on_selection_rows_alone(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dev rows are read after every choice; by them another point would have been chosen."""
    told: list[str] = []
    real_load, real_tune = fine_tuning.load_dev, fine_tuning.fine_tune

    def tune(config: Any, material: Any, **options: Any) -> dict[str, Any]:
        told.append(options.get("judged", "dev"))
        assert bool(material.dev) == (told[-1] == "dev")
        found = real_tune(config, material, **options)
        for scores in found[told[-1]].values():  # selection rows prefer the first point, dev rows the second
            scores["accuracy"] = 0.9 if (config.learning_rate == 0.1) == (told[-1] == "selection") else 0.2
        return found

    monkeypatch.setattr(fine_tuning, "load_dev", lambda *a: told.append("read") or real_load(*a))
    monkeypatch.setattr(fine_tuning, "fine_tune", tune)
    assert main(["glue", *words({"none": students["none"]}, tmp_path)]) == 0
    assert told == ["selection", "selection", "read", "dev", "dev"]
    found = results(tmp_path / "glue")
    (choice,) = found["choices"]
    assert (choice["point"], choice["score"], choice["edges"]) == (
        *("learning rate 0.1, 1 epoch", 0.9),
        ["highest learning rate"],
    )
    assert [(one["learning_rate"], one["selection"]["selection"]["accuracy"]) for one in choice["grid"]] == [
        *((0.1, 0.9), (0.01, 0.2))
    ]
    text = (tmp_path / "glue" / "results.md").read_text()
    assert "At the edge of the grid" in text and "none on toy (highest learning rate)" in text
    records = [json.loads(path.read_text()) for path in (tmp_path / "glue").glob("cells/*/seeds/*.json")]
    assert {(one["seed"], one["learning_rate"], one["epochs"], one["labels"]) for one in records} == {
        *((0, 0.1, 1, 32), (1, 0.1, 1, 32))
    }
    (line,) = [line for line in found["lines"] if line["tasks"] == ["toy"]]
    assert line["students"]["none"]["values"] == [[20.0, 20.0]]


def test_processes_give_the_same_bits_and_a_stopped_command_goes_on(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["glue", *words(students, tmp_path, "jobs=2", "name=two", "progress=true")]) == 0
    shown = capsys.readouterr()
    assert "cells 2/2" in shown.err and "none on toy (learning rate" in shown.err
    made: list[str] = []
    real = fine_tuning.fine_tune

    def stops(config: Any, material: Any, **options: Any) -> dict[str, Any]:
        made.append(options.get("judged", "dev"))
        if len(made) == 4:  # within the second cell's grid the first time
            raise KeyboardInterrupt
        return real(config, material, **options)

    monkeypatch.setattr(fine_tuning, "fine_tune", stops)
    assert main(["glue", *words(students, tmp_path, "name=one")]) == 130
    assert "same command goes on" in capsys.readouterr().err
    assert main(["glue", *words(students, tmp_path, "name=one")]) == 0
    assert "0 of them finished before" in capsys.readouterr().out and len(made) == 9  # one of eight is begun twice
    one, two = tmp_path / "one", tmp_path / "two"
    assert cell_files(one) == cell_files(two) and len(cell_files(one)) == 10
    assert results(one)["lines"] == results(two)["lines"]
    assert main(["glue", *words(students, tmp_path, "name=one", "seeds=3")]) == 0  # more seeds of the same choice
    assert made[9:] == ["dev", "dev"] and results(one)["seeds"] == [0, 1, 2]
    assert main(["glue", *words(students, tmp_path, "name=one", "learning_rates=[0.1]", "batch_size=4")]) == 2
    assert "other values of learning_rates, batch_size" in capsys.readouterr().err
    assert main(["glue", *words(students, tmp_path, "name=one", "train_rows=16")]) == 2
    assert "other values of train_rows" in capsys.readouterr().err


def test_a_failed_cell_stops_no_other(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fine_tuning.fine_tune

    def fails(config: Any, material: Any, **options: Any) -> dict[str, Any]:
        if config.name_or_path.endswith("none") or config.learning_rate == 0.1:
            raise FloatingPointError("The loss is nan.")
        return real(config, material, **options)

    monkeypatch.setattr(fine_tuning, "fine_tune", fails)
    assert main(["glue", *words(students, tmp_path, "seeds=1")]) == 2
    message, found = capsys.readouterr().err, results(tmp_path / "glue")
    assert "1 of 2 cells failed" in message and "Every point of the grid diverged" in message and ".log" in message
    assert len(found["without_numbers"]) == 1 and found["choices"][0]["student"] == "random"
    assert found["choices"][0]["grid"][0]["diverged"] == "The loss is nan."  # a point of a grid may
    (line,) = [line for line in found["lines"] if line["tasks"] == ["toy"]]
    assert set(line["students"]) == {"random"}


def test_tasks_without_files_are_left_out_or_refused(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "sentence,label\n" + "".join(f"a {word} film,{place % 2}\n" for place, word in enumerate(["good"] * 40))
    for task, split in (("sst2", "train"), ("sst2", "validation"), ("cola", "validation")):
        (tmp_path / "files" / task).mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / task / f"{split}.csv").write_text(rows)
    some = [f"data_dir={tmp_path / 'files'}", "selection_rows=4", "train_rows=null"]
    given = words({"none": students["none"]}, tmp_path, *some)
    for more, expected in (
        ("tasks=[sst2,cola]", "cola (no train split)"),
        ("tasks=[wnli]", "wnli (no train split and"),
    ):
        assert main(["glue", *[word for word in given if not word.startswith("tasks")], more]) == 2
        assert expected in capsys.readouterr().err
    asked = find(given, "tasks=auto")
    assert [cell.task for cell in asked.every_cell] == ["sst2"] and asked.left_out["cola"] == "no train split"
    assert set(asked.left_out) == {*GLUE} - {"sst2"}


def find(given: list[str], *more: str) -> Any:
    from cli.jobs.downstream.asked import read_asked
    from cli.settings.options import split_options, split_place

    names = {word.split("=", 1)[0] for word in more}
    options, rest = split_options("glue", [*(w for w in given if w.split("=", 1)[0] not in names), *more])
    assert not split_place(rest)[1]
    return read_asked(options)
