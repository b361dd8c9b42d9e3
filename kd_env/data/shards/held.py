"""Rows that are held out of a packed corpus."""

from __future__ import annotations

import numpy as np

from kd_env.data.shards.corpus import HELD_ROWS, Corpus
from kd_env.data.shards.packing import Packer

_SHUFFLED = 11  # the random stream in which rows that are held out are ordered


def held_rows(corpus: Corpus, split: str, rows: int | None) -> np.ndarray:
    """Rows ``[R, S]`` of feedback or selection, in random order: any prefix is a random sample.

    Args:
        corpus: of the texts.
        split: ``feedback`` or ``selection``.
        rows: how many; None: 512, or as many as there are.

    Raises:
        ValueError: the texts that are held out fill fewer.
    """
    packing = corpus.plan.packing
    found = Packer(packing).rows(corpus.held(split))
    if len(found) < (rows or 1):
        share = getattr(packing.shares, split)
        raise ValueError(
            f"{split}_rows={rows or 1} rows of max_length={packing.max_length} tokens are more than the {len(found)} "
            f"that {share:.2%} of the different texts fill; ask for fewer rows, lower max_length, or give more text."
        )
    return shuffled_rows(found, packing.shares.seed)[: rows or HELD_ROWS]


def shuffled_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    """Rows in random order."""
    return np.asarray(np.random.default_rng([seed, _SHUFFLED]).permutation(rows))
