"""Tokenised rows whose tokens are masked: which places may be, how many slots a row has."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_env.data import masking
from kd_env.data.tables import Table
from kd_env.data.text import TokenFacts, token_facts
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.models.pretrained import load_tokenizer


def ordinary_places(table: Table, tokens: TokenFacts) -> np.ndarray:
    """Places that may be masked, ``[R, S]`` bool: neither special tokens nor padding."""
    ids = table.input_ids.cpu().numpy()
    return masking.ordinary_tokens(ids, np.arange(ids.shape[1]) < table.lengths[:, None], tokens.special_ids)


def slots_of(config: TutorConfig, ordinary: np.ndarray) -> tuple[int, int]:
    """Slots of a row, and the ordinary tokens that a row needs; from the places of all rows ``[R, S]``."""
    if config.slots == "all":
        return masking.enough_slots(int(ordinary.sum(1).max()), config.mask_rate), 1
    own = None if config.slots is None else int(config.slots)
    slots = own or masking.default_slots(float(ordinary.sum(1).mean()), config.mask_rate)
    return slots, slots if config.masking == "fixed" else 1


def tokens_of(name: str) -> tuple[Any, TokenFacts]:
    """The tokenizer of a masked language model, and what masking has to know of it.

    Raises:
        ValueError: it lacks a mask or padding token.
    """
    tokenizer = load_tokenizer(name)
    return tokenizer, token_facts(tokenizer, name)


def check_first(name: str, table: Table, tokens: TokenFacts) -> None:
    """Refuse rows that begin without a special token: slots that are not used point there."""
    if not np.isin(table.input_ids[:, 0].cpu().numpy(), tokens.special_ids).all():
        raise ValueError(
            f"The tokenizer of {name!r} begins rows without a special token, and slots that are not used point there; "
            "use an encoder such as BERT, whose rows begin with [CLS]."
        )
