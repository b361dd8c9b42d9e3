"""Rows of unlike lengths cut into chunks for passes over a whole table on a CPU: how many at once is fastest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CALL = 2**15
"""What a call of a student costs beside its arithmetic, in tokens times width, whatever its layers are."""
ACTIVATIONS, FEWEST_TOKENS = 2**18, 256
"""Tokens of a chunk times width that a CPU's cache takes well (the widest activations of a block, four times the width,
then have 4 MiB), and the tokens below which matrix products are too small, whatever the width."""
MANY_STUDENTS, STACKED_TOKENS = 8, 512
"""Students up to which a stacked call costs more than those that it saves, and tokens that more of them read at once:
many tiny products in place of large ones."""


class Plan(NamedTuple):
    """How a table is read."""

    chunks: list[np.ndarray]  # row numbers
    stacked: bool  # whether students read a chunk together, or one after another


def plan(lengths: np.ndarray, students: int, width: int) -> Plan:
    """The fastest way for some students to read all rows of a table on a CPU.

    Large students read few rows at once, which wastes little on padding and stays in the cache; tiny ones read many,
    since a call costs more than they compute. Students read one after another, but for many tiny ones, whose calls
    would cost more than half of what they compute.

    Args:
        lengths: tokens of each row ``[R]``.
        students: N.
        width: their hidden size.
    """
    call = CALL // width
    one_by_one = chunks(lengths, max(FEWEST_TOKENS, ACTIVATIONS // width), call)
    if students > MANY_STUDENTS and 2 * call * len(one_by_one) > lengths.sum():
        return Plan(chunks(lengths, STACKED_TOKENS, call // MANY_STUDENTS), True)
    return Plan(one_by_one, students == 1)


def chunks(lengths: np.ndarray, tokens: int, padding: int) -> list[np.ndarray]:
    """Row numbers in chunks of similar length, longest first.

    Args:
        lengths: of each row ``[R]``, R > 0.
        tokens: of a chunk at most, with its padding; a single row may be longer.
        padding: tokens of a chunk at most that are padding: about what another call would cost.
    """
    order = np.argsort(-lengths, kind="stable")
    result, start, wasted = [], 0, 0
    for place, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[start]])
        wasted += longest - length
        if place > start and ((place - start + 1) * longest > tokens or wasted > padding):
            result.append(order[start:place])
            start, wasted = place, 0
    return [*result, order[start:]]
