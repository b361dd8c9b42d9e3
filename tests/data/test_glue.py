"""Tasks and rows: every format, the official facts, and clear errors before any work."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_env.data.loading import get_task, load_dev, load_train
from kd_env.data.tasks import GLUE


def _write(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        quoting = "none" if path.suffix == ".tsv" else "needed"
        options = csv.WriteOptions(delimiter=delimiter, quoting_style=quoting, quoting_header=quoting)
        csv.write_csv(pa.table({name: list(values) for name, values in columns.items()}), path, options)


def test_the_nine_tasks() -> None:
    assert list(GLUE) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    assert {name: task.num_labels for name, task in GLUE.items() if task.num_labels != 2} == {"stsb": 1, "mnli": 3}
    assert [name for name, task in GLUE.items() if task.regression] == ["stsb"]
    assert GLUE["stsb"].label_range == (0.0, 5.0) and set(GLUE["stsb"].metrics) == {"pearson", "spearmanr"}
    assert GLUE["cola"].metrics == ("matthews_correlation",) and "f1" in GLUE["mrpc"].metrics
    assert GLUE["mnli"].dev_splits == ("validation_matched", "validation_mismatched")
    assert GLUE["rte"].labels == ("entailment", "not_entailment") and GLUE["wnli"].labels[1] == "entailment"


@pytest.mark.parametrize("name", list(GLUE))
@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_every_task_reads_every_format(tmp_path: Path, name: str, ending: str) -> None:
    task = get_task(name)
    labels: list[Any] = [0.0, 2.5, 5.0] if task.regression else [0, 1, 0]
    texts = ["a plain text", "123", "NA"]  # neither a number nor a missing value
    columns = {column: [f"{text}" for text in texts] for column in task.text_columns} | {"label": labels}
    for split in ("train", *task.dev_splits):
        _write(tmp_path / name / f"{split}{ending}", columns)
    before = sorted(tmp_path.rglob("*"))
    rows = load_train(task, str(tmp_path))
    assert rows.first == texts and (rows.second is None) == (len(task.text_columns) == 1)
    assert rows.labels.dtype == (np.float32 if task.regression else np.int64) and rows.labels.tolist() == labels
    dev = load_dev(task, str(tmp_path))
    assert tuple(dev) == task.dev_splits and all(part.first == texts for part in dev.values())
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written into the user's folder


def test_tsv_keeps_lone_quotes_and_csv_quoted_newlines(tmp_path: Path) -> None:
    task = get_task("sst2")
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").write_text('sentence\tlabel\nhe said "no\t0\n"yes\t1\n', encoding="utf-8")
    assert load_train(task, str(tmp_path)).first == ['he said "no', '"yes']
    (tmp_path / "sst2" / "train.tsv").unlink()
    (tmp_path / "sst2" / "train.csv").write_text('sentence,label\n"two\nlines, ""here""",1\n', encoding="utf-8")
    assert load_train(task, str(tmp_path)).first == ['two\nlines, "here"']


def test_label_names_are_accepted(tmp_path: Path) -> None:
    _write(tmp_path / "rte" / "train.jsonl", {
        "sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "label": ["not_entailment", "entailment", 1],
    })  # fmt: skip
    assert load_train(get_task("rte"), str(tmp_path)).labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 2], r"label 2 in row 1 is not one of task 'sst2': 0 \(negative\), 1 \(positive\)"),
        ([0, 0.5], r"label 0.5 in row 1"),
        (["positive", "positve"], r"label 'positve' in row 1"),
        ([0.0, float("nan")], r"row 1 is missing \(nan\)"),
        ([None, 1], r"row 0 is missing \(None\)"),
        ([1, -1], r"row 1 is -1, which stands for a hidden test label"),
        ([[1], 1], r"label in row 0 is \[1\]; a label is one text"),
        ([{"is": 1}, 1], "a label is one text"),
    ],
)
def test_bad_classes(tmp_path: Path, values: list[Any], message: str) -> None:
    _write(tmp_path / "sst2" / "train.jsonl", {"sentence": ["a", "b"], "label": values})
    with pytest.raises(ValueError, match=message):
        load_train(get_task("sst2"), str(tmp_path))


@pytest.mark.parametrize(
    ("value", "message"),
    [(5.5, r"5.5 in row 1 lies outside \[0.0, 5.0\]"), (-1, "hidden"), (float("nan"), "finite"), ("high", "'high'")],
)
def test_bad_scores(tmp_path: Path, value: Any, message: str) -> None:
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1.0, value]}
    _write(tmp_path / "stsb" / "train.jsonl", columns)
    with pytest.raises(ValueError, match=message):
        load_train(get_task("stsb"), str(tmp_path))


def test_missing_things_are_named_with_what_is_there(tmp_path: Path) -> None:
    task = get_task("sst2")
    with pytest.raises(ValueError, match="is no folder"):
        load_train(task, str(tmp_path / "nowhere"))
    _write(tmp_path / "mrpc" / "train.parquet", {"sentence1": ["a"], "sentence2": ["b"], "label": [1]})
    with pytest.raises(ValueError, match=r"No train split of task 'sst2'.*There is: .*mrpc"):
        load_train(task, str(tmp_path))
    _write(tmp_path / "sst2" / "train.csv", {"sentence": ["a"], "label": [1]})
    with pytest.raises(ValueError, match=r"No validation split.*train\.csv"):
        load_dev(task, str(tmp_path))
    _write(tmp_path / "sst2" / "train.csv", {"text": ["a"], "label": [1]})
    with pytest.raises(ValueError, match=r"no column 'sentence'.*text, label"):
        load_train(task, str(tmp_path))
    for content in ("", "sentence,label\n", "text,label\n"):
        (tmp_path / "sst2" / "train.csv").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="holds no rows"):
            load_train(task, str(tmp_path))
    (tmp_path / "sst2" / "train.csv").unlink()
    _write(tmp_path / "sst2" / "train.parquet", {"sentence": ["a", None], "label": [1, 0]})
    with pytest.raises(ValueError, match="column 'sentence' holds None in row 1"):
        load_train(task, str(tmp_path))
    (tmp_path / "sst2" / "train.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load_train(task, str(tmp_path))
    (tmp_path / "sst2" / "train.parquet").unlink()
    (tmp_path / "sst2" / "train.jsonl").write_text('{"sentence": "a", "label": 1}\n{"sentence"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        load_train(task, str(tmp_path))


def test_one_mnli_dev_split_is_enough_and_the_other_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task, columns = get_task("mnli"), {"premise": ["a"], "hypothesis": ["b"], "label": [2]}
    _write(tmp_path / "mnli" / "validation_matched.parquet", columns)
    with caplog.at_level(logging.WARNING):
        assert list(load_dev(task, str(tmp_path))) == ["validation_matched"]
    assert "validation_mismatched" in caplog.text
    (tmp_path / "mnli" / "validation_matched.parquet").unlink()
    with pytest.raises(ValueError, match="No validation_matched split"):
        load_dev(task, str(tmp_path))


def test_no_network_names_the_local_option(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"offline.*data_dir.*rte/train\.parquet"):
        load_train(get_task("rte"), None)
    with pytest.raises(ValueError, match="data_dir"):
        load_dev(get_task("rte"), None)


def test_hub_rows_are_the_same_as_local_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def stored(path: str, name: str, split: str) -> datasets.Dataset:
        assert (path, name, split) == ("nyu-mll/glue", "wnli", "train")
        return datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [1], "idx": [0]})

    monkeypatch.setattr(datasets, "load_dataset", stored)
    rows = load_train(get_task("wnli"), None)
    assert (rows.first, rows.second, rows.labels.tolist()) == (["a"], ["b"], [1])


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(ValueError, match="Did you mean 'mrpc'"):
        get_task("mrcp")
    with pytest.raises(ValueError, match="only for task='custom'"):
        get_task("rte", columns={"text": "a", "label": "b", "kind": "classification"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 5}, r"task=5 must be a text"),
        ({"name": ["toy"]}, r"task=\['toy'\] must be a text"),
        ({"name": " "}, r"task=' ' must be a text that is not empty"),
        ({"name": "custom", "columns": 5}, r"columns=5 must be a mapping"),
        ({"name": "rte", "data_dir": ["glue"]}, r"data_dir=\['glue'\] must be a text"),
        ({"name": "rte", "data_dir": ""}, r"data_dir='' must be a text that is not empty"),
        ({"name": "toy", "data_dir": "glue"}, r"data_dir='glue' is for tasks in files.*leave it out"),
    ],
)
def test_options_of_a_wrong_type_or_without_effect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_task(**options)


CUSTOM = {"text": ["question", "answer"], "label": "good", "kind": "classification"}


@pytest.mark.parametrize("where", ["train.csv", "custom/train.csv"])
def test_custom_classification(tmp_path: Path, where: str) -> None:
    _write(tmp_path / where, {"question": ["a", "b"], "answer": ["c", "d"], "good": ["yes", "no"]})
    task = get_task("custom", CUSTOM, str(tmp_path))
    assert task.labels == ("no", "yes") and task.metrics == ("accuracy",) and not task.regression
    assert load_train(task, str(tmp_path)).labels.tolist() == [1, 0]
    other = get_task("custom", {**CUSTOM, "labels": ["yes", "no"], "metrics": ["f1", "accuracy"]}, str(tmp_path))
    assert load_train(other, str(tmp_path)).labels.tolist() == [0, 1] and other.metrics == ("f1", "accuracy")


def test_custom_numbers_as_class_names(tmp_path: Path) -> None:
    _write(tmp_path / "train.csv", {"question": list("abc"), "answer": list("def"), "good": [10, 2, 3]})
    task = get_task("custom", CUSTOM, str(tmp_path))
    assert task.labels == ("2", "3", "10")
    assert load_train(task, str(tmp_path)).labels.tolist() == [2, 0, 1]


def test_custom_regression(tmp_path: Path) -> None:
    columns = {"text": "line", "label": "score", "kind": "regression"}
    _write(tmp_path / "train.tsv", {"line": ["a", "b", "c"], "score": [1.5, -2.0, 4.0]})
    task = get_task("custom", columns, str(tmp_path))
    assert task.label_range == (-2.0, 4.0) and task.num_labels == 1 and task.metrics == ("pearson", "spearmanr")
    assert load_train(task, str(tmp_path)).labels.tolist() == [1.5, -2.0, 4.0]
    narrow = get_task("custom", {**columns, "label_range": [0, 5]}, str(tmp_path))
    with pytest.raises(ValueError, match=r"-2.0 in row 1 lies outside"):
        load_train(narrow, str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "needs columns"),
        ({**CUSTOM, "txt": "a"}, "Did you mean 'text'"),
        ({"text": "a", "kind": "classification"}, "lacks 'label'"),
        ({**CUSTOM, "kind": "clasification"}, "Did you mean 'classification'"),
        ({**CUSTOM, "text": ["a", "b", "c"]}, "one column, or two"),
        ({**CUSTOM, "labels": ["one"]}, "at least two"),
        ({**CUSTOM, "labels": ["a", "a"]}, "different class names"),
        ({**CUSTOM, "labels": [True, "TRUE"]}, "different class names"),
        ({**CUSTOM, "labels": ["a", " "]}, "different class names"),
        ({**CUSTOM, "labels": "ab"}, r"columns\.labels='ab' must be a list of names"),
        ({**CUSTOM, "labels": True}, r"columns\.labels=True must be a list of names"),
        ({**CUSTOM, "kind": "regression", "label_range": 5}, "must be two numbers"),
        ({**CUSTOM, "label_range": [0, 1]}, "does not fit"),
        ({**CUSTOM, "text": 5}, r"columns\.text=5 must be a name or a list of names"),
        ({**CUSTOM, "text": ["a", 5]}, r"columns\.text=\['a', 5\] must be"),
        ({**CUSTOM, "label": ["a"]}, r"columns\.label=\['a'\] must be a name\."),
        ({**CUSTOM, "kind": "regression", "label_range": ["low", 5]}, "must be two numbers"),
        ({**CUSTOM, "metrics": 3}, r"columns\.metrics=3 must be"),
        ({**CUSTOM, "labels": ["a", "b"], "metrics": ["pearson"]}, "pearson"),
        ({**CUSTOM, "kind": "regression", "label_range": [1, 0]}, "rising"),
        (CUSTOM, "needs data_dir"),
    ],
)
def test_bad_custom_columns(columns: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_task("custom", columns, None)


def test_real_files(assets: Path) -> None:
    sizes = {"mrpc": (3668, 408), "stsb": (5749, 1500), "rte": (2490, 277)}
    for name, (train, dev) in sizes.items():
        task = get_task(name)
        rows = load_train(task, str(assets / "glue"))
        assert rows.second is not None and len(rows.first) == len(rows.second) == len(rows.labels) == train
        assert [len(part.first) for part in load_dev(task, str(assets / "glue")).values()] == [dev]
    assert list(load_dev(get_task("mnli"), str(assets / "glue"))) == ["validation_matched"]
