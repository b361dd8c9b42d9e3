"""Labels as files say them: names of classes are texts as they are written; scores alone are numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from kd_env.data.forms import visible
from kd_env.data.tasks import Task

_POINT_ZERO = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")


def label_name(value: Any) -> str | None:
    """Name of a class given as a value of a file or of an option; None where it is missing or no single value.

    Texts are their own names, without spaces around them. Numbers and booleans are spelled as texts are in files, so
    that a type makes no difference: 1, 1.0, "1" and "1.0" are ``1``, and True is ``true``.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        value = str(value) if isinstance(value, int) or math.isfinite(value) else ""
    if not isinstance(value, str):
        return None
    name = value.strip()
    whole = _POINT_ZERO.fullmatch(name)
    return whole[1] if whole else name if label_key(name) else None


@lru_cache(1024)  # many rows have few names
def label_key(name: str) -> str:
    """What is compared of a name: not how its characters are stored; ``TRUE`` is the ``true`` of options and JSON."""
    key = unicodedata.normalize("NFC", visible(name)).strip()
    return key.lower() if key.lower() in ("true", "false") else key


def score(value: Any) -> float | None:
    """``value`` as a finite number, or None; texts that spell a number count, booleans do not."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def class_names(source: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Different names among labels, in order: 2 before 10, and other names by alphabet.

    Raises:
        ValueError: a label that is missing, or no single value.
    """
    names: dict[str, str] = {}
    for row, value in enumerate(values):
        name = label_name(value)
        if name is None:
            raise ValueError(_unreadable(source, value, row))
        names.setdefault(label_key(name), name)
    found = list(names.values())
    if all(score(name) is not None for name in found):
        return tuple(sorted(found, key=lambda name: (float(name), name)))
    return tuple(sorted(found))


def classes(task: Task, source: str, values: Sequence[Any]) -> np.ndarray:
    """Labels as places among ``task.labels``, ``[rows]`` int64.

    A name stands for its class. Where no class has a number or a boolean as its name, a whole number is a place.

    Raises:
        ValueError: a label that is missing or none of the task's.
    """
    places = {label_key(name): place for place, name in enumerate(task.labels)}
    # Labels 1, 2, 3 are names and not places; of true and false in this order, 1 would be the place of false.
    if not any(key in ("true", "false") or score(key) is not None for key in places):
        places |= {str(place): place for place in range(len(task.labels))}
    labels = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        name = label_name(value)
        place = None if name is None else places.get(label_key(name))
        if place is None:
            raise ValueError(_bad_class(task, source, value, row))
        labels[row] = place
    return labels


def scores(task: Task, source: str, values: Sequence[Any]) -> np.ndarray:
    """Labels as numbers, ``[rows]`` float32.

    Raises:
        ValueError: a label that is no finite number, or outside the range of the task.
    """
    assert task.label_range is not None
    low, high = task.label_range
    numbers = np.empty(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        number = score(value)
        if number is None:
            raise ValueError(f"{source}: the label in row {row} is {value!r}; every row needs a finite score.")
        if not low <= number <= high:
            hidden = " (-1 stands for a hidden test label)" if number == -1 else ""
            raise ValueError(
                f"{source}: label {number} in row {row} lies outside [{low}, {high}], the range of task "
                f"{task.name!r}{hidden}."
            )
        numbers[row] = number
    return numbers


def _bad_class(task: Task, source: str, value: Any, row: int) -> str:
    name = label_name(value)
    if name is None:
        return _unreadable(source, value, row)
    if name == "-1":
        return (
            f"{source}: the label in row {row} is -1, which stands for a hidden test label; train and dev splits need "
            "real labels."
        )
    names = ", ".join(f"{place} ({name})" for place, name in enumerate(task.labels))
    return f"{source}: label {value!r} in row {row} is not one of task {task.name!r}: {names}."


def _unreadable(source: str, value: Any, row: int) -> str:
    if value is None or isinstance(value, int | float | Decimal | str):
        return f"{source}: the label in row {row} is missing ({value!r}); every row needs one."
    return f"{source}: the label in row {row} is {value!r}; a label is one text, number or boolean."
