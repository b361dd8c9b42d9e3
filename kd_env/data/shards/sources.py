"""Sources of text at scale: they are listed, looked into, hashed and cut into pieces; none is held in memory."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from kd_env.core.registry import unknown_name
from kd_env.data.corpora import check_data_dir, source_kind, source_names, task_folder, task_texts
from kd_env.data.files.formats import encoding_of
from kd_env.data.shards.segments import BLOCK, Segment, hub_builder, stream_of, stream_texts, texts_of
from kd_env.data.tasks import TASKS
from kd_files.reading import DamagedFile, read_json
from kd_files.writing import write_json

log = logging.getLogger("kd_env")

FORMATS = (".txt", ".jsonl", ".parquet", ".arrow", ".feather")
PART_BYTES = 1 << 24
"""Bytes of text in a part at least: what one process turns into one shard."""
MOST_PARTS = 1024
SAMPLE = 1 << 20
"""Characters of a source that are looked at before any work."""
DEFAULT_COLUMN = "text"
UNKNOWN_SIZE = 1 << 25
"""Bytes of text that a data set of the hub is taken to have where it does not say: few, so that enough is held out."""
_SETTLED = 2.0  # seconds after which a file that changes has another time
_REMEDY = "delete it; it is made again"


class Source(NamedTuple):
    """One source, as far as it is known before it is read."""

    name: str
    kind: str  # task, folder or hub
    segments: tuple[Segment, ...]
    identity: tuple[Any, ...]  # equal where the content is
    sample: tuple[str, ...]  # its first texts, without blank ones
    size: int  # bytes of text, about
    dev: str | None = None  # its own dev split; None: dev texts are held back from its train texts


def find_sources(
    text: str | Sequence[str], column: str | None, data_dir: str | None, records: Path | None
) -> list[Source]:
    """The sources that ``text`` names.

    Args:
        text: ``toy`` or ``toy_pair``, GLUE tasks, folders (``.txt`` with one text a line; ``.jsonl``, ``.parquet``,
            ``.arrow`` and ``.feather`` with a column of texts) or data sets of the hub, one or several.
        column: of the texts where a source has columns; None: ``text``.
        data_dir: of GLUE tasks.
        records: folder that keeps the hashes of files, so that those that have not changed are read once, and what
            the hub said of data sets.

    Raises:
        ValueError: no such source, nothing in it, or no column of texts; with the remedy.
    """
    names = source_names(text)
    kinds = [source_kind(name) for name in names]
    check_data_dir(data_dir, names)
    found = []
    for name, kind in zip(names, kinds, strict=True):
        if kind == "task":
            found.append(_task(name, data_dir))
        elif kind == "folder":
            found.append(_folder(Path(name).expanduser(), column or DEFAULT_COLUMN, records))
        else:
            found.append(_hub(name, column or DEFAULT_COLUMN, records))
    if column is not None and all(segment.kind in _PLAIN for source in found for segment in source.segments):
        raise ValueError(
            f"column={column!r} is for files and data sets with columns, and text={text!r} names none; leave it out."
        )
    return found


_PLAIN = ("lines", "whole_lines", "task")


def cut_parts(sources: Sequence[Source]) -> list[tuple[Segment, ...]]:
    """Segments in groups of at least :data:`PART_BYTES` of text; there are about :data:`MOST_PARTS` at most."""
    segments = [segment for source in sources for segment in source.segments]
    least = max(PART_BYTES, -(-sum(segment.size for segment in segments) // MOST_PARTS))
    parts: list[list[Segment]] = []
    held = least
    for segment in (piece for whole in segments for piece in _pieces(whole, least)):
        if held >= least:
            parts.append([])
            held = 0
        parts[-1].append(segment)
        held += segment.size
    return [tuple(part) for part in parts]


def _pieces(segment: Segment, least: int) -> list[Segment]:
    """Pieces of about ``least`` bytes of text, of what can be read from anywhere."""
    count = min(segment.size // least, segment.end - segment.begin)
    if segment.kind not in ("lines", "jsonl", "parquet", "arrow", "hub") or count < 2:
        return [segment]
    length = segment.end - segment.begin
    bounds = [segment.begin + length * place // count for place in range(count + 1)]
    return [segment._replace(begin=begin, end=end, size=segment.size // count) for begin, end in pairwise(bounds)]


def _task(name: str, data_dir: str | None) -> Source:
    texts = task_texts(TASKS[name], task_folder(name, data_dir))
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    size = sum(map(len, texts))
    segment = Segment("task", name, 0, 1, size)
    return Source(name, "task", (segment,), ("task", digest.hexdigest()), _looked_at(name, [texts]), size, "dev")


# -- folders


def _folder(folder: Path, column: str, records: Path | None) -> Source:
    files = sorted(path for path in folder.rglob("*") if path.suffix in FORMATS and path.is_file())
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(f"The folder {str(folder)!r} holds no {', '.join(FORMATS)} files (it holds {held}).")
    segments = [segment for path in files for segment in _of_file(path, column)]
    if not segments:
        raise ValueError(f"The {len(files)} files of {str(folder)!r} are empty; give files that hold texts.")
    texts = (batch for segment in segments for batch in texts_of(segment, column))
    sample = _looked_at(str(folder), texts)
    hashes = _hashes(folder, files, records)
    identity = [(path.relative_to(folder).as_posix(), hashes[path]) for path in files]
    size = sum(segment.size for segment in segments)
    return Source(str(folder), "folder", tuple(segments), ("files", *identity), sample, size)


def _of_file(path: Path, column: str) -> list[Segment]:
    size, name = path.stat().st_size, str(path.resolve())
    if not size:
        return []
    if path.suffix == ".parquet":
        return _of_parquet(path, name, column)
    if path.suffix in (".arrow", ".feather"):
        return _of_arrow(path, name, column, size)
    kind = "lines" if path.suffix == ".txt" else "jsonl"
    if encoding_of(path) != "utf-8-sig":
        return [Segment(f"whole_{kind}", name, 0, size, size)]
    whole = Segment(kind, name, 0, size, size)
    if kind == "lines":
        return [whole]
    seen = min(size, BLOCK)
    characters = sum(len(text) for batch in islice(texts_of(whole, column), 1) for text in batch)
    return [whole._replace(size=max(1, size * min(characters, seen) // seen))]


def _of_parquet(path: Path, name: str, column: str) -> list[Segment]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, column)
            place = next(i for i in range(len(file.schema)) if file.schema.column(i).path.split(".")[0] == column)
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            sizes = [group.column(place).total_uncompressed_size for group in groups if group.num_rows]
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}); write it again, or take it out.") from error
    return [Segment("parquet", name, 0, len(groups), sum(sizes))] if sizes else []


def _of_arrow(path: Path, name: str, column: str, size: int) -> list[Segment]:
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as opened:
            try:
                reader = pyarrow.ipc.open_file(opened)
            except pyarrow.ArrowInvalid:  # data sets are kept as streams
                opened.seek(0)
                _check_column(path, pyarrow.ipc.open_stream(opened).schema, column)
                return [Segment("stream", name, 0, 1, size)]
            _check_column(path, reader.schema, column)
            return [Segment("arrow", name, 0, reader.num_record_batches, size)] if reader.num_record_batches else []
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as Arrow's file or stream format ({error}); write it again, or take it out."
        ) from error


def _check_column(path: Path, schema: Any, column: str) -> None:
    from pyarrow import types

    if column not in schema.names:
        raise ValueError(f"{path}: {unknown_name('column', column, schema.names)} Name it with column=...")
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise ValueError(
            f"{path}: the column {column!r} is of type {kind}, and texts are needed; name the column that holds them "
            "with column=..."
        )


def _hashes(folder: Path, files: Sequence[Path], records: Path | None) -> dict[Path, str]:
    """SHA-256 of files; those whose size and time are as they were when they were hashed are not read again."""
    record = None
    kept: dict[str, Any] = {}
    if records is not None:
        record = records / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"
        try:
            kept = read_json(record, _REMEDY)
        except (DamagedFile, ValueError):
            kept = {}
    found: dict[Path, str] = {}
    entries: dict[str, Any] = {}
    for path in files:
        stat, name = path.stat(), path.relative_to(folder).as_posix()
        known = kept.get(name)
        if isinstance(known, list) and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            found[path] = str(known[2])
        else:
            with path.open("rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - stat.st_mtime > _SETTLED:
            entries[name] = [stat.st_size, stat.st_mtime_ns, found[path]]
    if record is not None and entries != kept:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, entries)
    return found


# -- the hub


def _hub(name: str, column: str, records: Path | None) -> Source:
    """A data set as the hub has it; as it was last seen where the hub does not answer."""
    mark = hashlib.sha256(f"{name} {column}".encode()).hexdigest()[:16]
    record = None if records is None else records / f"hub-{mark}.json"
    try:
        builder = hub_builder(name)
    except ValueError as error:
        if record is None or not record.is_file():
            raise
        log.warning("%s It is taken to be as it was when it was last seen.", error)
        seen = read_json(
            record, _REMEDY, {"segment": list, "identity": list, "sample": list, "size": int, "dev": (str, type(None))}
        )
        segment = Segment(*seen["segment"])
        contents = (tuple(seen["identity"]), tuple(seen["sample"]), seen["size"], seen["dev"])
        return Source(name, "hub", (segment,), *contents)
    splits = stream_of(builder, name)
    if "train" not in splits:
        raise ValueError(f"The data set {name!r} has the splits {', '.join(splits)}, and none is called train.")
    stream = splits["train"]
    sample = _looked_at(name, stream_texts(stream, column, name))
    files = int(stream.num_shards)
    said = int(getattr((builder.info.splits or {}).get("train"), "num_bytes", 0) or 0)
    seen_all = sum(map(len, sample)) < SAMPLE
    source = Source(
        name,
        "hub",
        (Segment("hub", name, 0, files, said or files * PART_BYTES),),
        ("hub", name, builder.config_id, str(builder.info.version), builder.hash),
        sample,
        said or (sum(map(len, sample)) if seen_all else UNKNOWN_SIZE),
        next((split for split in ("validation", "dev", "test") if split in splits), None),
    )
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        [segment] = source.segments
        write_json(record, {**source._asdict(), "segment": segment, "segments": None})
    return source


def _looked_at(name: str, batches: Any) -> tuple[str, ...]:
    """The first texts, without blank ones."""
    sample: list[str] = []
    held = 0
    for batch in batches:
        for text in batch:
            if stripped := text.strip():
                sample.append(stripped)
                held += len(stripped)
        if held >= SAMPLE:
            break
    if not sample:
        raise ValueError(f"text={name!r} gives blank texts alone; give more lines.")
    return tuple(sample)
