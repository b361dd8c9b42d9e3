"""Batches and their order."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd_env
from kd_env.data.tables import UNKNOWN_WORDS, Table, draw, make_buckets, share_unknown, start_stream, tokenize
from kd_env.data.tasks import Rows
from kd_env.models.pretrained import load_tokenizer
from kd_env.testing import tiny_tokenizer

TOY_PAIR = str(Path(kd_env.__file__).parent / "assets" / "toy_pair")


def test_every_batch_is_full_and_of_one_bucket() -> None:
    """Leftovers of a bucket carry over to the next epoch; none is lost or repeated early."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, size=1003)
    buckets = make_buckets(lengths, 16, tokens_per_bucket=8, batches_per_bucket=8)
    assert len(buckets.rows) > 3
    bucket_of = np.empty(1003, np.int64)
    for number, rows in enumerate(buckets.rows):
        bucket_of[rows] = number
    stream = start_stream(buckets, seed=5)
    seen = np.zeros(1003, np.int64)
    for _ in range(400):
        rows, stream = draw(buckets, stream, 1)
        assert rows.shape == (1, 16) and len(set(bucket_of[rows[0]])) == 1
        assert len(set(rows[0])) == 16
        seen[rows[0]] += 1
        if stream.cursor == len(stream.order):
            left = np.concatenate(stream.carry)
            expected = np.full(1003, stream.epoch + 1)
            expected[left] -= 1
            np.testing.assert_array_equal(seen, expected)
    assert stream.epoch >= 5


def test_streams_are_values() -> None:
    """Drawing from an old stream again gives the same batches; another seed gives others."""
    buckets = make_buckets(np.full(100, 7), 8)
    stream = start_stream(buckets, 1)
    first, later = draw(buckets, stream, 30)
    again, _ = draw(buckets, stream, 30)
    np.testing.assert_array_equal(first, again)
    assert later.epoch > stream.epoch
    assert not np.array_equal(first, draw(buckets, start_stream(buckets, 2), 30)[0])
    with pytest.raises(ValueError, match="read-only"):
        later.order[0, 0] = 3


def test_a_table_smaller_than_a_batch_is_refused() -> None:
    """Both numbers and the remedy are named."""
    with pytest.raises(ValueError, match=r"7 rows, fewer than batch_size=8; lower batch_size"):
        make_buckets(np.full(7, 5), 8)


def test_buckets_only_where_padding_is_worth_it() -> None:
    """One for lengths that hardly differ; several for a wide table; none is smaller than a batch."""
    rng = np.random.default_rng(0)
    assert len(make_buckets(rng.integers(10, 20, size=4000), 16).rows) == 1
    wide = make_buckets(rng.integers(5, 128, size=4000), 16)
    assert len(wide.rows) == 7
    assert all(len(rows) >= 16 * 16 for rows in wide.rows)
    assert len(make_buckets(rng.integers(5, 128, size=20), 16).rows) == 1


def test_gather_pads_to_the_longest_row_of_the_batch(tiny_problem: Any) -> None:
    """Width, mask and content against the table."""
    table = tiny_problem.train
    rows = np.array([[0, 3], [5, 1]])
    batch = table.gather(rows)
    width = table.lengths[rows].max()
    assert batch.input_ids.shape == (2, 2, width)
    np.testing.assert_array_equal(batch.attention_mask.sum(-1).numpy(), table.lengths[rows])
    assert (batch.input_ids[~batch.attention_mask] == 0).all() and (batch.input_ids[batch.attention_mask] > 0).all()
    np.testing.assert_array_equal(batch.labels.numpy(), table.labels[rows])


def read(*texts: str) -> Table:
    rows = Rows(list(texts), None, np.zeros(len(texts), dtype=np.int64))
    return tokenize(rows, tiny_tokenizer(), 16, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("pairs", [False, True])
def test_rows_are_tokenised_in_parts_as_in_a_whole(pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of all lengths, in parts of which the last is smaller; padded as the tokenizer pads them all."""
    rng = np.random.default_rng(0)
    first, second = ([" ".join(rng.choice(list("abcde"), n)) for n in rng.integers(1, 9, 20)] for _ in range(2))
    rows, tokenizer = Rows(first, second if pairs else None, np.arange(20) % 2), load_tokenizer(TOY_PAIR)
    host = torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters are unknown words
        whole = tokenize(rows, tokenizer, 12, host, torch.float32)
        monkeypatch.setattr("kd_env.data.tables.ROWS_AT_ONCE", 7)
        parts = tokenize(rows, tokenizer, 12, host, torch.float32)
    padded = tokenizer(first, second if pairs else None, truncation=True, max_length=12, padding=True)
    for table in (whole, parts):
        assert table.input_ids.tolist() == padded["input_ids"]
        assert table.token_type_ids.tolist() == padded["token_type_ids"]
        assert table.lengths.tolist() == np.sum(padded["attention_mask"], axis=1).tolist()


def test_a_tokenizer_that_does_not_know_the_language_is_told() -> None:
    """Padding and the special tokens of a row count for neither side."""
    with pytest.warns(UserWarning, match=r"reads about 70% of the words of these rows as \[UNK\]"):
        table = read("w0", "\u0434\u043e\u0431\u0440\u044b\u0439 \u0434\u0435\u043d\u044c")
    assert share_unknown(table, tiny_tokenizer()) == pytest.approx(2 / 3)
    assert share_unknown(read("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 other"), tiny_tokenizer()) < UNKNOWN_WORDS
