"""Chunks of rows for passes over a whole table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_env.numerics.chunks import chunks, plan


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 128), min_size=1, max_size=80), st.integers(1, 2000), st.integers(0, 500))
def test_every_row_is_in_one_chunk_of_bounded_size(lengths: list[int], tokens: int, padding: int) -> None:
    of_rows = np.array(lengths)
    parts = chunks(of_rows, tokens, padding)
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    longest_first = of_rows[np.concatenate(parts)]
    assert (np.diff(longest_first) <= 0).all()
    for rows in parts:
        read = len(rows) * of_rows[rows].max()
        assert len(rows) == 1 or (read <= tokens and read - of_rows[rows].sum() <= padding)


@pytest.mark.parametrize(
    ("students", "width", "rows", "stacked"),
    [
        (1, 32, 128, True),  # tiny: all rows at once
        (2, 32, 128, False),  # two of them one after another, which saves the dearer calls of stacked students
        (16, 32, 39, True),  # many tiny ones stacked
        (16, 128, 128, False),  # calls are a fifth of what these compute
        (1, 384, 52, True),  # large: few rows
        (16, 384, 52, False),
        (1, 4096, 19, True),  # however large, not row by row
    ],
)
def test_large_students_read_few_rows_and_many_tiny_ones_are_stacked(
    students: int, width: int, rows: int, stacked: bool
) -> None:
    chosen = plan(np.full(128, 13), students, width)
    assert (len(chosen.chunks[0]), chosen.stacked) == (rows, stacked)


def test_rows_of_other_lengths_are_read_apart() -> None:
    """Together they would be 99% padding."""
    assert [part.tolist() for part in plan(np.array([1, 100, 1, 100]), 1, 384).chunks] == [[1, 3], [0, 2]]
