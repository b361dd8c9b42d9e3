"""Tables of texts and labels in files of several formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")


class Table(NamedTuple):
    """Columns of one file as Python values, None where a value is missing."""

    source: str  # for messages
    columns: dict[str, list[Any]]


def find_table(data_dir: str, task: str, split: str) -> Path | None:
    """File of a split, ``<data_dir>/<task>/<split>.*`` (for ``custom`` also ``<data_dir>/<split>.*``), or None.

    Where several formats exist the first of ``FORMATS`` is taken.

    Raises:
        ValueError: ``data_dir`` is no folder.
    """
    for folder in _folders(data_dir, task):
        for ending in FORMATS:
            path = folder / f"{split}{ending}"
            if path.is_file():
                return path
    return None


def listing(data_dir: str, task: str) -> str:
    """What the places searched by :func:`find_table` hold, in words."""
    folders = [folder for folder in _folders(data_dir, task) if folder.is_dir()] or [Path(data_dir).expanduser()]
    return "; ".join(f"in {f}: {', '.join(sorted(path.name for path in f.iterdir())) or '(nothing)'}" for f in folders)


def _folders(data_dir: str, task: str) -> list[Path]:
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise ValueError(f"data_dir={data_dir!r} is no folder; give the folder that holds {task}/train.parquet.")
    return [root / task, root] if task == "custom" else [root / task]


def read_table(path: Path, text_columns: Sequence[str]) -> Table:
    """Columns of a file. Text columns of csv and tsv stay texts even where they look like numbers.

    A tsv is read as GLUE publishes them: no quoting, so that a lone quotation mark is part of a text.

    Raises:
        ValueError: the file cannot be parsed (with the parser's message).
    """
    try:
        if path.suffix == ".parquet":
            columns = _parquet(path)
        elif path.suffix == ".jsonl":
            columns = _jsonl(path)
        else:
            columns = _separated(path, text_columns)
    except (ValueError, OSError) as error:  # Arrow's errors are ValueErrors or OSErrors
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    return Table(str(path), columns)


def number(value: Any) -> float | None:
    """``value`` as a number, or None; texts that spell a number count, booleans are 0 and 1."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _parquet(path: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    return {str(name): table.column(name).to_pylist() for name in table.column_names}


def _separated(path: Path, text_columns: Sequence[str]) -> dict[str, list[Any]]:
    import pyarrow as pa
    from pyarrow import csv

    if path.stat().st_size == 0:  # Arrow calls this a broken file; it is one without rows or columns
        return {}
    tabs = path.suffix == ".tsv"
    table = csv.read_csv(
        path,
        parse_options=csv.ParseOptions(
            delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs
        ),
        convert_options=csv.ConvertOptions(column_types={name: pa.string() for name in text_columns}),
    )
    return {str(name): table.column(name).to_pylist() for name in table.column_names}


def _jsonl(path: Path) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {place}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {place}: expected an object, got {line.strip()[:60]!r}")
            rows.append(row)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
