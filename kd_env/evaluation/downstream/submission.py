"""The files that the GLUE server takes, and a check of them before they are uploaded.

gluebenchmark.com/faq asks for one zip without folders of eleven tab-separated files: the nine tasks (MNLI as two) and
the diagnostic set AX, which the model of MNLI answers. Each has the head ``index``, ``prediction`` and a line for every
row of the test file, in its order. A zip that lacks one of them fails, also one with an empty file. Labels are those of
the unlabelled test files: numbers where these have numbers, names where they have names, and scores of STS-B between 0
and 5 with three decimals. So say those who upload there: KerasNLP, ``examples/glue_benchmark/README.md`` (which takes
fillers from the server's sample, ``CBOW.zip``), and jiant, ``jiant/scripts/postproc/glue``. Numbers of rows are those
of the card of ``nyu-mll/glue``.
"""

from __future__ import annotations

import codecs
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_env.data.files.labels import score
from kd_env.data.files.places import find_tables

HEAD = "index\tprediction"
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_INFERENCE = ("entailment", "neutral", "contradiction")
_LOW, _HIGH = 0.0, 5.0
_LARGEST = 64 * 2**20


class ServerFile(NamedTuple):
    """One file of a submission."""

    title: str
    """Its name without the ending."""
    task: str
    """Whose model answers."""
    place: str
    """Folder of the test rows below ``data_dir``, and configuration of the hub."""
    split: str
    """Of the test rows there."""
    rows: int
    """That the server expects."""
    labels: tuple[str, ...]
    """In the order of the task's classes; empty for scores."""

    @property
    def name(self) -> str:
        """With its ending."""
        return f"{self.title}.tsv"


FILES = (
    ServerFile("CoLA", "cola", "cola", "test", 1063, _BINARY),
    ServerFile("SST-2", "sst2", "sst2", "test", 1821, _BINARY),
    ServerFile("MRPC", "mrpc", "mrpc", "test", 1725, _BINARY),
    ServerFile("STS-B", "stsb", "stsb", "test", 1379, ()),
    ServerFile("MNLI-m", "mnli", "mnli", "test_matched", 9796, _INFERENCE),
    ServerFile("MNLI-mm", "mnli", "mnli", "test_mismatched", 9847, _INFERENCE),
    ServerFile("QNLI", "qnli", "qnli", "test", 5463, _ENTAILMENT),
    ServerFile("QQP", "qqp", "qqp", "test", 390965, _BINARY),
    ServerFile("RTE", "rte", "rte", "test", 3000, _ENTAILMENT),
    ServerFile("WNLI", "wnli", "wnli", "test", 146, _BINARY),
    ServerFile("AX", "mnli", "ax", "test", 1104, _INFERENCE),
)
"""All of them."""
ROWS: Mapping[str, int] = {file.title: file.rows for file in FILES}
"""Lines that the server expects, without the head, by title."""


def tests_of(task: str, data_dir: str | None) -> list[ServerFile]:
    """Files of the GLUE server that a model of the task can answer, as their rows are there.

    Args:
        task: its name; the embedded tasks have none.
        data_dir: folder of the files; None for the hub, which has all.

    Raises:
        ValueError: a split whose files are there twice or in part.
    """
    files = [file for file in FILES if file.task == task]
    return [file for file in files if data_dir is None or find_tables(data_dir, file.place, file.split)]


def answers(file: ServerFile, logits: np.ndarray) -> list[str]:
    """What is predicted, in the server's words.

    Args:
        file: says which.
        logits: ``[rows, classes]`` in the order of the task's classes, or ``[rows, 1]`` of scores.
    """
    if not file.labels:
        return [f"{value + 0.0:.3f}" for value in np.clip(logits[:, 0], _LOW, _HIGH).tolist()]  # no -0.000
    return [file.labels[place] for place in logits.argmax(axis=-1).tolist()]


def file_text(predictions: Sequence[str]) -> str:
    """Content of a file."""
    return "\n".join([HEAD, *(f"{index}\t{prediction}" for index, prediction in enumerate(predictions))]) + "\n"


def zipped(contents: Mapping[str, str]) -> bytes:
    """A zip of texts by name, without folders; the same texts give the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            entry = zipfile.ZipInfo(name)  # of 1980, whenever it is written
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, text)
    return data.getvalue()


def check_submission(path: Path | str, rows: Mapping[str, int] = ROWS) -> list[str]:
    """How a submission departs from what the server takes, a sentence each; empty where it does not.

    Args:
        path: a zip, or a folder whose tsv files are to become one.
        rows: lines without the head that each file should have, by its title; titles without a number are not counted.

    Raises:
        ValueError: nothing is there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = {file.name: file for file in sorted(path.iterdir()) if file.suffix.lower() == ".tsv"}
        return list(_departures({name: file.read_bytes() for name, file in found.items() if file.is_file()}, rows))
    if not path.is_file():
        raise ValueError(f"There is no zip and no folder {str(path)!r} to check.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if large := [entry.filename for entry in entries if entry.file_size > _LARGEST]:
                return [f"{name} unpacks to more than {_LARGEST // 2**20} MiB." for name in large]
            twice = {one.filename for one in entries if sum(one.filename == two.filename for two in entries) > 1}
            told = [f"{name} is in the zip more than once." for name in sorted(twice)]
            return [*told, *_departures({entry.filename: archive.read(entry) for entry in entries}, rows)]
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        return [f"{path.name} cannot be read as a zip: {' '.join(str(error).split())}."]


def _departures(contents: Mapping[str, bytes], rows: Mapping[str, int]) -> Iterator[str]:
    names = {file.name for file in FILES}
    for name in contents:
        inner = name.rstrip("/").rsplit("/", 1)[-1]
        if "/" in name:
            yield f"{name} lies in a folder; the files must lie at the top of the zip."
        elif name not in names:
            meant = [one for one in names if one.lower() == inner.lower()]
            yield f"{name} is none of the files of a submission{f'; it must be called {meant[0]}' if meant else ''}."
    for file in FILES:
        if file.name not in contents:
            yield f"{file.name} is missing."
            continue
        for told in _file_departures(file, contents[file.name], rows.get(file.title)):
            yield f"{file.name}: {told}"


def _file_departures(file: ServerFile, data: bytes, rows: int | None) -> Iterator[str]:
    if not data.strip():
        yield "it is empty."
        return
    if data.startswith(codecs.BOM_UTF8):
        yield "it begins with a byte order mark."
        data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" in data:
        yield "its lines do not end with a line feed alone (there are carriage returns)."
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        head, *lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        yield f"it is no text in UTF-8 (byte {error.start})."
        return
    if head != HEAD:
        yield f"its first line is {_short(head)}, where 'index', a tab and 'prediction' must stand."
        if "\t" in head and head.split("\t", 1)[0].strip().isdigit():  # no head at all
            lines = [head, *lines]
    if rows is not None and len(lines) != rows:
        yield f"it has {len(lines):,} lines below the head; the test split has {rows:,} rows."
    cells = [line.split("\t") for line in lines]
    if broken := [place for place, cell in enumerate(cells) if len(cell) != 2]:
        yield f"{_lines(broken, lines)} no index, tab and prediction."
    whole = [(place, cell[0], cell[1]) for place, cell in enumerate(cells) if len(cell) == 2]
    if wrong := [place for place, index, _ in whole if index != str(place)]:
        yield f"{_lines(wrong, lines)} another index than the place of the line, counted from 0."
    allowed = ", ".join(file.labels) or f"a number from {_LOW:g} to {_HIGH:g}"
    if unknown := [place for place, _, label in whole if not _allowed(file, label)]:
        yield f"{_lines(unknown, lines)} another prediction than {allowed}."


def _allowed(file: ServerFile, label: str) -> bool:
    if file.labels:
        return label in file.labels
    number = score(label)
    return number is not None and _LOW <= number <= _HIGH


def _lines(places: Sequence[int], lines: Sequence[str]) -> str:
    first = f"line {places[0] + 2} ({_short(lines[places[0]])})"
    return f"{first} has" if len(places) == 1 else f"{len(places):,} lines, the first of them {first}, have"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
