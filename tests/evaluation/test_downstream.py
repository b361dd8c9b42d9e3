"""After pre-training: distilled students are fine-tuned from few labels and compared, and what must be refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.jobs.downstream.shared import read_rows
from cli.main import main, run
from kd_env.envs.environments import TutorTokenEnv
from kd_env.evaluation.downstream import fine_tuning
from kd_env.evaluation.downstream.fine_tuning import (
    Material,
    check_student,
    fine_tune,
    labelled_rows,
    load_material,
    start,
)
from kd_env.evaluation.downstream.report import columns_of, difference, learning_curves, markdown, summarize
from kd_env.evaluation.statistics.crossed import crossed_difference
from kd_env.evaluation.statistics.intervals import paired_difference
from kd_env.finetuning.config import TeacherConfig
from kd_files.manifest import MANIFEST

Students = dict[str, Path]


@pytest.fixture(scope="module")
def toy_students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    """Students of the embedded text: a fresh one, and one after a few updates."""
    folder = tmp_path_factory.mktemp("toy_students")
    few = {"max_train_rows": 64, "feedback_rows": 16, "selection_rows": 16, "evaluation_rows": 16}
    env = TutorTokenEnv(student={"hidden_size": 8, "num_attention_heads": 4}, budget=4, batch_size=4, **few)
    env.reset(seed=0)
    env.save_student(folder / "none")
    env.action_space.seed(0)
    for _ in range(2):
        env.step(env.action_space.sample())
    env.save_student(folder / "random")
    return {name: folder / name for name in ("none", "random")}


@pytest.fixture(scope="module")
def student(tiny_text: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of the tiny text, whose words are those of the tiny tasks."""
    env = TutorTokenEnv(**tiny_text)
    env.reset(seed=0)
    env.save_student(tmp_path_factory.mktemp("student") / "one")
    return next(tmp_path_factory.getbasetemp().glob("student*/one"))


def config_of(options: dict[str, Any], folder: Path, **more: Any) -> TeacherConfig:
    own = {key: options[key] for key in ("task", "data_dir", "columns", "feedback_rows", "selection_rows")}
    plain = {"name_or_path": str(folder), "output": "unused", "epochs": 1, "batch_size": 8, "learning_rate": 0.01}
    return TeacherConfig.from_kwargs(**{**own, **plain, **more})


@pytest.fixture(scope="module")
def material(tiny: dict[str, Any], student: Path) -> Material:
    return load_material(config_of(tiny, student))


def words(students: Students, tmp_path: Path, *more: str) -> list[str]:
    each = ", ".join(f"{name}: {folder}" for name, folder in students.items())
    short = ("epochs=1", "min_updates=3", "learning_rate=0.01", "progress=false", "train_rows=[8,16]")
    return [f"students={{{each}}}", *short, f"runs_dir={tmp_path}", "name=few", *more]


def test_students_are_fine_tuned_compared_and_gone_on_with(
    toy_students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("evaluate", words(toy_students, tmp_path, "seeds=2"), "kd-env evaluate") == 0
    folder, printed = tmp_path / "few", capsys.readouterr().out
    data = json.loads((folder / "results.json").read_text())
    assert data["baseline"] == "none" and data["seeds"] == [0, 1]
    assert [(c["task"], c["labels"], c["metric"]) for c in data["columns"]] == [
        *(("toy", 8, "accuracy"), ("toy", 16, "accuracy"))
    ]
    files = sorted(folder.glob("finetuned/*/*.json"))
    assert len(files) == 8
    for column in data["columns"]:
        values = {name: np.array(found["values"]) for name, found in column["students"].items()}
        assert all(found.shape == (1, 2) for found in values.values())
        kept = [json.loads(file.read_text()) for file in files if file.parent.name == f"toy-{column['labels']}"]
        by_seed = {(Path(one["folder"]).name, one["seed"]): one["dev"]["validation"]["accuracy"] for one in kept}
        assert {(n, s): values[n][0, s] for n in values for s in (0, 1)} == by_seed
        assert all((one["labels"], one["dev"]["validation"]["rows"]) == (column["labels"], 1200) for one in kept)
        assert all(one["updates"] == 3 for one in kept)
        found = column["students"]["random"]["difference"]["interval"]
        assert found["mean"] == pytest.approx((values["random"] - values["none"]).mean()) and found["units"] == 2
        assert column["students"]["none"]["difference"] is None
    assert "| student | folders | 8 labels: accuracy | minus none |" in printed and "no claim" in printed
    assert printed.startswith(f"{folder}: 8 fine-tunings, 0 of them") and (folder / "results.md").read_text() in printed
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")

    stamps = {file: file.stat().st_mtime_ns for file in files}
    made: list[int] = []
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda *a, **k: made.append(k["rows"]) or fine_tune(*a, **k))
    assert run("evaluate", words(toy_students, tmp_path, "seeds=2"), "kd-env evaluate") == 0
    assert made == [] and json.loads((folder / "results.json").read_text())["columns"] == data["columns"]
    files[0].unlink()
    assert run("evaluate", words(toy_students, tmp_path, "seeds=2", "baseline=random"), "kd-env evaluate") == 0
    again = json.loads((folder / "results.json").read_text())
    assert len(made) == 1 and again["baseline"] == "random"
    turned = [c["students"]["none"]["difference"]["interval"]["mean"] for c in again["columns"]]
    assert turned == [-c["students"]["random"]["difference"]["interval"]["mean"] for c in data["columns"]]
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == {file: stamps[file] for file in files[1:]}
    capsys.readouterr()
    assert run("evaluate", words(toy_students, tmp_path, "batch_size=4", "weight_decay=0"), "") == 2
    assert "other values of batch_size, weight_decay" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_bits(tiny: dict[str, Any], student: Path, material: Material) -> None:
    config, state = config_of(tiny, student), torch.get_rng_state()
    one, other = (fine_tune(config, material, rows=20, min_updates=6) for _ in range(2))
    assert one == other and one["labels"] == 20 and one["updates"] == 6
    assert torch.equal(state, torch.get_rng_state())
    third = fine_tune(dataclasses.replace(config, seed=1), material, rows=20, min_updates=6)
    assert third["dev"] != one["dev"]


def test_labels_of_other_rows_play_no_part(tiny: dict[str, Any], student: Path, material: Material) -> None:
    """n labels mean n labels: with all others (those of the selection split too) wrong, the weights are the same."""
    config = config_of(tiny, student)
    part = labelled_rows(len(material.data.train), 12, split_seed=0, seed=0)

    def flipped(keep: np.ndarray) -> Material:
        def turn(table: Any, kept: np.ndarray) -> Any:
            labels = 1 - table.labels
            labels[kept] = table.labels[kept]
            return dataclasses.replace(table, labels=labels, label_tensor=torch.as_tensor(labels))

        data = material.data
        selection = turn(data.selection, np.arange(0))
        return material._replace(data=data._replace(train=turn(data.train, keep), selection=selection))

    expected = fine_tune(config, material, rows=12)
    assert fine_tune(config, flipped(part), rows=12) == expected
    assert fine_tune(config, flipped(part[1:]), rows=12) != expected


def test_few_labels_are_the_same_for_all_students(
    tiny: dict[str, Any], student: Path, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = fine_tuning.train
    monkeypatch.setattr(fine_tuning, "train", lambda o, data, *a: seen.append(data) or real(o, data, *a))
    shutil.copytree(student, tmp_path / "other")
    for folder in (student, tmp_path / "other"):
        for seed in (0, 1):
            fine_tune(config_of(tiny, folder, seed=seed), material, rows=10)
    rows = [data.cut.train.tolist() for data in seen]
    assert rows[:2] == rows[2:] and rows[0] != rows[1] and all(len(set(found)) == 10 for found in rows)
    for data in seen:
        assert not set(data.cut.train) & ({*data.cut.feedback} | {*data.cut.selection})
        places = np.searchsorted(material.data.cut.train, data.cut.train)
        assert torch.equal(data.train.input_ids, material.data.train.input_ids[torch.as_tensor(places)])
        assert np.array_equal(data.train.labels, material.data.train.labels[places])
    small, large = (set(labelled_rows(100, n, split_seed=0, seed=3).tolist()) for n in (10, 40))
    assert small < large and len(labelled_rows(100, None, split_seed=0, seed=3)) == 100
    assert set(labelled_rows(100, 10, split_seed=1, seed=3).tolist()) != small


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_the_head_is_always_drawn_anew(
    kind: str, tiny: dict[str, Any], tiny_regression: dict[str, Any], student: Path, tmp_path: Path
) -> None:
    """A scalar a token has the shape of a regression head, and a classifier of the same labels that of ours."""
    from safetensors.torch import load_file

    options = tiny_regression if kind == "regression" else tiny
    folder = student if kind == "regression" else without(Path(tiny["teacher"]), tmp_path / "classifier")
    config = config_of(options, folder)
    task = load_material(config).task
    if kind == "classification":
        named = {"id2label": dict(enumerate(task.labels)), "label2id": {n: i for i, n in enumerate(task.labels)}}
        (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **named}))
    stored = load_file(str(folder / "model.safetensors"))
    one, same, other = (start(dataclasses.replace(config, seed=seed), task) for seed in (0, 0, 1))
    assert one.classifier.weight.shape == stored["classifier.weight"].shape  # without care it would be loaded
    assert not torch.equal(one.classifier.weight, stored["classifier.weight"])
    assert torch.equal(one.classifier.weight, same.classifier.weight) and not one.classifier.bias.any()
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    drawn = [name for name in one.state_dict() if name not in stored]
    assert drawn == (["bert.pooler.dense.weight", "bert.pooler.dense.bias"] if kind == "regression" else [])
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        if name in stored and "classifier" not in name:
            assert torch.equal(value, stored[name])


def test_the_head_of_a_factorised_student_is_drawn(tiny: dict[str, Any], student: Path, tmp_path: Path) -> None:
    from transformers import ElectraConfig, ElectraForTokenClassification

    sizes = {"hidden_size": 8, "embedding_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    source = ElectraForTokenClassification(ElectraConfig(**sizes, intermediate_size=16, vocab_size=45, num_labels=1))
    source.save_pretrained(tmp_path / "electra")
    for file in student.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "electra")
    config = config_of(tiny, tmp_path / "electra")
    material = load_material(config)
    model = start(config, material.task)
    for name, value in source.electra.state_dict().items():
        assert torch.equal(value, model.electra.state_dict()[name])
    again = start(config, material.task).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert fine_tune(config, material, rows=10)["labels"] == 10


def test_regression_is_judged_by_its_own_metrics(tiny_regression: dict[str, Any], student: Path) -> None:
    config = config_of(tiny_regression, student)
    [scores] = fine_tune(config, load_material(config), rows=30, min_updates=10)["dev"].values()
    assert list(scores) == ["rows", "loss", "pearson", "spearmanr"] and scores["rows"] == 120


def test_all_labels_and_updates_are_told(tiny: dict[str, Any], student: Path, material: Material) -> None:
    told: list[int] = []
    found = fine_tune(config_of(tiny, student), material, on_updates=told.append)
    assert found["labels"] == len(material.data.train) and sum(told) == found["updates"] == -(-found["labels"] // 8)


def some(values: list[list[float]]) -> list[list[dict[str, Any]]]:
    return [
        [{"labels": 8, "dev": {"validation": {"rows": 4, "loss": 9.0, "accuracy": v, "f1": v / 2}}} for v in one]
        for one in values
    ]


def test_differences_have_the_right_units() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 1, 4))
    three, more, two = rng.random((3, 4)), rng.random((3, 4)), rng.random((2, 4))
    assert difference(one, other) == paired_difference(one[0], other[0])
    assert difference(three, one).interval == crossed_difference(three, one[0]).interval
    turned, straight = difference(one, three), difference(three, one)
    assert (turned.interval.mean, turned.interval.low) == (-straight.interval.mean, -straight.interval.high)
    assert difference(three, more) == crossed_difference(three - more, np.zeros(4))
    assert difference(three, two) == crossed_difference(three, two)
    for values in (one, three):
        itself = difference(values, values)
        assert (itself.interval.mean, itself.interval.low, itself.interval.high, itself.p_value) == (0, 0, 0, 1)


def test_the_table_holds_every_metric_and_adjusts_together() -> None:
    results = {("mrpc", 8): {"a": some([[0.5, 0.6, 0.7]]), "b": some([[0.6, 0.8, 0.7]]), "c": some([[0.5, 0.6, 0.7]])}}
    found = summarize(columns_of(results), "a")
    assert [(s.column.metric, s.column.headline) for s in found] == [("accuracy", True), ("f1", False)]
    p = found[0].differences["b"].p_value
    assert found[0].holm_p["b"] == pytest.approx(min(1.0, 4 * p))  # the smallest of four
    assert found[0].holm_p["c"] == 1.0 and found[0].differences["c"].interval.mean == 0
    table = markdown(found, "a")
    assert "| b | 1 | 0.700 [" in table and "+0.000 [+0.000, +0.000], p 1" in table
    assert learning_curves(found) is None  # one number of labels is no curve
    alone = markdown(summarize(columns_of({("rte", None): {"a": some([[0.5]])}}), "a"), "a")
    assert "minus" not in alone and "| a | 1 | 0.500 | 0.250 |" in alone


def test_numbers_of_labels_by_task() -> None:
    assert read_rows(None, ["a", "b"]) == {"a": [None], "b": [None]}
    assert read_rows({"a": [4, None], "b": 6}, ["a", "b", "c"]) == {"a": [4, None], "b": [6], "c": [None]}


def test_a_divergence_is_told(toy_students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word for word in words(toy_students, tmp_path) if not word.startswith("learning_rate")]
    assert main(["evaluate", *given, "learning_rate=1.0e+30", "seeds=1"]) == 2
    message = capsys.readouterr().err
    assert "diverged" in message and "learning_rate" in message and "toy, 8 labels, seed 0" in message
    assert not (tmp_path / "few" / "results.json").exists()


def without(folder: Path, target: Path, *patterns: str) -> Path:
    """A copy without some files, and without the manifest, which would tell that they are gone."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(MANIFEST, *patterns))
    return target


@pytest.mark.filterwarnings("ignore:The tokenizer of .* reads about:UserWarning")
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["tasks=[toi]"], ["'toi'", "Did you mean 'toy'"]),
        (["tasks=[toy,toy]"], ["names something twice"]),
        (["tasks=[toy_pair]"], ["does not know", "'toy_pair'"]),
        (["tasks=[custom]"], ["needs columns"]),
        (["tasks=[rte]", "data_dir=nowhere"], ["nowhere"]),
        (["train_rows=1"], ["train_rows=1", "at least 2"]),
        (["train_rows=[8,8]"], ["twice"]),
        (["train_rows=[]"], ["train_rows=[]"]),
        (["train_rows=5000"], ["train_rows=5000", "choose 2 to 4176"]),
        (["train_rows={toi: 8}"], ["task of train_rows 'toi'", "'toy'"]),
        (["baseline=tutor"], ["Unknown baseline 'tutor'", "none, random"]),
        (["seeds=0"], ["seeds=0", "at least 1"]),
        (["epochs=0"], ["epochs=0"]),
        (["min_updates=-1"], ["min_updates=-1"]),
        (["learning_rte=1"], ["Did you mean 'learning_rate'"]),
        (["max_length=2"], ["max_length=2"]),
        (["device=cuda:9"], ["cuda:9"]),
        (["run=x"], ["run=...", "students=..."]),
        (["name=a/b"], ["plain folder name"]),
    ],
)
def test_mistakes_are_told_before_any_work(
    more: list[str], expected: list[str], toy_students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        word for word in words(toy_students, tmp_path) if word.split("=")[0] not in {w.split("=")[0] for w in more}
    ]
    assert main(["evaluate", *given, *more]) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1 and all(word in message for word in expected), message
    assert not list(tmp_path.iterdir())


def test_mistakes_about_folders(
    toy_students: Students, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = toy_students["none"]
    copy = without(none, tmp_path / "copy" / "none")
    unread = without(none, tmp_path / "unread", "tokenizer*")
    empty = without(none, tmp_path / "empty", "*.safetensors")
    bare = without(none, tmp_path / "bare", "config.json")
    broken = without(none, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"none")
    monkeypatch.chdir(tmp_path)
    for value, *expected in (
        ("null", "names nobody"),
        ("[]", "names nobody"),
        ("{a: []}", "a=[]"),
        ("{a: 3}", "a=3"),
        ("nowhere", "no folder 'nowhere'"),
        ("[copy,'no*']", "no folder 'no*' that fits"),
        (f"[{none},{copy}]", "have one name"),
        (f"{{a: [{none}, {copy}]}}", "the same student"),
        (f"{{a: [{none}, {none}]}}", "the same student"),
        (f"[{unread}]", "has no tokenizer"),
        (f"[{empty}]", "no model.safetensors"),
        (f"[{bare}]", "no config.json"),
        (f"[{none},{broken}]", "broken", "are damaged"),
    ):
        before = sorted(path.name for path in tmp_path.iterdir())
        assert main(["evaluate", f"students={value}", "name=few", f"runs_dir={tmp_path}"]) == 2
        message = capsys.readouterr().err.strip()
        assert len(message.splitlines()) == 1 and all(word in message for word in expected), message
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "config.yaml").write_text("seed: 0\n")
    assert main(["evaluate", f"students=[{none}]", "name=few", f"runs_dir={tmp_path}"]) == 2
    assert "holds no fine-tuned students" in capsys.readouterr().err


def test_rows_must_fit_the_positions(tiny: dict[str, Any], student: Path, material: Material, tmp_path: Path) -> None:
    short = without(student, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    weights = load_file(str(short / "model.safetensors"))
    name = next(key for key in weights if "position_embeddings" in key)
    weights[name] = weights[name][:6].contiguous()
    save_file(weights, str(short / "model.safetensors"), metadata={"format": "pt"})
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 6}))
    with pytest.raises(ValueError, match="only 6 positions; set max_length"):
        check_student(config_of(tiny, short), material)
    fitting = config_of(tiny, short, max_length=6)
    check_student(fitting, load_material(fitting))


def test_help_tells_of_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    assert "run=<folder> names the run" in text and "students=null" in text and "min_updates=0" in text
    assert "evaluation.seeds=10" in text and "'students={none: <folder>" in text
