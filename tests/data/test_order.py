"""The order of rows that are too many to list."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kd_env.data.shards.order import OrderStream, RowOrder, check_rows, places_of, rows_at
from kd_env.data.tables import draw, start_stream


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 100, 1000, 12_345])
def test_an_epoch_is_a_permutation_and_back(rows: int) -> None:
    order = rows_at(np.arange(rows), rows, 3, 1)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(rows))
    assert np.array_equal(places_of(order, rows, 3, 1), np.arange(rows))
    assert np.array_equal(rows_at(np.arange(rows).reshape(1, -1, 1), rows, 3, 1).ravel(), order)


def test_epochs_and_seeds_have_orders_of_their_own_that_look_drawn() -> None:
    rows = 100_000
    orders = [rows_at(np.arange(rows), rows, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert abs(np.corrcoef(np.arange(rows), order)[0, 1]) < 0.01
        assert np.abs(np.diff(order)).mean() / rows == pytest.approx(1 / 3, abs=0.01)
        halves = (order.reshape(-1, 32) < rows // 2).sum(1)
        assert halves.std() == pytest.approx(np.sqrt(8), rel=0.1), "batches are mixed as those of a shuffle"
        assert not any(np.array_equal(order, other) for other in orders if other is not order)


def test_batches_hold_every_row_once_an_epoch_and_visits_are_counted() -> None:
    order = RowOrder(103, 10)
    stream = start_stream(order, 7)
    assert stream == OrderStream(7, 0)
    seen: Counter[int] = Counter()
    left_out = set()
    for epoch in range(4):
        drawn = []
        for _ in range(5):
            batches, stream = draw(order, stream, 2)
            assert batches.shape == (2, 10) and isinstance(stream, OrderStream)
            assert order.visits(stream, 2, batches[0]).tolist() == [seen[row] for row in batches[0].tolist()]
            drawn += batches.ravel().tolist()
            seen.update(batches.ravel().tolist())
        assert len(set(drawn)) == 100, epoch
        left_out |= set(range(103)) - set(drawn)
    assert len(left_out) > 3, "other rows are left out in every epoch"
    again, _ = draw(order, OrderStream(7, 13), 3)
    rows, at = draw(order, OrderStream(7, 13), 1)
    rest, _ = draw(order, at, 2)
    assert np.array_equal(again, np.concatenate([rows, rest]))


def test_too_few_rows_are_refused() -> None:
    check_rows(4, 4)
    with pytest.raises(ValueError, match="has 3 rows, fewer than batch_size=4; lower batch_size"):
        check_rows(3, 4)
