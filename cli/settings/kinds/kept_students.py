"""Which students an evaluation keeps, as ``save_students`` says it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class KeptStudents(NamedTuple):
    """``save_students``, read."""

    number: int
    best: bool
    """Whether they are those with the best values on the selection split rather than the first ones."""


def kept_students(value: Any, seeds: int, can_rank: bool) -> KeptStudents:
    """What ``save_students=3`` or ``save_students=best:3`` says.

    Args:
        value: as it was given.
        seeds: students that are judged.
        can_rank: whether there are values on the selection split to rank students by.

    Raises:
        ValueError: anything else, more students than are judged, or a ranking of students that have none.
    """
    ranked = re.fullmatch(r"best:(\d+)", value) if isinstance(value, str) else None
    count = int(ranked[1]) if ranked else value
    if isinstance(count, bool) or not isinstance(count, int) or count < (1 if ranked else 0):
        raise ValueError(
            f"save_students={value!r} must be a whole number of at least 0 (the first students), or best:<number> "
            "(those that are best on the selection split), as best:3."
        )
    if count > seeds:
        raise ValueError(
            f"save_students={value} is more than evaluation.seeds={seeds}: only judged students are kept. Lower it, or "
            "raise evaluation.seeds."
        )
    if ranked and not can_rank:
        raise ValueError(
            f"save_students={value} ranks classifiers that a policy teaches; students of masked text and those beside "
            f"a tutor are kept by their number alone: save_students={count}."
        )
    return KeptStudents(count, ranked is not None)
