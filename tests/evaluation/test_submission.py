"""What the GLUE server takes: the zip that is written, and the check that names every departure from it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cli.main import main
from kd_env.data import toy
from kd_env.data.tasks import GLUE
from kd_env.data.toy import toy_rows
from kd_env.envs.environments import TutorTokenEnv
from kd_env.evaluation.downstream import submission
from kd_env.evaluation.downstream.submission import FILES, ROWS, answers, check_submission, file_text, zipped
from kd_files.manifest import MANIFEST

FEW = dict.fromkeys(ROWS, 3)


def whole() -> dict[str, str]:
    """A submission of three rows a file."""
    rng = np.random.default_rng(0)
    return {file.name: file_text(answers(file, rng.normal(size=(3, max(1, len(file.labels)))))) for file in FILES}


def test_answers_are_in_the_words_of_the_server() -> None:
    by_title = {file.title: file for file in FILES}
    assert len(FILES) == 11 and sum(ROWS.values()) == 426_309
    for file in FILES:
        task = GLUE[file.task]
        if file.labels in (("0", "1"), ()):  # numbers of the classes, in their order
            assert len(file.labels) == len(task.labels)
        else:  # their names
            assert file.labels == task.labels
    scores = np.array([[-0.0001], [2.00049], [5.2], [-3.0]])
    assert answers(by_title["STS-B"], scores) == ["0.000", "2.000", "5.000", "0.000"]
    assert answers(by_title["AX"], np.eye(3)) == ["entailment", "neutral", "contradiction"]
    assert file_text(["1", "0"]) == "index\tprediction\n0\t1\n1\t0\n"


def changed(name: str, change: Callable[[str], str | bytes]) -> dict[str, str | bytes]:
    contents: dict[str, str | bytes] = dict(whole())
    contents[name] = change(whole()[name])
    return contents


DEPARTURES: list[tuple[str, Callable[[str], str | bytes], str]] = [
    ("CoLA.tsv", lambda text: text.replace("prediction", "label"), "its first line is 'index\\tlabel'"),
    ("CoLA.tsv", lambda text: text.split("\n", 1)[1], "its first line is '0\\t"),
    ("RTE.tsv", lambda text: text + "3\tentailment\n", "it has 4 lines below the head; the test split has 3 rows"),
    ("RTE.tsv", lambda text: text + "\n", "line 5 ('') has no index, tab and prediction"),
    ("SST-2.tsv", lambda text: text.replace("\n1\t", "\n2\t"), "another index than the place of the line"),
    (
        "SST-2.tsv",
        lambda text: text.replace("\n0\t", "\n1\t").replace("\n2\t", "\n3\t"),
        "2 lines, the first of them line 2",
    ),
    (
        "QNLI.tsv",
        lambda _: file_text(["entailment", "1", "yes"]),
        "2 lines, the first of them line 3 ('1\\t1'), have another",
    ),
    (
        "AX.tsv",
        lambda _: file_text(["not_entailment", "neutral", "neutral"]),
        "than entailment, neutral, contradiction",
    ),
    ("MRPC.tsv", lambda _: file_text(["1.0", "0", "1"]), "another prediction than 0, 1"),
    (
        "STS-B.tsv",
        lambda _: file_text(["5.001", "0.000", "2"]),
        "line 2 ('0\\t5.001') has another prediction than a number",
    ),
    ("STS-B.tsv", lambda _: file_text(["nan", "-0.1", "x"]), "3 lines"),
    ("QQP.tsv", lambda text: text.encode("utf-8-sig"), "byte order mark"),
    ("QQP.tsv", lambda text: text.replace("\n", "\r\n"), "carriage returns"),
    ("QQP.tsv", lambda text: text.replace("\t", ","), "3 lines, the first of them line 2"),
    ("WNLI.tsv", lambda _: "", "it is empty"),
    ("WNLI.tsv", lambda text: text.encode("utf-16"), "no text in UTF-8"),
]


@pytest.mark.parametrize(("name", "change", "expected"), DEPARTURES)
def test_every_departure_is_named(
    name: str, change: Callable[[str], str | bytes], expected: str, tmp_path: Path
) -> None:
    for name_, content in changed(name, change).items():
        (tmp_path / name_).write_bytes(content if isinstance(content, bytes) else content.encode())
    told = check_submission(tmp_path, FEW)
    assert told and all(one.startswith(f"{name}: ") for one in told) and any(expected in one for one in told), told


def test_a_zip_is_whole_flat_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "student.zip"
    path.write_bytes(zipped(whole()))
    assert check_submission(path, FEW) == []
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [file.name for file in FILES] and archive.testzip() is None
    first = path.read_bytes()
    assert zipped(whole()) == first  # whenever it is written
    assert len(check_submission(path)) == 11  # the server expects as many rows as its test splits have
    assert main(["glue", f"check={path}"]) == 2
    shown = capsys.readouterr()
    assert "QQP.tsv: it has 3 lines below the head; the test split has 390,965 rows." in shown.out
    assert "11 departures" in shown.err
    odd = {f"files/{name}" if name == "AX.tsv" else name: text for name, text in whole().items()}
    odd["cola.tsv"] = odd.pop("CoLA.tsv")
    path.write_bytes(zipped(odd))
    assert [told.split(" ", 1)[0] for told in check_submission(path, FEW)] == [
        *("files/AX.tsv", "cola.tsv", "CoLA.tsv", "AX.tsv")
    ]
    assert "cola.tsv is none of the files of a submission; it must be called CoLA.tsv." in check_submission(path, FEW)
    path.write_bytes(first[: len(first) // 2])
    assert ["cannot be read as a zip" in told for told in check_submission(path, FEW)] == [True]


def test_the_check_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {file.name: file_text([(file.labels or ("2.5",))[0]] * file.rows) for file in FILES}
    (tmp_path / "all.zip").write_bytes(zipped(contents))
    assert main(["glue", f"check={tmp_path / 'all.zip'}"]) == 0
    assert "has what the GLUE server takes: CoLA.tsv" in capsys.readouterr().out
    for words, expected in (
        ([f"check={tmp_path / 'none.zip'}"], "no zip and no folder"),
        ([f"check={tmp_path / 'all.zip'}", "seeds=2"], "leave seeds out"),
        (["check=[a]"], "check=['a'] must be a zip"),
    ):
        assert main(["glue", *words]) == 2
        assert expected in capsys.readouterr().err


TESTS = 5
"""Rows of a test split."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of the embedded text."""
    few = {"max_train_rows": 64, "feedback_rows": 16, "selection_rows": 16, "evaluation_rows": 16}
    env = TutorTokenEnv(student={"hidden_size": 8, "num_attention_heads": 4}, budget=4, batch_size=4, **few)
    env.reset(seed=0)
    folder = tmp_path_factory.mktemp("students") / "none"
    env.save_student(folder)
    return folder


def write_glue(folder: Path, tasks: Sequence[str] = tuple(GLUE)) -> None:
    """Files of some tasks in the words of the embedded one; labels of test rows are hidden in a way of their own."""
    rows = toy_rows("toy", "train")
    for task in (GLUE[name] for name in tasks):
        splits = {"train": 64, **dict.fromkeys(task.dev_splits, 12)}
        splits |= {file.split: TESTS for file in FILES if file.place == task.name}
        for place, (split, count) in enumerate(splits.items()):
            texts = rows.first[100 * place : 100 * place + count]
            labels = [row % max(2, task.num_labels) for row in range(count)]
            table: dict[str, list[object]] = {column: list(texts) for column in task.text_columns}
            table["idx"], table["label"] = list(range(count)), list(labels)
            if split.startswith("test"):
                table["label"] = [-1] * count
            write_table(folder / task.name / f"{split}.jsonl", table)
    if "mnli" in tasks:  # without labels at all
        texts = rows.first[900 : 900 + TESTS]
        write_table(folder / "ax" / "test.jsonl", {"premise": list(texts), "hypothesis": list(texts[::-1])})


def write_table(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(tmp_path: Path, student: Path, *more: str) -> list[str]:
    own = [f"students={{none: {student}}}", f"data_dir={tmp_path / 'files'}", "submission=true", "train_rows=16"]
    own += ["selection_rows=12", "feedback_rows=8", "learning_rates=[0.01]", "epochs=1", "seeds=2", "progress=false"]
    own += ["jobs=1", f"runs_dir={tmp_path}", "name=glue"]
    given = {word.split("=", 1)[0] for word in more}
    return [*(word for word in own if word.split("=", 1)[0] not in given), *more]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server expects as many rows as the files of these tests have."""
    monkeypatch.setattr(submission, "ROWS", dict.fromkeys(ROWS, TESTS))


@pytest.mark.usefixtures("small")
def test_one_command_makes_the_zip(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tasks from files alone; the seed that selection rows prefer predicts, and what is kept is not made again."""
    write_glue(tmp_path / "files")
    assert main(["glue", *words(tmp_path, student)]) == 0
    folder, path = tmp_path / "glue" / "submission" / "none", tmp_path / "glue" / "submission" / "none.zip"
    assert check_submission(path, dict.fromkeys(ROWS, TESTS)) == [] and "takes (checked)" in capsys.readouterr().out
    with zipfile.ZipFile(path) as archive:
        assert all(archive.read(file.name) == (folder / file.name).read_bytes() for file in FILES)
    for file in FILES:
        (cell,) = (tmp_path / "glue" / "cells").glob(f"{file.task}-*/")
        records = [json.loads((cell / "seeds" / f"seed{seed}.json").read_text()) for seed in (0, 1)]
        scores = [one["selection"]["selection"] for one in records]
        metric = GLUE[file.task].metrics[0]
        best = max((0, 1), key=lambda seed: (scores[seed][metric], -scores[seed]["loss"]))
        logits = load_file(cell / "predictions" / f"seed{best}-{file.title}.safetensors")["logits"]
        assert (folder / file.name).read_text() == file_text(answers(file, logits.double().numpy()))
        assert f"fine-tuned with seed {best}: the best {metric}" in (folder / "README.md").read_text()
    first = path.read_bytes()
    shutil.rmtree(folder)
    (cell / "predictions" / "seed0-AX.safetensors").unlink()  # half of a cell: it is made again, with the same bits
    assert main(["glue", *words(tmp_path, student)]) == 0
    assert "8 of them finished before" in capsys.readouterr().out and path.read_bytes() == first
    found = json.loads((tmp_path / "glue" / "results.json").read_text())
    assert "GLUE score" in " ".join(line["title"] for line in found["lines"])
    write_table(tmp_path / "files" / "ax" / "test.jsonl", {"premise": ["a"] * TESTS, "hypothesis": ["b"] * TESTS})
    assert main(["glue", *words(tmp_path, student)]) == 2
    assert "holds predictions for other rows than ax/test has now; delete it" in capsys.readouterr().err


def test_what_is_missing_is_named_and_only_filled_where_that_is_asked_for(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells that were made without predictions are read without them, and made again for them."""
    monkeypatch.setattr(submission, "ROWS", expected := {**dict.fromkeys(ROWS, 30), "SST-2": TESTS})
    write_glue(tmp_path / "files", ["sst2", "cola", "stsb"])
    (tmp_path / "files" / "cola" / "train.jsonl").unlink()
    write_table(
        tmp_path / "files" / "rte" / "train.jsonl", {"label": [1, 1, 0], "sentence1": ["a"] * 3, "sentence2": ["b"] * 3}
    )
    (test := tmp_path / "files" / "sst2" / "test.jsonl").unlink()
    write_table(
        test, {"sentence": toy_rows("toy", "train").first[:TESTS], "idx": [3, 1, 1, 0, 2], "label": [0, 1, 1, 0, 1]}
    )
    given = words(tmp_path, student, "tasks=[sst2]", "seeds=1")
    assert main(["glue", *given[:2], *given[3:]]) == 0  # without submission=true
    folder, path = tmp_path / "glue" / "submission" / "none", tmp_path / "glue" / "submission" / "none.zip"
    assert not folder.exists()
    before = {file: file.read_text() for file in tmp_path.glob("glue/cells/*/seeds/*.json")}
    assert main(["glue", *given]) == 0
    (record,) = (json.loads(file.read_text()) for file in before)
    assert [json.loads(text)["dev"] for text in before.values()] == [record["dev"]]
    report = (tmp_path / "glue" / "results.md").read_text()
    assert [file.name for file in folder.iterdir() if file.suffix == ".tsv"] == ["SST-2.tsv"] and not path.exists()
    assert "No zip was made" in report and "AX (no model of mnli)" in report and "names a number twice" in report
    assert main(["glue", *given, "submission_incomplete=majority"]) == 0
    report, told = (tmp_path / "glue" / "results.md").read_text(), (folder / "README.md").read_text()
    assert check_submission(path, expected) == []
    assert "hold no predictions but one label of train" in report and "SST-2.tsv | 5 |" in told
    assert "the mean score of train, 0.500, in every line" in told and "RTE.tsv | 30 | **no predictions" in told
    assert (folder / "RTE.tsv").read_text().endswith("\n29\tnot_entailment\n")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [file.name for file in FILES]
    assert main(["glue", *given]) == 0  # no more than it was
    assert not path.exists() and [file.name for file in folder.glob("*.tsv")] == ["SST-2.tsv"]


@pytest.mark.parametrize(
    ("change", "more", "expected"),
    [
        (lambda files: (files / "sst2" / "test.jsonl").unlink(), [], "has no test split of sst2; expected sst2/test"),
        (lambda files: write_table(files / "sst2" / "test.jsonl", {"text": ["a"]}), [], "has no column 'sentence'"),
        (lambda files: (files / "sst2" / "test.jsonl").write_text(""), [], "holds no rows"),
        (
            lambda files: write_table(files / "sst2" / "train.jsonl", {"sentence": ["a"], "label": [-1]}),
            [],
            "row 0 is -1, which stands for a hidden test label; train and dev splits need real labels",
        ),
        (lambda files: None, ["tasks=[ax]"], "a model of mnli answers it"),
        (lambda files: None, ["submission_incomplete=mayority"], "Did you mean 'majority'"),
        (lambda files: None, ["submission=1"], "submission=1 must be true or false"),
        (lambda files: None, ["submission=false", "submission_incomplete=majority"], "is for submission=true"),
        (lambda files: None, ["students={a/b: STUDENT}"], "a name is that of a folder, too"),
    ],
)
def test_mistakes_are_told_before_any_work(
    change: Callable[[Path], object],
    more: list[str],
    expected: str,
    student: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_glue(tmp_path / "files", ["sst2"])
    change(tmp_path / "files")
    given = [word.replace("STUDENT", str(student)) for word in more]
    tasks = [] if any(word.startswith("tasks") for word in given) else ["tasks=[sst2]"]
    assert main(["glue", *words(tmp_path, student, *tasks, *given)]) == 2
    message = capsys.readouterr().err.strip()
    assert expected in message and len(message.splitlines()) == 1, message
    assert not list(tmp_path.glob("glue/cells/*/*"))


def test_damaged_predictions_and_rows_without_positions_are_refused(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_glue(tmp_path / "files", ["sst2"])
    given = words(tmp_path, student, "tasks=[sst2]", "seeds=1")
    assert main(["glue", *given]) == 0
    (path,) = tmp_path.glob("glue/cells/*/predictions/*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    assert main(["glue", *given]) == 2
    assert f"{path} is damaged" in capsys.readouterr().err
    path.unlink()
    assert main(["glue", *given]) == 0
    long = {"sentence": [" ".join(toy_rows("toy", "train").first[:30])]}
    write_table(tmp_path / "files" / "sst2" / "test.jsonl", long)
    assert main(["glue", *words(tmp_path, student, "tasks=[sst2]", "name=long")]) == 2
    assert "positions; set max_length to them" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_classifiers_predict_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of several is chosen on the selection split, where there is one and it was not trained on."""
    write_glue(tmp_path / "files", ["sst2"])
    folders = [tmp_path / "right", tmp_path / "wrong"]
    for folder in folders:
        shutil.copytree(toy.teacher_folder("toy"), folder, ignore=shutil.ignore_patterns(MANIFEST))
    weights = load_file(folders[1] / "model.safetensors")
    for name in [name for name in weights if name.startswith("classifier")]:
        weights[name] = -weights[name]
    save_file(weights, folders[1] / "model.safetensors", metadata={"format": "pt"})
    given = words(tmp_path, folders[0], "tasks=[sst2]", "evaluate_only=true", "train_rows=null")
    both = f"students={{two: {{sst2: [{folders[1]}, {folders[0]}]}}, wrong: {{sst2: {folders[1]}}}}}"
    given = [*(word for word in given if not word.startswith("students")), both]
    rows = toy_rows("toy", "train")
    write_table(
        tmp_path / "files" / "sst2" / "train.jsonl", {"sentence": rows.first[:64], "label": rows.labels[:64].tolist()}
    )
    (record := folders[0] / "kd_env_teacher.json").unlink(missing_ok=True)
    assert main(["glue", *given]) == 0
    lines = {name: (tmp_path / f"glue/submission/{name}/SST-2.tsv").read_text() for name in ("two", "wrong")}
    turned = lines["wrong"].replace("\t0", "\tx").replace("\t1", "\t0").replace("\tx", "\t1")
    assert lines["two"] == turned  # every label
    assert (
        f"{folders[0]}: the best accuracy on selection rows" in (tmp_path / "glue/submission/two/README.md").read_text()
    )
    record.write_text(json.dumps({"fingerprint": "of another cut"}))
    shutil.rmtree(tmp_path / "glue")
    assert main(["glue", *given]) == 0
    assert "may have been trained on the selection rows" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "glue/submission/two/SST-2.tsv").exists()


def finished_run(folder: Path, agent: str, seeds: Sequence[int], **env: str) -> Path:
    """What is read of a run: its configuration, that it is finished, and the students that it kept."""
    sections = {"task": {"name": "toy"}, "teacher": {}, "student": {}, "env": env, "evaluation": {}}
    config = {**sections, "agent": {"name": agent, "label": None}, "control": "none", "seed": 0}
    (folder / "students").mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "results.json").write_text("{}")
    for seed in seeds:
        target = folder / "students" / f"seed{seed}"
        shutil.copytree(toy.teacher_folder("toy"), target, ignore=shutil.ignore_patterns(MANIFEST))
        weights = {name: values + 1e-4 * seed for name, values in load_file(target / "model.safetensors").items()}
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_students_of_runs_are_named_by_agent_and_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["progress=false", "jobs=1", f"runs_dir={tmp_path}", "name=glue"]
    first, second = (finished_run(tmp_path / f"run{seed}", "sb3/ppo", [seed]) for seed in (1, 2))
    assert main(["glue", f"runs={tmp_path}/run*", *shared]) == 0
    found = json.loads((tmp_path / "glue" / "results.json").read_text())
    (line,) = [line for line in found["lines"] if line["tasks"] == ["toy"]]
    assert np.shape(line["students"]["sb3-ppo"]["values"]) == (2, 1) and found["seeds"] == []
    text = finished_run(tmp_path / "text", "tutor", [3], objective="text")
    capsys.readouterr()
    for given, expected in (
        ([f"runs={finished_run(tmp_path / 'empty', 'all', [])}"], "kept no students"),
        ([f"runs=[{first},{text}]"], "name them apart"),
        ([f"runs={text}", "evaluate_only=true"], "leave evaluate_only out"),
        ([f"runs={second}", f"students=[{first}]"], "give one of them"),
        (["runs=nowhere/*"], "No run folder matches"),
    ):
        assert main(["glue", *given, *shared]) == 2
        assert expected in capsys.readouterr().err
