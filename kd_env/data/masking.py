"""Which tokens of a batch are masked, and by what: pure NumPy, whole batches at once, every draw from a generator.

The masking of masked language modelling (Devlin et al. 2019, section 3.1): 15% of the ordinary tokens are chosen; of
those 80% become the mask token, 10% a random one, and 10% stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kd_env.core import checks

MASK_RATE = 0.15
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


def ordinary_tokens(
    input_ids: np.ndarray, attention_mask: np.ndarray, special_ids: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Where an ordinary token stands, ``[B, S]`` bool: neither padding nor a special token; only those are masked.

    Args:
        input_ids: ``[B, S]`` integers.
        attention_mask: ``[B, S]``, true (or 1) at real tokens.
        special_ids: every special token of the tokenizer, the unknown one too.
    """
    return np.asarray(attention_mask).astype(bool) & ~np.isin(input_ids, np.asarray(special_ids, dtype=np.int64))


def default_slots(mean_length: float, rate: float = MASK_RATE) -> int:
    """Slots per row where the user names none: a share of the mean number of ordinary tokens, at least 1."""
    if not checks.is_number(mean_length) or not 0 < mean_length < math.inf:
        checks.refuse("mean_length", mean_length, "above 0 and finite")
    return max(1, round(rate * mean_length))


def enough_slots(longest: int, rate: float = MASK_RATE) -> int:
    """The least number of slots that a row of ``longest`` ordinary tokens exceeds at most once in 10^9 draws.

    Args:
        longest: at least 1.
        rate: probability of each ordinary token, strictly between 0 and 1.
    """
    checks.whole(1)("longest", longest)
    checks.mask_rate("rate", rate)
    tail, chosen = 0.0, longest
    while chosen > 1:
        tail += math.comb(longest, chosen) * rate**chosen * (1.0 - rate) ** (longest - chosen)
        if tail > 1e-9:
            break
        chosen -= 1
    return chosen


def draw_slots(ordinary: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` ordinary positions of every row, ``[B, count]`` int64, ascending; drawn without replacement.

    Args:
        ordinary: ``[B, S]`` bool.
        count: p, at least 1.
        rng: source of the draw.

    Raises:
        ValueError: a row with fewer ordinary tokens.
    """
    checks.whole(1)("count", count)
    counts = ordinary.sum(axis=1)
    if (counts < count).any():
        rows = np.flatnonzero(counts < count)
        raise ValueError(
            f"{len(rows)} of {len(ordinary)} rows have fewer than {count} ordinary tokens (row {rows[0]} has "
            f"{counts[rows[0]]}); leave such rows out, or mask fewer tokens a row."
        )
    keys = np.where(ordinary, rng.random(ordinary.shape), np.inf)
    return np.sort(np.argpartition(keys, count - 1, axis=1)[:, :count], axis=1).astype(np.int64)


def bernoulli_slots(
    ordinary: np.ndarray, rate: float, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Every ordinary token is chosen independently; what a row has beyond ``count`` is dropped at random.

    Args:
        ordinary: ``[B, S]`` bool.
        rate: probability of each ordinary token, strictly between 0 and 1.
        count: p, slots that a row has room for, at least 1.
        rng: source of the draws.

    Returns:
        Positions ``[B, p]`` int64, ascending, 0 in slots that are empty; which slots are filled, ``[B, p]`` bool, the
        filled ones first; and how many chosen tokens were dropped.

    Raises:
        ValueError: a rate or count outside its range.
    """
    checks.mask_rate("rate", rate)
    checks.whole(1)("count", count)
    rows, length = ordinary.shape
    chosen = ordinary & (rng.random(ordinary.shape) < rate)
    keys = np.where(chosen, rng.random(ordinary.shape), np.inf)
    if length < count:  # a partition needs as many columns as slots
        keys = np.concatenate([keys, np.full((rows, count - length), np.inf)], axis=1)
    picked = np.argpartition(keys, count - 1, axis=1)[:, :count]
    filled = np.isfinite(np.take_along_axis(keys, picked, axis=1))
    ordered = np.sort(np.where(filled, picked, length), axis=1)
    valid = ordered < length
    return np.where(valid, ordered, 0).astype(np.int64), valid, int(chosen.sum() - valid.sum())


def corrupt(
    input_ids: np.ndarray,
    positions: np.ndarray,
    valid: np.ndarray,
    mask_id: int,
    candidates: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """A copy of ``input_ids`` in which 80% of the slots are masked, 10% hold a random token, and 10% are as they were.

    Args:
        input_ids: ``[B, S]`` integers.
        positions: ``[B, p]`` places of the slots, none twice in a row.
        valid: ``[B, p]`` bool; other slots are left alone.
        mask_id: the mask token.
        candidates: ``[*]`` ordinary tokens of the vocabulary, from which a random one is drawn uniformly (the token
            itself among them).
        rng: source of the draws.

    Raises:
        ValueError: no candidates, or a filled slot outside the row.
    """
    if len(candidates) == 0:
        raise ValueError("candidates is empty; the vocabulary needs at least one ordinary token.")
    rows, slots = np.nonzero(valid)
    places = positions[rows, slots]
    if len(places) and not 0 <= places.min() <= places.max() < input_ids.shape[1]:  # a negative one would count back
        raise ValueError(
            f"positions must lie in [0, {input_ids.shape[1]}), but there are {places.min()} to {places.max()}."
        )
    fate = rng.random(valid.shape)[rows, slots]
    random = candidates[rng.integers(len(candidates), size=valid.shape)[rows, slots]]
    unmasked = np.where(fate < MASKED_SHARE + RANDOM_SHARE, random, input_ids[rows, places])
    corrupted = input_ids.copy()
    corrupted[rows, places] = np.where(fate < MASKED_SHARE, mask_id, unmasked)
    return corrupted
