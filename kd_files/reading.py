"""Texts and JSON: as they were written, or a refusal in one line that names file, fault and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST = 64 * 2**20
"""Bytes of a text that is read; what we write is far below."""

Kinds = type | tuple[type, ...]


class DamagedFile(ValueError):
    """A file that is not what it should be; the message names it, the fault and the remedy."""


def damaged(path: Path, fault: object, remedy: str) -> DamagedFile:
    """The error for a damaged file, in one line."""
    return DamagedFile(f"{path} is damaged ({' '.join(str(fault).split())}); {remedy}.")


def read_text(path: Path, remedy: str, *, largest: int = LARGEST) -> str:
    """A UTF-8 text.

    Args:
        path: of the file.
        remedy: what to do where it cannot be read, for the message.
        largest: bytes that it may have.

    Raises:
        DamagedFile: no file, a folder, another encoding, or more bytes than that.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {remedy}.") from None
    except (IsADirectoryError, NotADirectoryError):
        raise ValueError(f"{path} must be a file, and a folder is in its place or on its way; {remedy}.") from None
    if len(data) > largest:
        raise damaged(path, f"it has more than {largest} bytes", remedy)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start} is no UTF-8", remedy) from error


def read_json(path: Path, remedy: str, schema: Mapping[str, Kinds] | None = None) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: of the file.
        remedy: what to do where it cannot be read, for the message.
        schema: keys that it must have, with the types of their values (a bool is no int).

    Raises:
        DamagedFile: as :func:`read_text`; no JSON object, or one of another form.
    """
    values = parse_json(path, read_text(path, remedy), remedy)
    if not isinstance(values, dict):
        raise damaged(path, "it holds no JSON object", remedy)
    check_keys(path, values, schema or {}, remedy)
    return values


def parse_json(path: Path, text: str, remedy: str) -> Any:
    """A JSON value in a text that was read from ``path``; raises :class:`DamagedFile`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a plain ValueError
        raise damaged(path, f"no JSON: {error}", remedy) from error


def check_keys(path: Path, values: Mapping[str, Any], schema: Mapping[str, Kinds], remedy: str) -> None:
    """Refuse values that lack a key of ``schema``, or have another type there."""
    for key, kinds in schema.items():
        if key not in values:
            raise damaged(path, f"{key!r} is missing", remedy)
        value = values[key]
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(kind.__name__ for kind in wanted)
            raise damaged(path, f"{key!r} is {_short(value)}, no {names}", remedy)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
