"""N students of BERT in one program: weights ``[N, ...]`` in batched products.

``torch.func.vmap`` runs an encoder's own code N-fold and turns each product of tiny matrices into one of an awkward
layout, with copies between them. Here tensors keep one layout, ``[N, B S, H]``, and where nobody reads the last block's
other tokens, its queries and all that follows are those of the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_env.core.trees import map_leaves
from kd_env.core.types import Batch, ModelOutput, Signal

CLASSES = ("BertForSequenceClassification", "BertForTokenClassification")
_PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}


def stacked_program(module: Any) -> StackedBert | None:
    """The program of a classifier; None where there is none, so that only its own code says what it computes."""
    if type(module).__name__ not in CLASSES or not isinstance(module.classifier, nn.Linear):
        return None
    config = module.config
    usual = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    if not usual or config.chunk_size_feed_forward or config.is_decoder or config.add_cross_attention:
        return None
    return StackedBert(module)


class StackedBert:
    """Forward passes of N copies of a BERT classifier that share what is not given for each of them.

    Args:
        module: the classifier; what ``params`` do not name is read from it.
    """

    def __init__(self, module: Any) -> None:
        config = module.config
        self.depth, self.heads = int(config.num_hidden_layers), int(config.num_attention_heads)
        self.types, self.eps = int(config.type_vocab_size), float(config.layer_norm_eps)
        self.pooled = getattr(module.base_model, "pooler", None) is not None
        self.activation = module.base_model.encoder.layer[0].intermediate.intermediate_act_fn
        self.width = int(config.hidden_size) // self.heads
        self._own = dict(module.named_parameters())

    def __call__(
        self, params: Mapping[str, Tensor], batch: Batch, signals: frozenset[Signal], *, shared_batch: bool, start: int
    ) -> ModelOutput:
        """Outputs ``[N, B, ...]``, those of :meth:`kd_env.models.encoder.Encoder.forward` of every student.

        Args:
            params: trained tensors by name, ``[N, ...]``.
            batch: fields ``[N, B, S]``, or ``[B, S]`` that all students read.
            signals: what to return beside the logits.
            shared_batch: whether the batch is one for all.
            start: the layer whose output stands in the batch (``states``); 0 where tokens are read.
        """
        count = next(iter(params.values())).shape[0]
        return _Pass(self, {**self._own, **params}, batch, signals, count, shared_batch).run(start)


class _Pass:
    """One forward pass."""

    def __init__(
        self,
        program: StackedBert,
        tensors: dict[str, Tensor],
        batch: Batch,
        signals: frozenset[Signal],
        count: int,
        shared_batch: bool,
    ) -> None:
        self.program, self.tensors, self.signals = program, tensors, signals
        self.count = count
        # One batch for all stays one [1, B, S] until something of a student's own meets it.
        self.batch = map_leaves(lambda leaf: leaf[None], batch) if shared_batch else batch
        _, self.rows, self.tokens = self.batch.input_ids.shape
        self.recorded: dict[str, dict[int, Tensor]] = {"attention_scores": {}, **{kind: {} for kind in _PROJECTIONS}}

    def run(self, start: int) -> ModelOutput:
        """The outputs."""
        depth, rows = self.program.depth, self.rows
        hidden = self._embedded() if start == 0 else self.batch.states[start]
        hidden = hidden.expand(self.count, *hidden.shape[1:]).flatten(1, 2)
        layers = {start: hidden.unflatten(1, (rows, -1))}
        first_alone = self.program.pooled and Signal("hidden_states", depth) not in self.signals
        mask = torch.zeros(self.batch.attention_mask.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~self.batch.attention_mask, -1e9).expand(self.count, -1, -1).flatten(0, 1)
        for layer in range(start + 1, depth + 1):
            hidden = self._block(layer, hidden, mask, first_alone and layer == depth)
            layers[layer] = hidden.unflatten(1, (rows, -1))
        last = layers[depth]
        if self.program.pooled:
            last = torch.tanh(self._linear("bert.pooler.dense", last[:, :, 0]))
            logits = self._linear("classifier", last)
        else:
            logits = self._linear("classifier", last.flatten(1, 2)).unflatten(1, (rows, -1))
        return ModelOutput(
            logits=logits,
            cls={s.layer: layers[s.layer][:, :, 0] for s in self.signals if s.kind == "cls"},
            hidden_states={s.layer: layers[s.layer] for s in self.signals if s.kind == "hidden_states"},
            **self.recorded,
        )

    def _embedded(self) -> Tensor:
        ids = self.batch.input_ids
        kinds = self.batch.token_type_ids if self.program.types > 1 else torch.zeros_like(ids)
        words = self._looked_up("bert.embeddings.word_embeddings", ids)
        segments = self._looked_up("bert.embeddings.token_type_embeddings", kinds)
        positions = self.tensors["bert.embeddings.position_embeddings.weight"][..., : self.tokens, :]
        positions = positions[:, None] if positions.dim() == 3 else positions
        normal = self._norm("bert.embeddings.LayerNorm", (words + segments + positions).flatten(1, 2))
        return normal.view(-1, self.rows, self.tokens, normal.shape[-1])

    def _looked_up(self, name: str, ids: Tensor) -> Tensor:
        """Rows ``[N, B, S, E]`` of each student's own table, or of one for all (``[1, B, S, E]`` of one batch)."""
        table = self.tensors[f"{name}.weight"]
        if table.dim() == 2:
            return F.embedding(ids, table)
        begin = torch.arange(self.count, device=ids.device)[:, None, None] * table.shape[1]
        return F.embedding(ids + begin, table.flatten(0, 1))

    def _block(self, layer: int, hidden: Tensor, mask: Tensor, first_alone: bool) -> Tensor:
        """The output ``[N, B S, H]`` of a block, or ``[N, B, H]`` of its first tokens."""
        prefix = f"bert.encoder.layer.{layer - 1}"
        first = hidden.unflatten(1, (self.rows, -1))[:, :, 0] if first_alone else hidden
        recorded = any(s.layer == layer and s.kind in self.recorded for s in self.signals)
        if first_alone and not recorded:
            context = self._first_attention(f"{prefix}.attention.self", first, hidden, mask)
        else:
            context = self._attention(layer, f"{prefix}.attention.self", hidden, mask)
            context = context.unflatten(1, (self.rows, -1))[:, :, 0] if first_alone else context
        attended = self._linear(f"{prefix}.attention.output.dense", context) + first
        attended = self._norm(f"{prefix}.attention.output.LayerNorm", attended)
        inner = self.program.activation(self._linear(f"{prefix}.intermediate.dense", attended))
        return self._norm(f"{prefix}.output.LayerNorm", self._linear(f"{prefix}.output.dense", inner) + attended)

    def _attention(self, layer: int, name: str, hidden: Tensor, mask: Tensor) -> Tensor:
        """``[N, B S, H] -> [N, B S, H]``, of all tokens; what is wanted of it is recorded."""
        heads = {kind: self._heads(f"{name}.{part}", hidden) for kind, part in _PROJECTIONS.items()}
        queries, keys, values = heads["queries"], heads["keys"], heads["values"]
        scores = torch.matmul(queries, keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5
        for kind, tensor in ({**heads, "attention_scores": scores}).items():
            if Signal(kind, layer) in self.signals:  # type: ignore[arg-type]
                self.recorded[kind][layer] = tensor.unflatten(0, (self.count, -1))
        weights = torch.softmax(scores + mask[:, None, None], -1)
        context = torch.matmul(weights, values).transpose(1, 2)
        return context.reshape(hidden.shape)

    def _heads(self, name: str, hidden: Tensor) -> Tensor:
        """``[N, B S, H] -> [N B, A, S, D]``."""
        projected = self._linear(name, hidden)
        return projected.view(-1, self.tokens, self.program.heads, self.program.width).transpose(1, 2)

    def _first_attention(self, name: str, first: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """``[N, B, H], [N, B S, H] -> [N, B, H]``, of first tokens.

        A query's products with its keys are sums of elementwise ones: as matrices they would be N B A tiny ones.
        """
        heads, width, many = self.program.heads, self.program.width, self.count * self.rows
        queries = self._linear(f"{name}.query", first).reshape(many, 1, heads, width) * width**-0.5
        keys = self._linear(f"{name}.key", hidden).view(many, self.tokens, heads, width)
        values = self._linear(f"{name}.value", hidden).view(many, self.tokens, heads, width)
        weights = torch.softmax((queries * keys).sum(-1) + mask[..., None], 1)
        context = (weights[..., None] * values).sum(1)
        return context.view(first.shape)

    def _linear(self, name: str, hidden: Tensor) -> Tensor:
        """``[N, R, I] -> [N, R, O]``."""
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        if weight.dim() == 2:
            return F.linear(hidden, weight) + _by_row(bias)
        return torch.baddbmm(_by_row(bias), hidden, weight.transpose(1, 2))

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        normal = F.layer_norm(hidden, hidden.shape[-1:], None, None, self.program.eps)
        return torch.addcmul(_by_row(bias), normal, _by_row(weight))


def _by_row(vector: Tensor) -> Tensor:
    """``[N, H] -> [N, 1, H]``; one for all stays ``[H]``."""
    return vector[:, None] if vector.dim() == 2 else vector
