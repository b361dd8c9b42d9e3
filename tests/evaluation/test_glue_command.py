"""``kd-env glue``: chosen on selection rows alone, resumed with the same bits, beside numbers as they are printed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cli.jobs.downstream import glue
from cli.jobs.downstream.asked import Asked, read_asked
from cli.main import main
from cli.runs import folder as runs
from cli.settings.options import split_options, split_place
from cli.settings.presets import option_comments
from kd_env.data import toy
from kd_env.data.tasks import GLUE
from kd_env.envs.environments import TutorTokenEnv
from kd_env.evaluation.downstream import fine_tuning
from kd_env.evaluation.downstream.glue import lines_of
from kd_env.evaluation.downstream.grid import Point, choose, edges, grid_of
from kd_env.evaluation.downstream.printed import PRINTED
from kd_env.evaluation.statistics.crossed import policy_interval
from kd_files.manifest import MANIFEST
from tests.here import Here


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
    assert "Without any spread" in text and "none on toy; the interval" in text
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
    monkeypatch.setattr("cli.jobs.downstream.glue.opened", lambda *_: Here(started=1))
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


def find(given: list[str], *more: str) -> Asked:
    names = {word.split("=", 1)[0] for word in more}
    options, rest = split_options("glue", [*(w for w in given if w.split("=", 1)[0] not in names), *more])
    assert not split_place(rest)[1]
    return read_asked(options)


def test_printed_numbers_are_those_of_the_tables(assets: Path) -> None:
    path = assets / "methods.md"
    if not path.is_file():
        pytest.skip(f"no tables at {path}")
    text = path.read_text(encoding="utf-8")
    head = re.search(r"^\| student \|(.*)\|$", text, re.MULTILINE)
    assert head is not None
    tasks = [title.strip().lower().replace("-", "") for title in head[1].split("|")]
    printed = {one.name: one for one in PRINTED}
    names = {"BERT-base (teacher, 109 M)": "BERT-base"}
    lines = re.findall(r"^\| ((?:BERT-base|MiniLMv2|Tutor-KD)[^|]*) \|(.*)\|$", text, re.MULTILINE)
    assert len(lines) == 5
    for title, cells in lines:
        name = names.get(title, title.rsplit(",", 1)[0])
        found = {task: float(cell) for task, cell in zip(tasks, cells.split("|"), strict=True) if cell.strip() != "-"}
        assert dict(printed[name].scores) == found, name
    lgtm = re.search(r"average over the six tasks ([\d.]+) with 6 layers .*?, ([\d.]+) with 4", text)
    assert lgtm is not None
    assert [printed[f"LGTM, {layers} layers"].six for layers in (6, 4)] == [float(value) for value in lgtm.groups()]
    mt_bert = re.search(r"6 layers SST-2 ([\d.]+), RTE ([\d.]+); 4 layers ([\d.]+), (\d+\.\d)", text)
    assert mt_bert is not None
    scores = [printed[f"MT-BERT, {layers} layers"].scores for layers in (6, 4)]
    assert [one[task] for one in scores for task in ("sst2", "rte")] == [float(value) for value in mt_bert.groups()]


def record(rows: int, **metrics: float) -> dict[str, Any]:
    return {"labels": 9, "dev": {"validation": {"rows": rows, "loss": 7.0, **metrics}}}


def test_scores_and_averages_are_those_of_glue() -> None:
    """A task counts once, whatever its metrics and splits; intervals are over folders and seeds."""
    rng = np.random.default_rng(0)
    accuracy, f1, rte = rng.uniform(0.6, 0.9, (3, 2, 3))
    matched = {"validation_matched": {"rows": 4, "loss": 1.0, "accuracy": 0.5}}
    mnli = {"labels": 9, "dev": {**matched, "validation_mismatched": {"rows": 4, "loss": 1.0, "accuracy": 0.7}}}
    two = {
        "mrpc": {f: [record(4, accuracy=accuracy[f, s], f1=f1[f, s]) for s in range(3)] for f in range(2)},
        "rte": {f: [record(4, accuracy=rte[f, s]) for s in range(3)] for f in range(2)},
        "mnli": {f: [mnli] * 3 for f in range(2)},
    }
    found = {
        line.title: line for line in lines_of({"two": two, "part": {"rte": two["rte"]}}, ["mrpc", "rte", "mnli"], True)
    }
    mrpc = 50 * (accuracy + f1)
    np.testing.assert_allclose(found["mrpc (mean of 2)"].values["two"], mrpc)
    np.testing.assert_allclose(found["  mrpc f1"].values["two"], 100 * f1)
    np.testing.assert_allclose(found["mnli (mean of 2)"].values["two"], 60.0)
    average = found["average of mrpc, rte, mnli"]
    np.testing.assert_allclose(average.values["two"], (mrpc + 100 * rte + 60) / 3)
    assert average.intervals["two"] == policy_interval(average.values["two"], bounds=(0.0, 100.0))
    assert set(average.intervals) == {"two"} and set(found["rte accuracy"].intervals) == {"two", "part"}
    assert not found["cola"].intervals and found["cola"].printed["BERT-base"] == 59.9
    assert not [title for title in found if "GLUE score" in title]
    six = found["average of mnli, mrpc, qnli, qqp, rte, sst2"]
    assert not six.intervals and six.printed == {"LGTM, 6 layers": 83.4, "LGTM, 4 layers": 81.4}


def test_the_glue_score_is_that_of_all_nine_tasks_and_without_wnli() -> None:
    """Each task counts once, with the mean of its metrics and splits, as on the leaderboard."""
    each = {task: {0: [record(4, **dict.fromkeys(GLUE[task].metrics, 0.1 * place))]} for place, task in enumerate(GLUE)}
    found = {line.title: line for line in lines_of({"all": each, "part": {"rte": each["rte"]}}, list(GLUE), True)}
    nine, eight = found["GLUE score (nine tasks, as on the leaderboard)"], found["GLUE score without wnli"]
    np.testing.assert_allclose([nine.values["all"], eight.values["all"]], [[[40.0]], [[35.0]]])
    assert set(nine.values) == set(eight.values) == {"all"} and len(found) < 30
    eight_only = {task: by_place for task, by_place in each.items() if task != "wnli"}
    titles = [line.title for line in lines_of({"all": eight_only}, list(GLUE), True)]
    assert titles[-2:] == ["GLUE score without wnli", "average of mnli, mrpc, qnli, qqp, rte, sst2"]


def test_the_choice_of_a_point() -> None:
    grid = grid_of([1e-5, 5e-5], [3, 5])
    scores = [(0.8, 0.5), (0.9, 0.7), (0.9, 0.6), (0.9, 0.6)]
    found = {
        point: {"selection": {"selection": {"loss": loss, "accuracy": accuracy}}}
        for point, (accuracy, loss) in zip(grid, scores, strict=True)
    }
    assert choose(found, "accuracy") == Point(5e-5, 3)  # the lower loss, then the first
    with pytest.raises(ValueError, match="Every point of the grid diverged"):
        choose({point: {"diverged": "nan"} for point in grid}, "accuracy")
    assert edges(Point(5e-5, 3), [1e-5, 5e-5], [3]) == ["highest learning rate"]
    assert edges(Point(2e-5, 3), [5e-5, 2e-5, 1e-5], [5, 3]) == ["lowest number of epochs"]


def test_classifiers_are_judged_as_they_are(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The packaged classifiers of the embedded task; labels in another order are put into the task's."""
    folders = [toy.teacher_folder("toy"), tmp_path / "turned"]
    shutil.copytree(folders[0], folders[1], ignore=shutil.ignore_patterns(MANIFEST))
    config = json.loads((folders[1] / "config.json").read_text())
    names = config["id2label"]
    turned = {"id2label": {"0": names["1"], "1": names["0"]}, "label2id": {names["1"]: 0, names["0"]: 1}}
    (folders[1] / "config.json").write_text(json.dumps({**config, **turned}))
    weights = load_file(folders[1] / "model.safetensors")
    for name in [name for name in weights if name.startswith("classifier")]:
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, folders[1] / "model.safetensors", metadata={"format": "pt"})
    given = [f"students={{packaged: {{toy: [{folders[0]}, {folders[1]}]}}}}", "evaluate_only=true", "tasks=auto"]
    assert main(["glue", *words(students, tmp_path, *given)]) == 0
    found = results(tmp_path / "glue")
    (line,) = [line for line in found["lines"] if line["tasks"] == ["toy"]]
    (one,), (other,) = line["students"]["packaged"]["values"]
    assert one == other > 80 and found["choices"] == [] and found["seeds"] == []
    assert "Nothing was fine-tuned here" in capsys.readouterr().out
    with (tmp_path / "glue" / "results.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    ours = [row for row in rows if row["kind"] == "ours"]
    assert [(row["tasks"], float(row["mean"]), row["folders"]) for row in ours] == [("toy", one, "2")]
    assert len(rows) - 1 == sum(len(one.scores) + (one.six is not None) for one in PRINTED)
    wrong = f"students={{packaged: {{toy: {students['none']}}}}}"
    assert main(["glue", *words(students, tmp_path, wrong, "evaluate_only=true", "name=wrong")]) == 2
    assert "classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("tasks=[toi]", ["'toi'", "Did you mean 'toy'"]),
        ("tasks=[toy,toy]", ["names something twice"]),
        ("learning_rates=[]", ["learning_rates=[]", "at least one"]),
        ("learning_rates=[0.1,0.1]", ["learning_rates=[0.1, 0.1]", "twice"]),
        ("learning_rates=[0.1,-1]", ["learning_rates", "-1"]),
        ("epochs=[1,0]", ["epochs=0"]),
        ("epochs=[2,2]", ["twice"]),
        ("grid_seed=1", ["grid_seed=1", "0 to 1"]),
        ("seeds=0", ["seeds=0"]),
        ("students=[nowhere]", ["no folder 'nowhere'"]),
        ("students=null", ["names nobody"]),
        ("evaluate_only=true", ["evaluate_only=true", "each of one task"]),
        ("train_rows=[16,32]", ["several numbers"]),
        ("train_rows={sst2: 4}", ["task of train_rows 'sst2'"]),
        ("train_rows=5000", ["train_rows=5000", "choose 2 to"]),
        ("precision=fp16", ["fp16"]),
        ("gpus=1", ["gpus=1"]),
        ("slurm_minutes=5", ["backend=slurm"]),
        ("learning_rate=0.1", ["Did you mean 'learning_rates'"]),
        ("name=a/b", ["plain folder name"]),
    ],
)
def test_mistakes_are_told_before_any_work(
    more: str, expected: list[str], students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["glue", *words(students, tmp_path, more)]) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1 and all(word in message for word in expected), message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_of_something_else_is_refused(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "config.yaml").write_text("seed: 0\n")
    assert main(["glue", *words(students, tmp_path)]) == 2
    assert "holds no GLUE results" in capsys.readouterr().err
    assert main(["glue", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "learning_rates=[" in shown and "backend=local" in shown and "evaluate_only=true" in shown


def test_every_option_has_a_comment() -> None:
    options, _ = split_options("glue", [])
    documented = {key: comment for key, _, comment in option_comments("glue")}
    assert set(documented) == set(options) and all(documented.values())


def test_a_folder_has_one_writer_and_asks_for_no_cache(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = find(words(students, tmp_path))
    for folder, more in ((tmp_path / "glue", "report=true"), (asked.every_cell[0].folder, "report=false")):
        with runs.writing(folder):
            assert main(["glue", *words({"none": students["none"]}, tmp_path, more)]) == 2
            assert "is being written by process" in capsys.readouterr().err

    alone = words({"none": students["none"]}, tmp_path, "learning_rates=0.1", "seeds=1")
    assert main(["glue", *alone, "report=false"]) == 0  # cells alone, which a command then takes up
    assert [path.name for path in (tmp_path / "glue").iterdir()] == ["cells"]
    assert main(["glue", *alone]) == 0
    assert "1 cells (a folder on a task), 1 of them finished before" in capsys.readouterr().out

    def refuses(options: Any, study: Path, cache: Path | None) -> Any:
        raise ValueError(f"asked for {study.name} and {cache}")

    monkeypatch.setattr(glue, "opened", refuses)  # a second mark in the same folder is not answered with Ray
    assert main(["glue", *words(students, tmp_path, "jobs=2", "name=other")]) == 2
    assert "asked for other and None" in capsys.readouterr().err
