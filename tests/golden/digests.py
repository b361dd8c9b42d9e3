"""Digests of what a case does: exact hashes for one machine, and rounded numbers for another of the same kind.

A trace holds, by key, arrays with a label each (a step, or the name of a tensor). Its digest has one entry a key, a
hash of everything and what can be said of every array: for whole numbers, truth values and texts, which must be equal
always, two hexadecimal digits, so that an error names the step; for floats rounded numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

FLOOR = 1e-3
"""Size of numbers below which a difference counts as if they were that large: many are differences of larger ones."""
LISTED = 3
"""Arrays up to this size are recorded number by number."""

Trace = dict[str, list[tuple[str, np.ndarray]]]
Digest = dict[str, list[Any]]


class Part(NamedTuple):
    """One array of a trace as it is recorded."""

    label: str
    array: np.ndarray
    code: str
    numbers: list[float]
    """Empty where bits have to be equal."""
    scale: float
    """Mean size of the elements, to which differences are relative."""


def record(trace: Trace, key: str, label: object, value: Any) -> None:
    """Add a value to a trace; mappings and arrays of objects as several keys, with entries that are None left out."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            record(trace, f"{key}/{name}", label, part)
        return
    array = np.array(value)
    if array.dtype == object:
        for index, part in enumerate(value):
            if part is not None:
                record(trace, f"{key}/{index}", label, part)
        return
    trace.setdefault(key, []).append((str(label), array))


def numbers_of(array: np.ndarray) -> tuple[list[float], float]:
    """What is recorded of a float array beside its hash, and the mean size of its elements.

    Few elements stand for themselves, more for their mean with fixed weights around 1, which sees their order. If there
    are any that are not finite, these count as 0 and their number is added.
    """
    flat = array.astype(np.float64).ravel()
    finite = np.isfinite(flat)
    flat = np.where(finite, flat, 0.0)
    numbers = flat.tolist()
    if flat.size > LISTED:
        numbers = [float((flat * (1.0 + 0.5 * np.cos(2.399963 * np.arange(flat.size)))).mean())]
    broken = [] if finite.all() else [float((~finite).sum())]
    return numbers + broken, float(np.abs(flat).mean()) if flat.size else 0.0


def parts_of(entries: list[tuple[str, np.ndarray]]) -> tuple[str, list[Part]]:
    """Hash of everything under a key, and its arrays one by one."""
    whole, parts = hashlib.sha256(), []
    for label, array in entries:
        data = f"{label} {array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
        whole.update(data)
        numbers, scale = numbers_of(array) if array.dtype.kind == "f" else ([], 0.0)
        parts.append(Part(label, array, hashlib.sha256(data).hexdigest()[:2], numbers, scale))
    return whole.hexdigest()[:16], parts


def is_exact(parts: list[Part]) -> bool:
    """Whether all arrays under a key have to be equal bit by bit: none is of floats."""
    return all(part.array.dtype.kind != "f" for part in parts)


def digest(trace: Trace) -> Digest:
    """What is written of a trace."""
    found: Digest = {}
    for key, entries in trace.items():
        total, parts = parts_of(entries)
        if is_exact(parts):
            found[key] = [total, "".join(part.code for part in parts)]
        else:
            found[key] = [total, [[float(f"{number:.7g}") for number in part.numbers] for part in parts]]
    return found


def differences(trace: Trace, expected: Digest, *, tolerance: float, exact: bool) -> list[str]:
    """Where a trace is not what was recorded, one line for every array; empty if it is.

    Args:
        trace: what a case did.
        expected: its recorded digest.
        tolerance: relative difference of floats that is allowed where their bits differ.
        exact: whether bits may not differ.
    """
    lines = [f"{key}: missing" for key in expected if key not in trace]
    for key, entries in trace.items():
        if key not in expected:
            lines.append(f"{key}: new, not recorded")
            continue
        (before, values), (total, parts) = expected[key], parts_of(entries)
        if total == before:
            continue
        coded = isinstance(values, str)
        if coded:
            values = [values[place : place + 2] for place in range(0, len(values), 2)]
        if len(values) != len(parts) or coded != is_exact(parts):
            lines.append(f"{key}: recorded {len(values)} times as {values[:3]}, got {len(parts)}: {parts[:3]}")
            continue
        found = [
            f"{key} at {part.label}: expected {value}, got {part.code if coded else part.numbers}, "
            f"{part.array.dtype} {part.array.shape} {part.array.ravel()[:6].tolist()}"
            for part, value in zip(parts, values, strict=True)
            if (part.code != value if coded else not agree(part, value, tolerance))
        ]
        if not found and (exact or coded):
            found = [f"{key}: bits, types, shapes or labels differ, all within rounding: {parts[:3]}"]
        lines += found
    return lines


def agree(part: Part, expected: list[float], tolerance: float) -> bool:
    """Whether the numbers of an array are those recorded, but for rounding."""
    return len(part.numbers) == len(expected) and all(
        abs(got - want) <= tolerance * max(part.scale, abs(want), FLOOR)
        for got, want in zip(part.numbers, expected, strict=True)
    )
