"""One pass at construction: a model that our forward pass runs wrongly, or that cannot read its rows, is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core import trees
from kd_env.core.types import Batch, Signal
from kd_env.data.tables import Table
from kd_env.models import encoder as models
from kd_env.models.encoder import Encoder, encoder_facts, usable_positions
from kd_env.models.library.attention import ATTENTION, register_attention
from kd_env.models.library.copies import library_copy
from kd_env.models.library.reading import first_line
from kd_env.models.masked_lm import MaskedLM

_SUITED = (
    "BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, MPNet, DeBERTa, ModernBERT, GPT-2, Llama and their kin are suited"
)
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
    """Our forward pass gives what the library's own gives, and every signal, and padding does not reach the logits.

    Args:
        encoder: teacher or student.
        batch: from :func:`probe_batch`.
        signals: what the terms and features read.
        what: name of the encoder in messages.

    Raises:
        ValueError: the architecture does not do so.
    """
    name = f"The {what} ({type(encoder.module).__name__})"
    _check_segments(encoder, batch, name)
    with torch.no_grad():
        reference = _library_logits(encoder.module, batch, name)
        try:
            logits = encoder.forward({}, batch, ()).logits
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an unknown architecture makes of our mask; the cause is kept
            raise ValueError(
                f"{name} cannot be run on an attention mask that is made for it, as kd-env's forward pass does "
                f"({type(error).__name__}: {first_line(error)}); {_SUITED}."
            ) from error
        if _differ(logits, reference):
            raise ValueError(_other_logits(name))
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


def check_family(model: Any, batch: Batch, what: str) -> None:
    """Refuse a classifier that could not be a teacher, before it is trained to be one.

    Args:
        model: of the library, with the attention that the library chose.
        batch: from :func:`probe_batch`.
        what: name of the encoder in messages.

    Raises:
        ValueError: as :func:`check_encoder`.
    """
    register_attention()
    ours = Encoder(library_copy(model, ATTENTION), encoder_facts(model.config), (), frozenset())
    check_encoder(ours, trees.to_device(batch, model.device), (), what)


def check_masked_lm(source: str, tokenizer: Any, model: MaskedLM, table: Table, max_length: int) -> None:
    """Refuse a masked language model that cannot read its texts, or whose logits are not the library's own.

    Args:
        source: folder or hub name of the model.
        tokenizer: of the texts.
        model: the model.
        table: the texts as tokens, on any device.
        max_length: tokens a text is cut to.

    Raises:
        ValueError: tokens without embeddings, texts longer than its positions, or other logits at a real token.
    """
    check_vocabulary(tokenizer, model.module, source)
    longest, positions = int(table.lengths.max()), usable_positions(model.module)
    if positions is not None and longest > positions:
        raise ValueError(f"A text has {longest} tokens, {source!r} only {positions} positions; set max_length to them.")
    name = f"The masked language model {source!r} ({type(model.module).__name__})"
    probe = probe_batch(table, max_length, (Encoder(model.module, model.facts, (), frozenset()),))
    batch = trees.to_device(probe, model.module.device)
    training = model.module.training
    model.module.eval()
    with torch.no_grad():
        reference = _library_logits(model.module, batch, name)
        logits = model.logits(model.encode(batch).hidden)
    model.module.train(training)
    if _differ(logits[batch.attention_mask], reference[batch.attention_mask]):
        raise ValueError(_other_logits(name))


def check_vocabulary(tokenizer: Any, model: Any, source: str) -> None:
    """Refuse a tokenizer that gives tokens for which a model has no embeddings, in whatever row they come.

    Raises:
        ValueError: with the largest id and the number of embeddings.
    """
    embeddings = int(model.get_input_embeddings().weight.shape[0])
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= embeddings:
        raise ValueError(
            f"The tokenizer of {source!r} gives the id {largest} (for {token!r}), its model has {embeddings} "
            f"embeddings (0 to {embeddings - 1}); give a folder whose tokenizer and model belong together (tokens are "
            "added to both: model.resize_token_embeddings)."
        )


def _library_logits(module: Any, batch: Batch, name: str) -> Tensor:
    """Logits of the library's own forward pass: its own attention, and a 2-D mask from which it makes its own."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    if int(getattr(module.config, "type_vocab_size", 0) or 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    try:
        logits: Tensor = library_copy(module, None)(**inputs).logits
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an unknown architecture needs beside rows of tokens; the cause is kept
        if getattr(module.config, "pad_token_id", None) is None:
            raise ValueError(
                f"{name} has no padding id, so that rows of different length cannot be read together: write "
                f"pad_token_id, its tokenizer's, into its config.json ({type(error).__name__}: {first_line(error)})."
            ) from error
        raise ValueError(f"{name} cannot be run: {type(error).__name__}: {error}. {_SUITED}.") from error
    if not torch.isfinite(logits).all():
        raise ValueError(f"{name} gives logits that are not finite on the train rows; its weights are out of bounds.")
    return logits


def _other_logits(name: str) -> str:
    return (
        f"{name} gives other logits in kd-env's forward pass than on its own, because it builds its attention mask "
        f"itself (causal, sliding window) or changes the attention scores (positions); {_SUITED}."
    )


def _check_segments(encoder: Encoder, batch: Batch, name: str) -> None:
    segments = int(getattr(encoder.module.config, "type_vocab_size", 0) or 0)
    largest = int(batch.token_type_ids.max())
    if 1 < segments <= largest:
        raise ValueError(
            f"{name} has {segments} segments (0 to {segments - 1}), and its tokenizer gives the segment {largest}; "
            "give a folder whose tokenizer and model belong together."
        )


def _differ(logits: Tensor, reference: Tensor) -> bool:
    """Whether logits differ by more than rounding, relative to the largest; NaN differs."""
    limit = _TOLERANCE * float(reference.abs().max()) + 1e-6
    return not float((logits - reference).abs().max()) <= limit


def check_positions(encoder: models.Encoder, longest: int, what: str) -> None:
    """Refuse rows longer than the encoder's positions."""
    positions = models.usable_positions(encoder.module)
    if positions is not None and longest > positions:
        raise ValueError(f"A row has {longest} tokens, the {what} {positions} positions; set max_length={positions}.")
