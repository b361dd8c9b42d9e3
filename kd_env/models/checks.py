"""One pass at construction: an encoder that our forward pass would run wrongly is refused."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core.types import Batch, Signal
from kd_env.data.tables import Table
from kd_env.models import encoder as models
from kd_env.models.encoder import ATTENTION, Encoder, usable_positions

_SUITED = "BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, MPNet and their kin are suited"
_TOLERANCE = 1e-3


def probe_batch(table: Table, max_length: int, encoders: Iterable[Encoder]) -> Batch:
    """The longest row, and the shortest one, which is padded.

    The longest is repeated up to ``max_length`` tokens as far as the positions allow (less two, which
    :func:`check_encoder` adds), since a sliding window shows on rows that are longer than it only, and such rows may be
    in the dev split alone.
    """
    ends = np.array([int(np.argmax(table.lengths)), int(np.argmin(table.lengths))])
    batch = table.gather(ends)
    limits = [usable_positions(encoder.module) for encoder in encoders]
    length = min([max_length, *(limit - 2 for limit in limits if limit is not None)])
    longest = batch.input_ids.shape[1]
    if length <= longest:
        return batch

    def stretch(field: Tensor) -> Tensor:
        return torch.stack(
            [field[0, torch.arange(length, device=field.device) % longest], F.pad(field[1], (0, length - longest))]
        )

    return batch._replace(
        input_ids=stretch(batch.input_ids),
        attention_mask=stretch(batch.attention_mask),
        token_type_ids=stretch(batch.token_type_ids),
    )


def check_encoder(encoder: Encoder, batch: Batch, signals: Iterable[Signal], what: str) -> None:
    """Our forward pass gives the encoder's own logits and every signal, and padding does not reach the logits.

    Args:
        encoder: teacher or student.
        batch: from :func:`probe_batch`.
        signals: what the terms and features read.
        what: name of the encoder in messages.

    Raises:
        ValueError: the architecture does not do so.
    """
    name = f"The {what} ({type(encoder.module).__name__})"
    with torch.no_grad():
        reference = _own_logits(encoder, batch)
        try:
            logits = encoder.forward({}, batch, ()).logits
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an unknown architecture makes of our mask; the cause is kept
            raise ValueError(f"{name} cannot be run: {type(error).__name__}: {error}. {_SUITED}.") from error
        if _differ(logits, reference):
            raise ValueError(
                f"{name} gives other logits in kd-env's forward pass than on its own, because it builds its attention "
                f"mask itself (causal, sliding window) or changes the attention scores; {_SUITED}."
            )
        try:
            encoder.forward({}, batch, signals)
        except KeyError as error:
            raise ValueError(
                f"{name} does not give the signal {error}; choose terms without attention for it."
            ) from error
        padded = batch._replace(
            input_ids=F.pad(batch.input_ids, (0, 2), value=int(encoder.module.config.pad_token_id or 0)),
            attention_mask=F.pad(batch.attention_mask, (0, 2), value=False),
            token_type_ids=F.pad(batch.token_type_ids, (0, 2)),
        )
        limit = usable_positions(encoder.module)
        if limit is None or padded.input_ids.shape[1] <= limit:
            padded_logits = encoder.forward({}, padded, ()).logits
            if _differ(padded_logits, reference):
                raise ValueError(f"{name} lets padding change its logits; use an encoder that masks it.")


def _own_logits(encoder: Encoder, batch: Batch) -> Tensor:
    """Logits of the unmodified module: its own attention, and a 2-D mask from which it makes its own."""
    module = encoder.module
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    if int(getattr(module.config, "type_vocab_size", 0) or 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    module.config._attn_implementation = "eager"
    try:
        logits: Tensor = module(**inputs).logits
    finally:
        module.config._attn_implementation = ATTENTION
    return logits


def _differ(logits: Tensor, reference: Tensor) -> bool:
    """Whether logits differ by more than rounding, relative to the largest; NaN differs."""
    limit = _TOLERANCE * float(reference.abs().max()) + 1e-6
    return not float((logits - reference).abs().max()) <= limit


def check_positions(encoder: models.Encoder, longest: int, what: str) -> None:
    """Refuse rows longer than the encoder's positions."""
    positions = models.usable_positions(encoder.module)
    if positions is not None and longest > positions:
        raise ValueError(f"A row has {longest} tokens, the {what} {positions} positions; set max_length={positions}.")
