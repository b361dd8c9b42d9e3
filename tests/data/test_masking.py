"""Slots and corruption against slow obvious versions, their shares, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_env.data.masking import bernoulli_slots, corrupt, default_slots, draw_slots, ordinary_tokens

SPECIAL = (0, 1, 2, 3, 4)
MASK = 4
CANDIDATES = np.arange(5, 50)


def rows(seed: int, count: int = 64, length: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Ids ``[B, S]`` with specials at both ends and in the middle of some rows, and the mask of real tokens."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 50, size=(count, length))
    lengths = rng.integers(8, length + 1, size=count)
    ids[:, 0] = 2
    ids[np.arange(count), lengths - 1] = 3
    ids[rng.random(ids.shape) < 0.05] = 1
    mask = np.arange(length) < lengths[:, None]
    ids[~mask] = rng.integers(0, 50, size=(~mask).sum())  # what stands in padding must not matter
    return ids, mask


def test_ordinary_tokens_are_real_and_not_special() -> None:
    ids, mask = rows(0)
    for kind in (bool, np.int64):
        found = ordinary_tokens(ids, mask.astype(kind), SPECIAL)
        slow = [
            [bool(m) and int(i) not in SPECIAL for i, m in zip(*row, strict=True)]
            for row in zip(ids, mask, strict=True)
        ]
        assert found.dtype == bool and found.tolist() == slow
    assert not ordinary_tokens(np.full((2, 4), 3), np.ones((2, 4)), SPECIAL).any()


@pytest.mark.parametrize(("length", "slots"), [(1, 1), (3.2, 1), (10, 2), (20, 3), (26.4, 4), (128, 19)])
def test_default_slots(length: float, slots: int) -> None:
    assert default_slots(length) == slots


@pytest.mark.parametrize("length", [0, -1.0, float("nan"), float("inf"), "3", True])
def test_default_slots_need_a_length(length: float) -> None:
    with pytest.raises(ValueError, match="mean_length"):
        default_slots(length)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_drawn_slots_are_distinct_ordinary_and_ascending(seed: int, count: int) -> None:
    ids, mask = rows(seed, count=16)
    ordinary = ordinary_tokens(ids, mask, SPECIAL)
    ordinary = ordinary[ordinary.sum(1) >= count]
    slots = draw_slots(ordinary, count, np.random.default_rng(seed))
    assert slots.shape == (len(ordinary), count) and slots.dtype == np.int64
    for row, places in zip(ordinary, slots.tolist(), strict=True):
        assert sorted(set(places)) == places and all(row[place] for place in places)


def test_every_set_of_slots_is_equally_likely() -> None:
    ordinary = np.tile(np.array([False, True, True, False, True, True]), (6000, 1))
    slots = draw_slots(ordinary, 2, np.random.default_rng(0))
    sets, counts = np.unique(slots, axis=0, return_counts=True)
    assert sets.tolist() == [[1, 2], [1, 4], [1, 5], [2, 4], [2, 5], [4, 5]]
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()
    everything = draw_slots(ordinary[:3], 4, np.random.default_rng(1))
    assert everything.tolist() == [[1, 2, 4, 5]] * 3
    again = draw_slots(ordinary, 2, np.random.default_rng(0))
    assert np.array_equal(slots, again)


def test_rows_with_too_few_tokens_are_refused() -> None:
    ordinary = np.array([[True, True, True], [False, True, False]])
    with pytest.raises(ValueError, match=r"1 of 2 rows have fewer than 2 ordinary tokens \(row 1 has 1\)"):
        draw_slots(ordinary, 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="fewer than 4 ordinary"):
        draw_slots(ordinary, 4, np.random.default_rng(0))  # more than there are columns
    with pytest.raises(ValueError, match="count=0"):
        draw_slots(ordinary, 0, np.random.default_rng(0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0.01, 0.99))
def test_bernoulli_slots_against_their_own_draw(seed: int, count: int, rate: float) -> None:
    ids, mask = rows(seed, count=16)
    ordinary = ordinary_tokens(ids, mask, SPECIAL)
    positions, valid, dropped = bernoulli_slots(ordinary, rate, count, np.random.default_rng(seed))
    assert positions.shape == valid.shape == (16, count) and positions.dtype == np.int64
    drawn = ordinary & (np.random.default_rng(seed).random(ordinary.shape) < rate)  # the first draw decides
    lost = 0
    for row, places, filled in zip(drawn, positions.tolist(), valid.tolist(), strict=True):
        chosen = np.flatnonzero(row).tolist()
        kept = [place for place, there in zip(places, filled, strict=True) if there]
        assert filled == sorted(filled, reverse=True) and not any(places[len(kept) :])
        assert kept == sorted(set(kept)) and set(kept) <= set(chosen) and len(kept) == min(count, len(chosen))
        lost += len(chosen) - len(kept)
    assert dropped == lost


def test_bernoulli_slots_have_the_rate_and_drop_any_token_alike() -> None:
    ordinary = np.ones((4000, 10), dtype=bool)
    ordinary[:, 0] = False
    positions, valid, dropped = bernoulli_slots(ordinary, 0.15, 10, np.random.default_rng(0))
    share = valid.sum() / ordinary.sum()
    assert dropped == 0 and abs(share - 0.15) < 5 * np.sqrt(0.15 * 0.85 / ordinary.sum())
    positions, valid, dropped = bernoulli_slots(ordinary, 0.9, 2, np.random.default_rng(0))
    counts = np.bincount(positions[valid], minlength=10)
    expected = valid.sum() / 9
    assert counts[0] == 0 and (np.abs(counts[1:] - expected) < 5 * np.sqrt(expected)).all()
    assert dropped == pytest.approx(0.9 * ordinary.sum() - valid.sum(), rel=0.01)


@pytest.mark.parametrize("rate", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), True, "0.15", None])
def test_a_rate_that_masks_nothing_or_everything_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate=.*strictly between 0 and 1"):
        bernoulli_slots(np.ones((2, 3), dtype=bool), rate, 2, np.random.default_rng(0))


def test_corruption_changes_filled_slots_alone_80_10_10() -> None:
    ids, mask = rows(1, count=3000)
    ordinary = ordinary_tokens(ids, mask, SPECIAL)
    positions, valid, _ = bernoulli_slots(ordinary, 0.3, 20, np.random.default_rng(1))
    before = ids.copy()
    after = corrupt(ids, positions, valid, MASK, CANDIDATES, np.random.default_rng(2))
    assert np.array_equal(ids, before) and after.dtype == ids.dtype and after.shape == ids.shape
    slot = np.zeros(ids.shape, dtype=bool)
    for row in range(len(ids)):
        slot[row, positions[row][valid[row]]] = True
    assert np.array_equal(after[~slot], ids[~slot]), "special tokens, padding and other tokens stay"
    old, new = ids[slot], after[slot]
    total = slot.sum()
    masked = (new == MASK).mean()
    kept = (new == old).mean()
    other = new[(new != MASK) & (new != old)]
    assert abs(masked - 0.8) < 5 * np.sqrt(0.16 / total)
    repeated = 0.1 / len(CANDIDATES)  # a random token may be the one that stood there
    assert abs(kept - (0.1 + repeated)) < 5 * np.sqrt(0.09 / total)
    assert np.isin(other, CANDIDATES).all() and len(set(other.tolist())) == len(CANDIDATES)
    counts = np.bincount(other, minlength=50)[5:]
    assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()
    again = corrupt(ids, positions, valid, MASK, CANDIDATES, np.random.default_rng(2))
    assert np.array_equal(after, again)


def test_corruption_refuses_what_it_cannot_do() -> None:
    ids, ones = np.full((2, 3), 7), np.ones((2, 1), dtype=bool)
    rng = np.random.default_rng(0)
    for place in (-1, 3):
        with pytest.raises(ValueError, match=r"must lie in \[0, 3\)"):
            corrupt(ids, np.full((2, 1), place), ones, MASK, CANDIDATES, rng)
        same = corrupt(ids, np.full((2, 1), place), ~ones, MASK, CANDIDATES, rng)
        assert np.array_equal(same, ids), "empty slots are not looked at"
    with pytest.raises(ValueError, match="candidates is empty"):
        corrupt(ids, np.zeros((2, 1), dtype=np.int64), ones, MASK, CANDIDATES[:0], rng)
