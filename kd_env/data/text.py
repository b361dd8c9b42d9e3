"""Text for masked language modelling: its cut into splits, and its tokens.

The train texts are cut into train, feedback and selection by the rules for single sentences of
:mod:`kd_env.data.splits`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_env.data.corpora import Texts
from kd_env.data.forms import normalize
from kd_env.data.masking import ordinary_tokens
from kd_env.data.splits import TokenIndex, cut
from kd_env.data.tables import Table, tokenize
from kd_env.data.tasks import Rows

log = logging.getLogger(__name__)


class TextSplits(NamedTuple):
    """Texts without repeats (in the form that :func:`kd_env.data.forms.normalize` gives), disjoint in content."""

    train: list[str]
    feedback: list[str]  # in random order: any prefix is a random sample
    selection: list[str]  # in random order
    dev: list[str]
    dropped: int  # train texts that are repeats or share content with feedback or selection
    fingerprint: str  # 16 hex digits; equal where texts, seed and the sizes of feedback and selection are


class TokenFacts(NamedTuple):
    """What masking has to know of a tokenizer."""

    special_ids: np.ndarray  # [*] int64, never masked; the unknown token among them
    mask_id: int
    candidates: np.ndarray  # [*] int64, the ordinary tokens of the vocabulary


class TokenizedTexts(NamedTuple):
    """Texts as tokens, without those that have too few ordinary ones."""

    table: Table
    kept: np.ndarray  # [R] int64, places of the table's rows in the list that was given
    dropped: int


def cut_texts(
    texts: Texts,
    split_seed: int,
    feedback_rows: int | None = None,
    selection_rows: int | None = None,
    max_train_rows: int | None = None,
) -> TextSplits:
    """Cut train texts into train, feedback and selection, none of which holds a text that stands in another one's.

    Repeats (after :func:`kd_env.data.forms.normalize`) are dropped first; then the rules of
    :func:`kd_env.data.splits.cut` for single sentences hold. Dev texts that stand whole in a text of the other splits
    are dropped; the other way round a short train text (SST-2 holds phrases) may stand in a dev text, since train must
    not depend on dev.

    Args:
        texts: from :func:`kd_env.data.corpora.load_texts`.
        split_seed: of the cut.
        feedback_rows: size of feedback; None: min(512, 10% of the different texts).
        selection_rows: size of selection; None: as ``feedback_rows``.
        max_train_rows: upper limit of train texts, a random subset taken after the cut.

    Raises:
        ValueError: too few texts for these sizes.
    """
    unique = list({normalize(text): text for text in reversed(texts.train)}.values())[::-1]
    if len(unique) < 3:
        raise ValueError(f"There are {len(unique)} different texts; train, feedback and selection need at least 3.")
    splits = cut(
        Rows(unique, None, np.zeros(len(unique), dtype=np.int64)),
        seed=split_seed,
        feedback_rows=feedback_rows,
        selection_rows=selection_rows,
        max_train_rows=max_train_rows,
    )
    train, feedback, selection = (
        [unique[row] for row in rows.tolist()] for rows in (splits.train, splits.feedback, splits.selection)
    )
    return TextSplits(
        train=train,
        feedback=feedback,
        selection=selection,
        dev=_outside({normalize(text): text for text in texts.dev}, (train, feedback, selection)),
        dropped=splits.dropped + len(texts.train) - len(unique),
        fingerprint=splits.fingerprint,
    )


def token_facts(tokenizer: Any, source: str) -> TokenFacts:
    """What masking has to know of ``tokenizer``, which comes from ``source``.

    Raises:
        ValueError: it has no mask token, no padding token, or no ordinary token.
    """
    for kind in ("mask", "pad"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise ValueError(
                f"The tokenizer of {source!r} has no {kind} token, which masked language modelling needs; give an "
                "encoder such as BERT, whose tokenizer has one."
            )
    special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
    candidates = np.setdiff1d(np.arange(len(tokenizer), dtype=np.int64), special)
    if len(candidates) == 0:
        raise ValueError(f"The tokenizer of {source!r} has special tokens alone; give one with a vocabulary.")
    return TokenFacts(special, int(tokenizer.mask_token_id), candidates)


def tokenize_texts(
    texts: Sequence[str], tokenizer: Any, facts: TokenFacts, max_length: int, *, at_least: int = 1
) -> TokenizedTexts:
    """Texts as tokens on the host, where they are masked; those with too few ordinary tokens are dropped, and counted.

    Args:
        texts: at least one.
        tokenizer: a Hugging Face tokenizer.
        facts: from :func:`token_facts`.
        max_length: tokens a text is cut to, specials included.
        at_least: ordinary tokens that a text needs.

    Raises:
        ValueError: no text is left.
    """
    host = torch.device("cpu")

    def table(chosen: Sequence[str]) -> Table:
        rows = Rows(list(chosen), None, np.zeros(len(chosen), dtype=np.int64))
        return tokenize(rows, tokenizer, max_length, host, torch.float32)

    tokenized = table(texts)
    ids = tokenized.input_ids.numpy()
    ordinary = ordinary_tokens(ids, np.arange(ids.shape[1]) < tokenized.lengths[:, None], facts.special_ids)
    kept_rows = np.flatnonzero(ordinary.sum(axis=1) >= at_least)
    dropped = len(texts) - len(kept_rows)
    if len(kept_rows) == 0:
        raise ValueError(
            f"None of {len(texts)} texts has {at_least} ordinary tokens within max_length={max_length}; give longer "
            "texts, a tokenizer that knows their words, or a larger max_length."
        )
    if dropped:
        log.warning("%d of %d texts have fewer than %d ordinary tokens and are dropped.", dropped, len(texts), at_least)
        tokenized = table([texts[row] for row in kept_rows.tolist()])
    return TokenizedTexts(tokenized, kept_rows.astype(np.int64), dropped)


def _outside(dev: dict[str, str], splits: Sequence[Sequence[str]]) -> list[str]:
    """Dev texts, by their normal forms, that stand in no text of the other splits."""
    if not dev:
        return []
    forms = [normalize(text) for split in splits for text in split]
    index = TokenIndex(forms, range(len(forms)))
    return [text for form, text in dev.items() if next(index.containing(form), None) is None]
