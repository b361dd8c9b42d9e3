"""The values that flow through a distillation run.

Shape letters, used in every docstring: N replicas, B examples of a batch, S tokens, C classes (1 for regression),
H hidden size, A attention heads, D head size, T teachers, K knowledge terms, U student updates in one step.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SignalKind = Literal["logits", "cls", "hidden_states", "attention_scores", "queries", "keys", "values"]


class Signal(NamedTuple):
    """One output of an encoder that a knowledge term reads.

    Layer 0 is the embedding output and layer ``l`` the output of the ``l``-th block. Attention scores, queries, keys
    and values exist for the layers 1 to L only. ``logits`` has layer -1.
    """

    kind: SignalKind
    layer: int = -1


class Batch(NamedTuple):
    """Tokenised examples with their labels; rows are padded on the right."""

    input_ids: Tensor  # [B, S] int64
    attention_mask: Tensor  # [B, S] bool, True at real tokens
    token_type_ids: Tensor  # [B, S] int64
    labels: Tensor  # [B] int64 class index, or float32 score for regression
    states: dict[int, Tensor] = {}  # noqa: RUF012 - layer -> [B, S, H], outputs of the student's frozen layers that were kept


class ModelOutput(NamedTuple):
    """What one encoder says about one batch; dictionaries are keyed by layer and hold only what was asked for."""

    logits: Tensor  # [B, C]
    cls: dict[int, Tensor]  # layer -> [B, H]
    hidden_states: dict[int, Tensor]  # layer -> [B, S, H]
    attention_scores: dict[int, Tensor]  # layer -> [B, A, S, S], q k^T / sqrt(D) before mask and softmax
    queries: dict[int, Tensor]  # layer -> [B, A, S, D]
    keys: dict[int, Tensor]  # layer -> [B, A, S, D]
    values: dict[int, Tensor]  # layer -> [B, A, S, D]


class EncoderFacts(NamedTuple):
    """Sizes of an encoder, known before any forward pass."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_labels: int  # C; 1 for regression
    vocab_size: int
    frozen_depth: int | None = None  # the deepest layer whose output no trained parameter changes; None: there is none


class FeatureSlice(NamedTuple):
    """Where one named feature stands in the flat observation."""

    start: int
    stop: int
    shape: tuple[int, ...]
    low: float
    high: float

    @property
    def slice(self) -> slice:
        """Slice of the last axis of an observation."""
        return slice(self.start, self.stop)


Floats = NDArray[np.float64]
