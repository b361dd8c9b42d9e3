"""``kd-env export``: which student ships, what its folder holds, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from sklearn.metrics import precision_recall_fscore_support
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cli.main import main, run

pytestmark = pytest.mark.usefixtures("undrawn")
QUICK = ["repeats=2", "progress=false"]


@pytest.fixture(scope="module")
def base(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides: the tiny task, five students of a few updates."""
    return [
        *("task=custom", f"task.data_dir={tiny['data_dir']}", f"teacher.path={tiny['teacher']}", "student=toy_small"),
        *("task.feedback_rows=32", "task.selection_rows=32", "env.evaluation_rows=32", "student.hidden_size=8"),
        *("env.batch_size=4", "env.budget=24", "env.updates_per_step=2", "progress=false", "evaluation.seeds=5"),
        *(f"cache_dir={tmp_path_factory.mktemp('cache')}", "teacher.check=none"),
    ]


@pytest.fixture(scope="module")
def finished(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that learned nearly nothing beside two rules, which keeps its two best students."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["agent=actor_critic", "num_envs=2", "total_timesteps=24", "save_students=best:2", "name=learned"]
    words += ["evaluation.rules=[soft_label_only,random_hard]", f"runs_dir={folder}"]
    assert run("train", [*base, *words], "kd-env train") == 0
    return folder / "learned"


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "student"
    assert run("export", [f"run={finished}", f"out={out}", "license=mit", *QUICK], "kd-env export") == 0
    return out


def results_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def ranked(results: dict[str, Any], policy: str) -> list[int]:
    """Seeds of a policy's students, the best on the selection split first."""
    row = next(row for row in results["policies"] if row["policy"] == policy)
    split = row["seeds"]["splits"]["selection"]
    order = sorted(range(len(results["seeds"])), key=lambda i: (-split["metrics"]["accuracy"][i], split["loss"][i]))
    return [results["seeds"][place] for place in order]


def only(run_folder: Path, policy: str, to: Path) -> Path:
    """A copy of a run in whose results one policy stands alone."""
    shutil.copytree(run_folder, to)
    results = results_of(to)
    results["policies"] = [row for row in results["policies"] if row["policy"] == policy]
    (to / "results.json").write_text(json.dumps(results))
    (to / "kd_env_manifest.json").unlink()
    return to


def test_the_best_students_are_kept(finished: Path) -> None:
    best = ranked(results_of(finished), "actor_critic")[:2]
    assert {path.name for path in (finished / "students").iterdir()} == {f"seed{seed}" for seed in best}


def test_a_kept_student_and_one_distilled_again_are_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit, the policy's students drawn by chance or not."""
    run_folder = only(finished, "actor_critic", tmp_path / "run")
    seed = ranked(results_of(finished), "actor_critic")[0]
    assert main(["export", str(run_folder), f"out={tmp_path / 'kept'}", *QUICK]) == 0
    assert "distilled again" not in capsys.readouterr().out
    kept = (run_folder / "students" / f"seed{seed}" / "model.safetensors").read_bytes()
    # One that is not what was judged is told, and the card says so.
    results = results_of(run_folder)
    results["policies"][0]["seeds"]["splits"]["selection"]["metrics"]["accuracy"][seed - 10000] = 2.0
    (run_folder / "results.json").write_text(json.dumps(results))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["export", str(run_folder), f"out={tmp_path / 'other'}", *QUICK]) == 0
    assert "is of an earlier training of this run" in capsys.readouterr().err
    assert "where the run found 2.0000" in (tmp_path / "other" / "README.md").read_text()
    only(finished, "actor_critic", tmp_path / "fresh")
    run_folder = tmp_path / "fresh"
    shutil.rmtree(run_folder / "students")
    assert main(["export", str(run_folder), f"out={tmp_path / 'again'}", *QUICK]) == 0
    assert "save_students=best:1 keeps" in capsys.readouterr().out
    for name in ("kept", "again"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == kept
    assert not list((tmp_path / "kept").rglob("kd_env_manifest.json"))  # who edits the card damages nothing


def test_an_evaluation_of_a_run_ships_its_own_student(finished: Path, tmp_path: Path) -> None:
    """Under the run's policy, which lies in the run's folder, and with the other student of the evaluation."""
    run_folder = shutil.copytree(finished, tmp_path / "run")
    words = [f"run={run_folder}", "name=wide", "student.hidden_size=12", "evaluation.rules=[]", "evaluation.seeds=2"]
    assert main(["evaluate", *words, "save_students=0"]) == 0
    assert main(["export", str(run_folder / "evaluations" / "wide"), f"out={tmp_path / 'out'}", *QUICK]) == 0
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.hidden_size == 12


def test_a_rule_that_goes_by_chance_teaches_the_same_student_again(finished: Path, tmp_path: Path) -> None:
    run_folder = only(finished, "random_hard", tmp_path / "run")
    assert main(["export", str(run_folder), f"out={tmp_path / 'out'}", *QUICK]) == 0
    facts = json.loads((tmp_path / "out" / "kd_env_export.json").read_text())
    assert facts["teaching"]["seed"] == ranked(results_of(finished), "random_hard")[0]
    assert facts["splits"]["selection"]["own"]["accuracy"] == pytest.approx(facts["judged"], abs=1e-9)


def test_the_choice_is_that_of_the_selection_split(finished: Path, exported: Path) -> None:
    facts, results = json.loads((exported / "kd_env_export.json").read_text()), results_of(finished)
    values = {
        row["policy"]: max(row["seeds"]["splits"]["selection"]["metrics"]["accuracy"]) for row in results["policies"]
    }
    chosen = facts["teaching"]["policy"]
    assert facts["judged"] == values[chosen] == max(values.values())
    assert facts["teaching"]["seed"] == ranked(results, chosen)[0]


def test_the_folder_loads_and_says_what_the_card_says(
    exported: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert model.config.id2label == {0: "0", 1: "1"} and model.dtype == torch.float32
    lines = (Path(tiny["data_dir"]) / "validation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    labels = np.array([row["label"] for row in rows])
    with torch.no_grad():
        logits = model(**tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")).logits.numpy()
    told = pipeline("text-classification", model=str(exported))([row["text"] for row in rows])
    assert [int(each["label"]) for each in told] == logits.argmax(-1).tolist()
    facts = json.loads((exported / "kd_env_export.json").read_text())
    dev = facts["splits"]["validation"]
    assert dev["own"]["accuracy"] == pytest.approx(float((logits.argmax(-1) == labels).mean()))
    expected = precision_recall_fscore_support(labels, logits.argmax(-1), labels=[0, 1], zero_division=0)
    for place, kind in enumerate(("precision", "recall", "f1")):
        assert [scores[kind] for scores in dev["classes"].values()] == pytest.approx(expected[place].tolist())
    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "mit" and card.data.pipeline_tag == "text-classification"
    by_split = {each.dataset_split: each.metric_value for each in card.data.eval_results}
    assert by_split["validation"] == pytest.approx(dev["own"]["accuracy"], abs=1e-6)
    monkeypatch.chdir(exported.parent)
    capsys.readouterr()
    [code] = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    exec(code, {})
    assert "'label'" in capsys.readouterr().out
    assert str(exported.parent) not in (exported / "README.md").read_text()


def test_costs_are_those_of_the_files(exported: Path, tiny: dict[str, Any]) -> None:
    costs = json.loads((exported / "kd_env_export.json").read_text())["costs"]
    model = AutoModelForSequenceClassification.from_pretrained(tiny["teacher"])
    assert costs["teacher (PyTorch)"]["parameters"] == sum(each.numel() for each in model.parameters())
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in exported.rglob("*") if path.is_file())
    assert costs["student (PyTorch)"]["megabytes"] == (exported / "model.safetensors").stat().st_size / 1e6
    assert all(value > 0 for cost in costs.values() for value in cost["milliseconds"].values())


def test_onnx_says_what_the_student_says(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    out = tmp_path / "student"
    assert main(["export", str(finished), f"out={out}", "onnx=true", "int8=true", *QUICK]) == 0
    facts = json.loads((out / "kd_env_export.json").read_text())
    assert (
        facts["parity"]["student (ONNX)"]["difference"] < 1e-5 < facts["parity"]["student (ONNX, int8)"]["difference"]
    )
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    session = onnxruntime.InferenceSession(str(out / "onnx" / "model.onnx"))
    for texts in (["w1"], ["w1 w2 w3", "w4"] * 3, ["w5 w6 w7 w8 w9 w1 w2 w3 w4 w5 w6 w7 w8 w9"]):
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = model(**encoded).logits.numpy()
        [logits] = session.run(["logits"], {each.name: encoded[each.name].numpy() for each in session.get_inputs()})
        assert logits == pytest.approx(expected, abs=1e-5)
    # Nothing says where it was made.
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files if b"site-packages" in path.read_bytes() or bytes(tmp_path) in path.read_bytes()]
    monkeypatch.chdir(tmp_path)
    codes = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(codes) == 2
    exec(codes[1], {})
    # A file that says something else ships nothing, and what was there stays.
    before, other = (out / "README.md").read_text(), (out / "onnx" / "model_int8.onnx").read_bytes()
    monkeypatch.setattr("cli.jobs.exports.write.write_onnx", lambda model, rows, path, opset: path.write_bytes(other))
    capsys.readouterr()
    words = ["onnx=true", "tolerance=1e-6", "overwrite=true"]
    assert main(["export", str(finished), f"out={out}", *words, *QUICK]) == 2
    assert "says something else than the student" in capsys.readouterr().err
    assert (out / "README.md").read_text() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["student"]


def test_scores_are_exported_too(
    tiny_regression: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["experiment=none", "task=custom", f"task.data_dir={tiny_regression['data_dir']}", "env.budget=24"]
    words += [
        "task.columns={text: [text], label: label, kind: regression, label_range: [-2.0, 2.0]}",
        "env.batch_size=4",
    ]
    words += [
        f"teacher.path={tiny_regression['teacher']}",
        "student=toy_small",
        "student.hidden_size=8",
        "task.feedback_rows=32",
    ]
    words += [
        "env.evaluation_rows=32",
        "task.selection_rows=32",
        "agent=rule/all",
        "evaluation.rules=[]",
        "name=scores",
    ]
    words += [
        "evaluation.seeds=2",
        f"runs_dir={tmp_path}",
        "teacher.check=none",
        "progress=false",
        "env.terms=[hard_label]",
    ]
    assert run("train", [*words, f"cache_dir={tmp_path / 'cache'}"], "kd-env train") == 0
    out = tmp_path / "scores" / "export"  # where nothing else is said
    assert main(["export", str(tmp_path / "scores"), *QUICK]) == 0
    text = (out / "README.md").read_text()
    assert "A score from -2 to 2 (regression)" in text and "| class |" not in text
    assert AutoModelForSequenceClassification.from_pretrained(out).config.problem_type == "regression"
    monkeypatch.chdir(out.parent)
    capsys.readouterr()
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], {})
    assert "'score'" in capsys.readouterr().out


def test_students_beside_a_tutor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kept classifiers are exported, lost ones cannot be made again, and masked language models know no labels."""
    words = ["env=tutor_token", "agent=rule/keep_masked", "env.protocol=frozen", "env.budget=4", "evaluation.seeds=2"]
    words += ["evaluation.rules=[]", f"runs_dir={tmp_path}", "progress=false", "env.batch_size=4"]
    small = ["task=toy", "task.feedback_rows=16", "task.selection_rows=16", "task.max_train_rows=64"]
    labels = ["env.objective=labels", f"cache_dir={tmp_path / 'cache'}", "save_students=2", "name=rows", *small]
    assert run("train", [*words, *labels], "") == 0
    assert main(["export", str(tmp_path / "rows"), *QUICK]) == 0
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "rows" / "export").config.num_labels == 2
    shutil.rmtree(tmp_path / "rows" / "students")
    assert run("train", [*words, *small, "name=text"], "") == 0
    capsys.readouterr()
    for name, expected in (("rows", "save_students=2"), ("text", "are masked language models")):
        assert main(["export", str(tmp_path / name), f"out={tmp_path / 'out'}", *QUICK]) == 2
        assert expected in capsys.readouterr().err


def test_the_hub_takes_the_folder_or_it_stays(
    finished: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def told(name: str, answer: Any) -> Callable[..., Any]:
        def call(self: HfApi, *given: Any, **options: Any) -> Any:
            calls.append((name, {"name": given[0] if given else None, **options}))
            return answer

        return call

    words = ["export", str(finished), "push_to_hub=somebody/tiny-student", "private=true", *QUICK]
    monkeypatch.setattr(HfApi, "create_repo", told("create", "https://hub/somebody/tiny-student"))
    monkeypatch.setattr(HfApi, "model_info", told("info", type("Info", (), {"private": True})))
    monkeypatch.setattr(HfApi, "upload_folder", told("upload", None))
    assert main([*words, f"out={tmp_path / 'a'}"]) == 0
    assert [name for name, _ in calls] == ["create", "info", "upload"]
    assert calls[0][1] == {"name": "somebody/tiny-student", "private": True, "exist_ok": True}
    assert calls[2][1]["folder_path"] == tmp_path / "a" and (tmp_path / "a" / "README.md").is_file()
    assert 'model="somebody/tiny-student"' in (tmp_path / "a" / "README.md").read_text()
    # A public repository of that name gets nothing.
    monkeypatch.setattr(HfApi, "model_info", told("info", type("Info", (), {"private": False})))
    calls.clear()
    assert main([*words, f"out={tmp_path / 'b'}"]) == 2
    assert [name for name, _ in calls] == ["create", "info"]
    assert "already and public" in capsys.readouterr().err and (tmp_path / "b" / "model.safetensors").is_file()
    monkeypatch.undo()  # no network here
    assert main([*words, f"out={tmp_path / 'c'}"]) == 2
    assert "hf auth login" in capsys.readouterr().err and (tmp_path / "c" / "model.safetensors").is_file()


def test_what_does_not_fit_is_refused(
    finished: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "letter.txt").write_text("dear")
    unfinished = shutil.copytree(finished, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    texts, control = (shutil.copytree(finished, tmp_path / name) for name in ("texts", "control"))
    for folder, before, after in (
        (texts, "\nenv:\n", "\nenv:\n  objective: text\n"),
        (control, "control: none", "control: untrained"),
    ):
        config = (folder / "config.yaml").read_text()
        assert before in config
        (folder / "config.yaml").write_text(config.replace(before, after))
        (folder / "kd_env_manifest.json").unlink()
    free = f"out={tmp_path / 'free'}"
    for words, expected in (
        ([], "Name a run"),
        ([str(tmp_path / "nowhere"), free], "No run folder matches"),
        ([str(tmp_path / "something"), free], "is no run folder"),
        ([str(unfinished), free], "has no results.json"),
        ([str(texts), free], "are masked language models"),
        ([str(control), free], "control=untrained"),
        ([str(finished), f"out={exported}"], "overwrite=true"),
        ([str(finished), f"out={tmp_path / 'something'}", "overwrite=true"], "no exported student"),
        ([str(finished), free, "by=f2"], "by='f2' is no metric of the task; valid: accuracy"),
        ([str(finished), free, "int8=true"], "add onnx=true"),
        ([str(finished), free, "opset=3"], "opset=3"),
        ([str(finished), free, "tolerance=0"], "tolerance=0"),
        ([str(finished), free, "repeats=0"], "repeats=0"),
        ([str(finished), free, "push_to_hub=me"], "<user>/<name>"),
        ([str(finished), free, "private=true"], "push_to_hub"),
        ([str(finished), free, "onx=true"], "Did you mean 'onnx'"),
        ([str(finished), str(finished.parent), "onnx=false"], "out=<folder>"),
    ):
        assert main(["export", *words]) == 2, words
        assert expected in capsys.readouterr().err, words
    assert not (tmp_path / "free").exists()
    assert (tmp_path / "something" / "letter.txt").read_text() == "dear"


def test_an_absent_extra_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else found(name))
    assert main(["export", str(finished), f"out={tmp_path / 'out'}", "onnx=true"]) == 2
    assert 'pip install "kd-env[onnx]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["save_students=best:0"], "best:<number>"),
        (["save_students=worst:2"], "best:<number>"),
        (["evaluation.seeds=10", "save_students=best:11"], "more than evaluation.seeds=10"),
        (["env=tutor_token", "save_students=best:1"], "kept by their number alone"),
        (["objective=text", "task=toy", "save_students=best:1"], "kept by their number alone"),
    ],
)
def test_students_that_cannot_be_kept_so(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 2
    assert expected in capsys.readouterr().err
