"""Tables of texts and labels in files of several formats: values as they are written, of whatever type."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST_FIELD = 2**31 - 1


class Table(NamedTuple):
    """Columns of one split as Python values, None where a value is missing."""

    source: str  # for messages
    columns: dict[str, list[Any]]


def read_tables(paths: Sequence[Path]) -> Table:
    """Columns of the files of a split, one below the other.

    A tsv is read as GLUE publishes them: no quoting, so that a lone quotation mark is part of a text. Everything in csv
    and tsv is text, a number too. Text may begin with a byte order mark; blank lines are passed over.

    Raises:
        ValueError: a file that cannot be read, two columns of one name, or files with different columns; with its path.
    """
    first, *others = [_read(path) for path in paths]
    for path, columns in zip(paths[1:], others, strict=True):
        if list(columns) != list(first):
            raise ValueError(f"{path} has the columns {_words(columns)}, but {paths[0]} has {_words(first)}.")
    values = {name: [value for part in (first, *others) for value in part[name]] for name in first} if others else first
    return Table(f"{paths[0]} and {len(others)} more" if others else str(paths[0]), values)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A file as text in UTF-8, or in the encoding that its byte order mark says; line ends stay as they are.

    Raises:
        ValueError: it is in another encoding.
    """
    try:
        with path.open(encoding=encoding_of(path), newline="") as lines:
            yield lines
    except UnicodeError as error:
        raise ValueError(f"it is no text in UTF-8 ({error}); convert it") from error


def encoding_of(path: Path) -> str:
    """The encoding that the byte order mark of a text says; ``utf-8-sig`` where it has none, or one of UTF-8."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


def _read(path: Path) -> dict[str, list[Any]]:
    import pyarrow

    readers = {".parquet": _parquet, ".jsonl": _jsonl}
    try:
        return readers.get(path.suffix, _separated)(path)
    except (ValueError, OSError, csv.Error, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}") from error


def _parquet(path: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    # Not read_table, which adds columns where a folder above is called key=value.
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
    _check_names(table.column_names)
    return {str(name): table.column(name).to_pylist() for name in table.column_names}


def _separated(path: Path) -> dict[str, list[Any]]:
    rows = []
    with open_text(path) as lines, _fields_of_any_length():
        reader = (
            csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if path.suffix == ".tsv"
            else csv.reader(lines, strict=True)
        )
        names = next(reader, [])
        _check_names(names)
        try:
            for row in reader:
                if not "".join(row).strip():
                    continue
                if len(row) != len(names):
                    raise ValueError(f"it holds {len(row)} values, the first line {len(names)}")
                rows.append(row)
        except UnicodeError:
            raise
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _jsonl(path: Path) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    with open_text(path) as lines:
        for place, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {place}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {place}: expected an object, got {line.strip()[:60]!r}")
            rows.append(row)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        _check_names([name for name, _ in pairs])
    return values


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"it has two columns {twice!r}; rename one of them")


def _words(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "(none)"
