"""Files of strangers: every reader gives the same rows and labels, or says in one line what is wrong and where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.settings.compose import compose
from kd_env.data.loading import get_task, load_train

TEXT = {"text": "text", "label": "label", "kind": "classification"}
ENDINGS = ("csv", "tsv", "jsonl", "parquet", "hub")


def write(folder: Path, ending: str, labels: Sequence[Any], texts: Sequence[str] | None = None) -> None:
    """A train split with these labels, in the way in which a file of that kind spells them."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = [f"text {place}" for place in range(len(labels))] if texts is None else texts
    if ending == "jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
        (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    elif ending in ("parquet", "hub"):
        name = "train.parquet" if ending == "parquet" else "train-00000-of-00001.parquet"
        parquet.write_table(pa.table({"text": list(texts), "label": list(labels)}), folder / name)
    else:
        mark = "," if ending == "csv" else "\t"
        lines = [f"{text}{mark}{label}" for text, label in zip(texts, labels, strict=True)]
        (folder / f"train.{ending}").write_text("\n".join([f"text{mark}label", *lines, ""]), encoding="utf-8")


def labels_of(folder: Path, **columns: Any) -> tuple[tuple[str, ...], list[Any]]:
    task = get_task("custom", {**TEXT, **columns}, str(folder))
    return task.labels, load_train(task, str(folder)).labels.tolist()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("values", "given", "classes"),
    [
        ([True, False, True], [True, False], ("true", "false")),
        ([True, False, True], ["true", "false"], ("true", "false")),
        ([True, False, True], ["True", "False"], ("True", "False")),
        (["true", "false", "true"], [True, False], ("true", "false")),
        (["yes", "no", "yes"], ["yes", "no"], ("yes", "no")),
        (["caf\u00e9", "no\u200b", "cafe\u0301"], ["cafe\u0301", "no"], ("cafe\u0301", "no")),
        ([2, 10, 2], [2, 10], ("2", "10")),
        ([2.0, 10.0, 2.0], ["2", "10"], ("2", "10")),
        (["01", "1", "01"], ["01", "1"], ("01", "1")),
        (["NA", "null", "NA"], ["NA", "null"], ("NA", "null")),
        (["1e3", "1000", "1e3"], ["1e3", "1000"], ("1e3", "1000")),
        (["2024-01-02", "2024-01-03", "2024-01-02"], ["2024-01-02", "2024-01-03"], ("2024-01-02", "2024-01-03")),
    ],
)
def test_a_label_is_the_text_that_stands_there(
    tmp_path: Path, ending: str, values: list[Any], given: list[Any], classes: tuple[str, ...]
) -> None:
    write(tmp_path, ending, values)
    assert labels_of(tmp_path, labels=given) == (classes, [0, 1, 0])


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_order_of_names_that_are_read_off_a_file(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ending, [10, 2, 3, 2])
    assert labels_of(tmp_path) == (("2", "3", "10"), [2, 0, 1, 0])
    next(tmp_path.iterdir()).unlink()
    write(tmp_path, ending, [True, False])
    names, labels = labels_of(tmp_path)
    assert [name.lower() for name in names] == ["false", "true"] and labels == [1, 0]
    next(tmp_path.iterdir()).unlink()
    write(tmp_path, ending, ["10", "2", "ten"])
    assert labels_of(tmp_path) == (("10", "2", "ten"), [0, 1, 2])


@pytest.mark.parametrize("ending", ENDINGS)
def test_places_are_refused_where_they_could_be_names(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ending, [0, 1, 0])
    assert labels_of(tmp_path, labels=["bad", "good"])[1] == [0, 1, 0]
    for names in ([True, False], [1, 2]):
        with pytest.raises(ValueError, match=r"label '?0'? in row 0 is not one of task 'custom'"):
            labels_of(tmp_path, labels=names)


@pytest.mark.parametrize("ending", ENDINGS)
def test_booleans_are_no_scores_and_no_places(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ending, [True, False])
    with pytest.raises(ValueError, match=r"the label in row 0 is '?True'?; every row needs a finite score"):
        labels_of(tmp_path, kind="regression", label_range=[0, 1])
    with pytest.raises(ValueError, match="row 0 is not one of"):
        labels_of(tmp_path, labels=["bad", "good"])


def test_scores_are_numbers(tmp_path: Path) -> None:
    write(tmp_path, "csv", ["1.5", " 2 ", "1e0"])
    assert labels_of(tmp_path, kind="regression")[1] == [1.5, 2.0, 1.0]
    for wrong in ("1_0", "nan", "inf", "", "2.5.1"):
        write(tmp_path, "csv", ["1", "2", wrong])
        with pytest.raises(ValueError, match=r"train\.csv: the label in row 2 is .*finite score"):
            labels_of(tmp_path, kind="regression")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("given", [None, ["a", "b"]])
def test_a_missing_label_is_told_with_its_row(tmp_path: Path, ending: str, given: list[str] | None) -> None:
    write(tmp_path, ending, ["a", "b", "\u200b" if given else ""])
    with pytest.raises(ValueError, match=r"train.*: the label in row 2 is missing"):
        labels_of(tmp_path, labels=given)


@pytest.mark.parametrize("value", [[0, 1], {"is": "a"}])
def test_nested_labels_are_refused_with_the_file(tmp_path: Path, value: Any) -> None:
    for ending in ("jsonl", "parquet"):
        write(tmp_path, ending, [value, value])
        for columns in ({}, {"labels": ["a", "b"]}, {"kind": "regression", "label_range": [0, 1]}):
            with pytest.raises(ValueError, match=rf"train\.{ending}: the label in row 0 is "):
                labels_of(tmp_path, **columns)
        (tmp_path / f"train.{ending}").unlink()


TWO = {
    "csv": 'text,label\n"a, b",x\nc,y\n',
    "tsv": "text\tlabel\na, b\tx\nc\ty\n",
    "jsonl": '{"text": "a, b", "label": "x"}\n{"text": "c", "label": "y"}\n',
}


@pytest.mark.parametrize("ending", list(TWO))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n \n"])
def test_marks_line_ends_and_blank_lines(tmp_path: Path, ending: str, encoding: str, line_end: str, tail: str) -> None:
    text = (TWO[ending] + tail).replace("\n", line_end)
    (tmp_path / f"train.{ending}").write_bytes(text.encode(encoding))
    rows = load_train(get_task("custom", TEXT, str(tmp_path)), str(tmp_path))
    assert (rows.first, rows.labels.tolist()) == (["a, b", "c"], [0, 1])


@pytest.mark.parametrize("ending", list(TWO))
def test_rows_of_any_length(tmp_path: Path, ending: str) -> None:
    long = "word " * 500_000  # longer than what csv and Arrow take at once
    (tmp_path / f"train.{ending}").write_text(TWO[ending].replace("c", long, 1).replace("a, b", long), encoding="utf-8")
    write(tmp_path, ending, ["x", "y"], [long.strip(), "c"])
    assert load_train(get_task("custom", TEXT, str(tmp_path)), str(tmp_path)).first == [long.strip(), "c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", b"text,text,label\na,b,x\nc,d,y\n", r"two columns 'text'"),
        ("train.tsv", b"label\ttext\tlabel\n", r"two columns 'label'"),
        ("train.jsonl", b'{"text": "a", "text": "b", "label": 0}\n', r"line 1: it has two columns 'text'"),
        ("train.csv", b"text,label\na,x\nb\n", r"line 3: it holds 1 values, the first line 2"),
        ("train.csv", b"text,label\na,x\nb,c,y\n", r"line 3: it holds 3 values"),
        ("train.csv", b'text,label\na,x\n"b,y\n', r"line 3: unexpected end of data"),
        ("train.csv", b"text,label\ncaf\xe9,x\n", r"no text in UTF-8 .*0xe9.*convert it"),
        ("train.jsonl", b'{"text": "caf\xe9", "label": 0}\n', r"no text in UTF-8"),
        ("train.jsonl", b'{"text": "a", "label": 0}\n\n[1]\n', r"line 3: expected an object"),
        ("train.jsonl", b"[" * 100_000 + b"\n", r"line 1: maximum recursion"),
        (
            "train.jsonl",
            b'{"text": ["a"], "label": "x"}\n{"text": "a", "label": "y"}\n',
            r"'text' holds \['a'\] in row 0",
        ),
        (
            "train.jsonl",
            b'{"text": "\\ud83d", "label": "x"}\n{"text": "a", "label": "y"}\n',
            r"surrogate pair in row 0",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        labels_of(tmp_path)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array([0])], names=["text", "text", "label"])
    parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet.*two columns 'text'"):
        labels_of(tmp_path)


def test_a_split_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "parquet", ["a", "b"])
    write(tmp_path, "csv", ["b", "a"])
    with pytest.raises(ValueError, match=r"more than once: .*train\.parquet, .*train\.csv.*remove the others"):
        labels_of(tmp_path)
    (tmp_path / "train.csv").unlink()
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "hub", ["a", "b"])
    with pytest.raises(ValueError, match="more than once"):
        labels_of(tmp_path)


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "hub", ["a", "b"], ["first", "second"])
    first = tmp_path / "data" / "train-00000-of-00001.parquet"
    assert load_train(get_task("custom", TEXT, str(tmp_path)), str(tmp_path)).first == ["first", "second"]
    first = first.rename(first.with_name("train-00000-of-00002.parquet"))
    with pytest.raises(ValueError, match=r"does not hold every part.*train-00000-of-00002\.parquet; copy all 2 parts"):
        labels_of(tmp_path)
    write(tmp_path / "data", "hub", ["b", "a"], ["third", "fourth"])
    second = tmp_path / "data" / "train-00000-of-00001.parquet"
    second = second.rename(second.with_name("train-00001-of-00002.parquet"))
    rows = load_train(get_task("custom", TEXT, str(tmp_path)), str(tmp_path))
    assert (rows.first, rows.labels.tolist()) == (["first", "second", "third", "fourth"], [0, 1, 1, 0])
    second.rename(second.with_name("train-00001-of-00002-0a1b.parquet"))
    assert len(labels_of(tmp_path)[1]) == 4
    first.with_name("train-00000-of-00002-0a1b.parquet").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match="every part of the train split once"):
        labels_of(tmp_path)


@pytest.mark.parametrize("order", ["[true,false]", "[True,FALSE]", "['true','false']", '["True","False"]'])
@pytest.mark.parametrize("written", [("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
def test_every_way_to_write_the_order_of_classes(tmp_path: Path, order: str, written: tuple[str, str]) -> None:
    write(tmp_path, "csv", [*written, written[0]])
    options = ["task=custom", "task.columns.text=text", f"task.columns.labels={order}"]
    columns = compose("config", options)["task"]["columns"]
    assert labels_of(tmp_path, **columns)[1] == [0, 1, 0]


def test_damaged_files_are_read_or_told_with_their_name(tmp_path: Path) -> None:
    """Cut, flipped and longer files of every kind: never an error of a library, or one without the file."""
    rng = np.random.default_rng(0)
    for ending in ENDINGS[:4]:
        write(tmp_path, ending, ["a", "b"] * 10)
        path = tmp_path / f"train.{ending}"
        whole = path.read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            place = int(rng.integers(len(data)))
            match int(rng.integers(3)):
                case 0:
                    del data[place:]
                case 1:
                    data[place] ^= 1 << int(rng.integers(8))
                case _:
                    data[place:place] = rng.bytes(int(rng.integers(1, 20)))
            path.write_bytes(data)
            try:
                labels_of(tmp_path, labels=["a", "b"])
            except ValueError as error:
                assert str(path) in str(error) and "\n" not in str(error)
        path.unlink()
