"""Masked text: where tokens are masked, and what a masked language model says there.

P slots of a row, k candidates of a slot, E the width that the model's decoder multiplies with word vectors; other shape
letters as in :mod:`kd_env.core.types`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env.config.environment import EnvConfig
from kd_env.core import trees
from kd_env.core.types import Batch, ModelOutput, Signal
from kd_env.data import masking
from kd_env.data.text import TokenFacts
from kd_env.mdp import parts
from kd_env.mdp.objectives.batches import Edit, at_slots, edited, original_tokens
from kd_env.mdp.problem import Problem
from kd_env.models.masked_lm import MaskedLM
from kd_env.teachers.sources import autocast, cast


class Slots(NamedTuple):
    """The masked positions of one batch, on the host."""

    positions: np.ndarray  # [B, P] int64
    valid: np.ndarray  # [B, P] bool
    masked: np.ndarray  # [B, P] int64, what is written there
    dropped: int  # masked positions beyond P


class SlotView(NamedTuple):
    """What a language model says at the slots of N batches, on the device."""

    hidden: Tensor  # [N, B, P, H] last hidden states
    features: Tensor  # [N, B, P, E] what its decoder reads
    log_partition: Tensor  # [N, B, P] log of the sum over the vocabulary of the exponentiated logits
    candidates: Tensor  # [N, B, P, k] int64, its most likely tokens, the most likely first
    log_candidates: Tensor  # [N, B, P, k] their log-probabilities


def draw_slots(
    config: EnvConfig,
    tokens: TokenFacts,
    input_ids: np.ndarray,
    ordinary: np.ndarray,
    slots: int,
    rng: np.random.Generator,
) -> Slots:
    """Masked positions of rows ``[B, S]``, and what stands there: the mask (80%), a random token or the original."""
    if config.masking == "fixed":
        positions = masking.draw_slots(ordinary, slots, rng)
        valid, dropped = np.ones(positions.shape, bool), 0
    else:
        positions, valid, dropped = masking.bernoulli_slots(ordinary, config.mask_rate, slots, rng)
    ids = masking.corrupt(input_ids, positions, valid, tokens.mask_id, tokens.candidates, rng)
    masked = np.take_along_axis(ids, positions, axis=-1).astype(np.int64)
    return Slots(positions, valid, masked, dropped)


def train_slots(problem: Problem, rows: np.ndarray, rng: np.random.Generator) -> Slots:
    """Masked positions of train rows ``[B]``."""
    reader = problem.reader
    return draw_slots(problem.config, reader.tokens, reader.ids[rows], reader.ordinary[rows], reader.slots, rng)


def run_language_model(
    problem: Problem, model: MaskedLM, batch: Batch, signals: frozenset[Signal]
) -> tuple[Tensor, ModelOutput]:
    """Last hidden states ``[N, B, S, H]`` and the signals, one pass for all replicas."""
    count, rows = batch.input_ids.shape[:2]
    flat: Batch = trees.map_leaves(lambda t: t.flatten(0, 1), batch)
    with autocast(problem.device, problem.precision):
        hidden, output = model.encode(flat, signals)

    def split(values: Tensor) -> Tensor:
        # There are no logits of whole rows; vmap wants the replicas' axis there, too.
        return values.unflatten(0, (count, rows)) if values.numel() else values.new_empty(count, 0)

    return split(hidden.to(problem.dtype)), trees.map_leaves(split, cast(output, problem.dtype))


def read(problem: Problem, batch: Batch, places: Tensor) -> SlotView:
    """One pass of the reader over ``batch [N, B, S]``: what it says at the slots."""

    def read_part(piece: slice) -> SlotView:
        text, slots = parts.part((batch, places), piece)
        hidden, _ = run_language_model(problem, problem.reader.model, text, frozenset())
        return slot_view(problem, at_slots(hidden, slots))

    with torch.no_grad():
        return parts.by_rows(problem, places.shape[1], read_part)


def slot_view(problem: Problem, hidden: Tensor) -> SlotView:
    """The reader's prediction from its last hidden states at the slots."""
    model = problem.reader.model
    features = model.features(hidden)
    logits = model.decode(features)
    partition = logits.logsumexp(-1)
    best = logits.topk(problem.config.num_candidates, dim=-1)
    return SlotView(hidden, features, partition, best.indices, best.values - partition[..., None])


def log_probability(model: MaskedLM, features: Tensor, log_partition: Tensor, tokens: Tensor) -> Tensor:
    """``log p(token)`` at the slots, ``[N, B, P]``, from what the decoder reads there."""
    return model.token_logits(features, tokens) - log_partition


def written(
    problem: Problem, batch: Batch, places: Tensor, valid: Tensor, masked: Tensor, view: SlotView, tokens: Tensor
) -> Edit:
    """What stands in the slots where ``tokens [N, B, P]`` are chosen.

    Args:
        problem: the problem.
        batch: ``[N, B, S]``, the text as it is.
        places: ``[N, B, P]``.
        valid: ``[N, B, P]``.
        masked: ``[N, B, P]``, what stood there in the masked text.
        view: what the reader said about that.
        tokens: the choice.
    """
    model, original = problem.reader.model, original_tokens(batch, places)
    chosen = torch.where(valid, tokens, original)
    with torch.no_grad():
        log_chosen, log_original = (
            log_probability(model, view.features, view.log_partition, each) for each in (chosen, original)
        )
    return Edit(places, valid, original, chosen, masked, log_original, log_chosen)


def with_edit(batch: Batch, edit: Edit) -> Batch:
    """The text as it was edited."""
    return edited(batch, edit.places, edit.valid, edit.chosen)
