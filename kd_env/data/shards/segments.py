"""Pieces of the sources of text, each of which one process can read by itself, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kd_env.core.hub import hub_asked_once
from kd_env.core.registry import unknown_name
from kd_env.data.corpora import task_folder, task_texts
from kd_env.data.files.formats import open_text
from kd_env.data.tasks import TASKS

BLOCK = 1 << 19
"""Bytes of a file that are read at once."""
LONGEST_LINE = 1 << 26
"""Bytes of a line of a file: a text and the tokens that are made of it have to fit into memory."""
_AT_ONCE = 1024
_MARK = b"\xef\xbb\xbf"


class Segment(NamedTuple):
    """A piece of a source; ``begin`` and ``end`` count what its kind is made of."""

    kind: str
    """``lines`` or ``jsonl`` (bytes; a line belongs where it begins), ``whole_lines`` or ``whole_jsonl`` (a file in
    another encoding than UTF-8), ``parquet`` (row groups), ``arrow`` (record batches), ``stream`` (a file of Arrow's
    stream format), ``task`` (all of its train split) or ``hub`` (files of the train split)."""
    source: str  # path of the file, or name of the task or data set
    begin: int
    end: int
    size: int  # bytes of text, about


def texts_of(segment: Segment, column: str, data_dir: str | None = None) -> Iterator[list[str]]:
    """Texts of a segment, some at a time, in the order of the source; blank ones among them.

    Args:
        segment: the piece.
        column: of the text, where the source has columns.
        data_dir: of GLUE tasks.

    Raises:
        ValueError: what cannot be read, named, with the remedy.
    """
    try:
        yield from _READERS[segment.kind](segment, column, data_dir)
    except (UnicodeError, OSError, EOFError) as error:
        raise _unreadable(segment.source, error) from error


def _unreadable(source: str | Path, error: Exception) -> ValueError:
    remedy = "convert it to UTF-8" if isinstance(error, UnicodeError) else "write it again, or take it out"
    return ValueError(f"{source} cannot be read ({' '.join(str(error).split())}); {remedy}.")


# -- lines


def _lines(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
    for _, lines in _blocks(segment):
        yield lines


def _jsonl(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
    for at, lines in _blocks(segment):
        yield _values(lines, column, f"{segment.source}, near byte {at}")


def _whole(parse: Callable[[list[str], str, str], list[str]]) -> Callable[..., Iterator[list[str]]]:
    def read(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
        with open_text(Path(segment.source)) as file:
            for lines in _batches(file):
                yield parse(lines, column, segment.source)

    return read


def _blocks(segment: Segment) -> Iterator[tuple[int, list[str]]]:
    """Lines that begin within the bytes of a segment, by blocks, with the byte at which each block begins."""
    with Path(segment.source).open("rb") as file:
        if segment.begin:
            file.seek(segment.begin - 1)
            _line(file, segment.source)
        while (at := file.tell()) < segment.end:
            block = file.read(min(BLOCK, segment.end - at))
            if not block:
                raise OSError(f"it has {at} bytes, {segment.end} when it was looked at")
            if not block.endswith(b"\n"):
                block += _line(file, segment.source)
            text = block.removeprefix(_MARK if at == 0 else b"").decode("utf-8")
            yield at, (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n")


def _line(file: BinaryIO, source: str) -> bytes:
    """The rest of the line at which a file stands."""
    rest = file.readline(LONGEST_LINE)
    if len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
        raise ValueError(f"{source} has a line of more than {LONGEST_LINE >> 20} MiB; write one text a line.")
    return rest


def _values(lines: Iterable[str], column: str, where: str) -> list[str]:
    """The column in lines of JSON."""
    rows = []
    for line in lines:
        if line and not line.isspace():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{where}: {line.strip()[:60]!r} is no JSON ({error}); write one object a line."
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: {line.strip()[:60]!r} is no JSON object; write one a line.")
            if column not in row:
                raise ValueError(f"{where}: {unknown_name('column', column, list(row))} Name it with column=...")
            rows.append(row[column])
    return checked_texts(rows, column, where)


def checked_texts(values: Sequence[Any], column: str, where: str) -> list[str]:
    """Values of a column without missing ones; raises ``ValueError`` for the first that is no text."""
    wrong = next((value for value in values if value is not None and not isinstance(value, str)), None)
    if wrong is not None:
        raise ValueError(
            f"{where}: the column {column!r} holds {str(wrong)[:60]!r} ({type(wrong).__name__}), and texts are needed; "
            "name the column that holds them with column=..."
        )
    return [value for value in values if value is not None]


# -- tables


def _parquet(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
    from pyarrow import ArrowException, parquet

    groups = list(range(segment.begin, segment.end))
    try:
        with parquet.ParquetFile(segment.source, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_AT_ONCE, row_groups=groups, columns=[column], use_threads=False):
                yield checked_texts(batch.column(0).to_pylist(), column, segment.source)
    except ArrowException as error:
        raise _unreadable(segment.source, error) from error


def _arrow(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
    import pyarrow

    try:
        with pyarrow.OSFile(segment.source) as opened:  # mapped, all that was read would count as resident
            if segment.kind == "stream":
                batches = iter(pyarrow.ipc.open_stream(opened))
            else:
                reader = pyarrow.ipc.open_file(opened)
                batches = map(reader.get_batch, range(segment.begin, segment.end))
            for batch in batches:
                values = batch.column(column)
                for start in range(0, len(values), _AT_ONCE):
                    yield checked_texts(values.slice(start, _AT_ONCE).to_pylist(), column, segment.source)
    except (pyarrow.ArrowException, KeyError) as error:
        raise _unreadable(segment.source, error) from error


# -- names


def _task(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
    yield from _batches(task_texts(TASKS[segment.source], task_folder(segment.source, data_dir)))


def _hub(segment: Segment, column: str, data_dir: str | None) -> Iterator[list[str]]:
    stream = hub_stream(segment.source, "train")
    for place in range(segment.begin, segment.end):
        yield from stream_texts(stream.shard(num_shards=stream.num_shards, index=place), column, segment.source)


def hub_builder(name: str) -> Any:
    """What ``datasets`` knows about a data set of the hub before any of it is read.

    Args:
        name: ``name`` or ``name:configuration``.

    Raises:
        ValueError: there is none, or no network.
    """
    from datasets import load_dataset_builder

    path, _, configuration = name.partition(":")
    try:
        with hub_asked_once():
            return load_dataset_builder(path, configuration or None)
    except Exception as error:  # many libraries fail here in their own ways; the cause is kept
        raise hub_failed(name, error) from error


def hub_stream(name: str, split: str) -> Any:
    """A split of a data set of the hub as a stream; raises ``ValueError`` as :func:`hub_builder`."""
    return stream_of(hub_builder(name), name, split)


def stream_of(builder: Any, name: str, split: str | None = None) -> Any:
    """A split of a data set as a stream, or all of them by name."""
    try:
        return builder.as_streaming_dataset(split=split)
    except Exception as error:
        raise hub_failed(name, error) from error


def stream_texts(stream: Any, column: str, name: str) -> Iterator[list[str]]:
    """Texts of a stream of ``datasets``."""
    try:
        for rows in stream.iter(batch_size=_AT_ONCE):
            if column not in rows:
                raise ValueError(unknown_name(f"column of {name}:", column, list(rows)) + " Name it with column=...")
            yield checked_texts(rows[column], column, name)
    except ValueError:
        raise
    except Exception as error:
        raise hub_failed(name, error) from error


def hub_failed(name: str, error: Exception) -> ValueError:
    """The error for a data set that cannot be read."""
    return ValueError(
        f"Could not read the data set {name!r} from the hub: {type(error).__name__}: {error}. What is packed already "
        "stays; without a network give a folder of files."
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_READERS: dict[str, Callable[..., Iterator[list[str]]]] = {
    "lines": _lines,
    "jsonl": _jsonl,
    "whole_lines": _whole(lambda lines, column, where: lines),
    "whole_jsonl": _whole(_values),
    "parquet": _parquet,
    "arrow": _arrow,
    "stream": _arrow,
    "task": _task,
    "hub": _hub,
}
