"""What the GLUE server takes: the zip that is written, and the check that names every departure from it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cli.main import main
from kd_env.data.tasks import GLUE
from kd_env.evaluation.downstream.submission import FILES, ROWS, answers, check_submission, file_text, write_zip

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
    write_zip(path, whole())
    assert check_submission(path, FEW) == []
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [file.name for file in FILES] and archive.testzip() is None
    first = path.read_bytes()
    write_zip(path, whole())
    assert path.read_bytes() == first  # whenever it is written
    assert len(check_submission(path)) == 11  # the server expects as many rows as its test splits have
    assert main(["glue", f"check={path}"]) == 2
    shown = capsys.readouterr()
    assert "QQP.tsv: it has 3 lines below the head; the test split has 390,965 rows." in shown.out
    assert "11 departures" in shown.err
    odd = {f"files/{name}" if name == "AX.tsv" else name: text for name, text in whole().items()}
    odd["cola.tsv"] = odd.pop("CoLA.tsv")
    write_zip(path, odd)
    assert [told.split(" ", 1)[0] for told in check_submission(path, FEW)] == [
        *("files/AX.tsv", "cola.tsv", "CoLA.tsv", "AX.tsv")
    ]
    assert "cola.tsv is none of the files of a submission; it must be called CoLA.tsv." in check_submission(path, FEW)
    path.write_bytes(first[: len(first) // 2])
    assert ["cannot be read as a zip" in told for told in check_submission(path, FEW)] == [True]


def test_the_check_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {file.name: file_text([(file.labels or ("2.5",))[0]] * file.rows) for file in FILES}
    write_zip(tmp_path / "all.zip", contents)
    assert main(["glue", f"check={tmp_path / 'all.zip'}"]) == 0
    assert "has what the GLUE server takes: CoLA.tsv" in capsys.readouterr().out
    for words, expected in (
        ([f"check={tmp_path / 'none.zip'}"], "no zip and no folder"),
        ([f"check={tmp_path / 'all.zip'}", "seeds=2"], "leave seeds out"),
        (["check=[a]"], "check=['a'] must be a zip"),
    ):
        assert main(["glue", *words]) == 2
        assert expected in capsys.readouterr().err
