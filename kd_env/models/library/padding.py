"""The padding token of decoders, whose classifiers read the last token that is none: model and rows must agree."""

from __future__ import annotations

import logging
from typing import Any

from kd_env.models.library.masks import is_decoder

logger = logging.getLogger("kd_env")


def settle_padding(tokenizer: Any, model: Any, source: str) -> None:
    """Give a decoder and its tokenizer one padding token, where one of them has none, or neither has; others stay.

    Where both have none it is the end of text, as is usual: what comes after it is not read. It is written into the
    configuration and the tokenizer, so that what is saved of them has it.

    Args:
        tokenizer: that pads the rows.
        model: a classifier.
        source: folder or hub name of both, for messages.

    Raises:
        ValueError: they have different ones, or there is neither a padding token nor an end of text.
    """
    config = model.config
    if not is_decoder(config):
        return
    given, padding = getattr(config, "pad_token_id", None), tokenizer.pad_token_id
    if given is not None and padding is not None and given != padding:
        raise ValueError(
            f"The tokenizer of {source!r} pads with the id {padding} ({tokenizer.pad_token!r}), and its decoder's "
            f"classifier reads the last token that is not pad_token_id={given} of its config.json: it would read "
            "padding. Write the tokenizer's id there, or give the tokenizer the token of that one."
        )
    if given is None and padding is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"{source!r} is a decoder without a padding token, and its tokenizer has no end of text that could "
                "pad rows: set tokenizer.pad_token and pad_token_id of config.json to a token that no text has."
            )
        logger.info("The decoder %s has no padding token; its end of text pads rows.", source)
    token = next(number for number in (given, padding, tokenizer.eos_token_id) if number is not None)
    if padding is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(token)
    config.pad_token_id = token
