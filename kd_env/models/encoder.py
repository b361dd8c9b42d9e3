"""Any Hugging Face encoder as a function of its parameters: those at the start of an episode, and the forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.models.library import first_token, recomputing
from kd_env.models.library.attention import ATTENTION_KINDS, recorder
from kd_env.models.library.masks import MaskKind, mask_kind, ready_mask
from kd_env.models.library.stacked import StackedBert, stacked_program


def encoder_facts(config: Any) -> EncoderFacts:
    """Sizes of a Hugging Face configuration."""
    return EncoderFacts(
        num_layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        num_heads=int(config.num_attention_heads),
        num_labels=int(config.num_labels),
        vocab_size=int(config.vocab_size),
    )


def usable_positions(module: Any) -> int | None:
    """Tokens that a row may have in this encoder; None where positions set no limit.

    RoBERTa and its kin count positions from ``padding_idx + 1``, so that 514 positions take 512 tokens.
    """
    positions = getattr(module.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet writes -1
        return None
    for name, table in module.named_modules():
        if name.split(".")[-1] == "position_embeddings" and getattr(table, "padding_idx", None) is not None:
            return positions - int(table.padding_idx) - 1
    return positions


@dataclass(frozen=True)
class Encoder:
    """A template module whose parameters are given at every call.

    Attributes:
        module: the Hugging Face classifier; its own values are the frozen ones and the start of copied ones.
        facts: sizes.
        trainable: names of the parameters that a student trains.
        fresh: those of them that are drawn anew from the episode's seed.
        zero: those of the fresh ones that are 0 instead.
        offset: value of the last prediction layer's bias where it is fresh: what a student of scores says at first.
        upper: the module without its frozen layers, over the same tensors, which goes on from what they said of a batch
            (``Batch.states``); None where nothing of it is kept.
        recomputes: whether its blocks are computed again on the way back, which saves the memory of their activations.
    """

    module: Any
    facts: EncoderFacts
    trainable: tuple[str, ...]
    fresh: frozenset[str]
    zero: frozenset[str] = frozenset()
    offset: float = 0.0
    upper: Any = None
    recomputes: bool = False

    @cached_property
    def _tied(self) -> bool:
        """Whether tensors of the module are shared: looked for once, since each call would walk over all of them."""
        named = [
            *self.module.named_parameters(remove_duplicate=False),
            *self.module.named_buffers(remove_duplicate=False),
        ]
        return len({id(tensor) for _, tensor in named}) < len(named)

    @cached_property
    def _linear(self) -> frozenset[str]:
        """Names of the trained tensors that linear layers alone read; embeddings may be tied to one."""
        readers: dict[int, set[bool]] = {}
        for owner in self.module.modules():
            for tensor in owner.parameters(recurse=False):
                readers.setdefault(id(tensor), set()).add(isinstance(owner, nn.Linear))
        return frozenset(name for name in self.trainable if readers[id(self.module.get_parameter(name))] == {True})

    @cached_property
    def _shortened(self) -> bool:
        """Whether the module's last block can do without the other tokens; it is taught to, once."""
        return first_token.shorten(self.module, lambda: recorder.first_token)

    @cached_property
    def _recomputed(self) -> bool:
        """Whether the blocks of the module that is called know how; they are taught to, once."""
        return self.recomputes and recomputing.recompute(self.module if self.upper is None else self.upper)

    @cached_property
    def _masks(self) -> MaskKind:
        """How its attention masks are made."""
        return mask_kind(self.module.config)

    @cached_property
    def _program(self) -> StackedBert | None:
        """The forward pass of several at once, where there is one beside the module's own code."""
        return stacked_program(self.module)

    @classmethod
    def build(
        cls, module: Any, *, train_embeddings: bool, fresh: str, zero_head: bool = False, offset: float = 0.0
    ) -> Encoder:
        """Wrap a classifier.

        Drawn anew by seed is ``all`` of it, ``all_but_embeddings`` (of words), its ``head`` (the prediction layers), or
        ``none``.

        With ``zero_head`` the last of its prediction layers is 0 instead; its bias is ``offset`` either way.
        """
        embeddings = module.get_input_embeddings()
        frozen = {id(embeddings.weight)} if not train_embeddings else set()
        base = module.base_model
        inner = {id(parameter) for parameter in base.parameters()}
        named = {name: parameter for name, parameter in module.named_parameters() if id(parameter) not in frozen}
        kept = {
            "all": set(),
            "all_but_embeddings": {id(embeddings.weight)},
            "head": inner,
            "none": {id(parameter) for parameter in module.parameters()},
        }[fresh]
        drawn = {name for name, parameter in named.items() if id(parameter) not in kept}
        _check_initialisable(module, drawn)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        zero = _last_layer(module) & drawn if zero_head else frozenset()
        return cls(module, encoder_facts(module.config), tuple(named), frozenset(drawn), frozenset(zero), offset)

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Trainable parameters of one student at the start of an episode, a function of the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        std = float(getattr(self.module.config, "initializer_range", 0.02))
        owners = {
            f"{prefix}.{name}" if prefix else name: module
            for prefix, module in self.module.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }
        result = {}
        for name in self.trainable:
            value = self.module.get_parameter(name)
            if name in self.zero:
                result[name] = torch.zeros_like(value)
            elif name in self.fresh:
                owner = owners[name]
                if isinstance(owner, nn.Linear | nn.Embedding) and name.endswith("weight"):
                    fresh = torch.empty(value.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
                    if isinstance(owner, nn.Embedding) and owner.padding_idx is not None:
                        fresh[owner.padding_idx] = 0.0
                else:
                    fresh = torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape)
                result[name] = fresh.to(value)
            else:
                result[name] = value.detach().clone()
        for name in _last_layer(self.module) & self.fresh if self.offset else ():
            if name.endswith("bias"):
                result[name] = torch.full_like(result[name], self.offset)
        return result

    def in_bf16(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters with those of linear layers in bf16, as autocast would make of them at every use."""
        return {name: value.bfloat16() if name in self._linear else value for name, value in params.items()}

    def forward_stacked(
        self, params: Mapping[str, Tensor], batch: Batch, signals: Iterable[Signal], *, shared_batch: bool = False
    ) -> ModelOutput:
        """Outputs ``[N, B, ...]`` of N students, as :meth:`forward` gives them for each; all have forward derivatives.

        BERT's are computed in one program, within rounding of its own code; others run that under ``vmap``.

        Args:
            params: ``[N, ...]`` by name.
            batch: fields ``[N, B, S]``, or ``[B, S]`` with ``shared_batch``.
            signals: what to return beside the logits.
            shared_batch: whether all students read one batch.
        """
        wanted = frozenset(signals)
        if self._program is None or self.module.training:  # dropout is the module's own

            def one(student_params: Mapping[str, Tensor], student_batch: Batch) -> ModelOutput:
                return self.forward(student_params, student_batch, wanted, eager=True)

            output: ModelOutput = vmap(one, in_dims=(0, None if shared_batch else 0))(dict(params), batch)
            return output
        depth = self.facts.frozen_depth or 0
        start = depth if self.upper is not None and depth in batch.states else 0
        trained = {name: params[name] for name in self.trainable if name in params}
        return self._program(trained, batch, wanted, shared_batch=shared_batch, start=start)

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, signals: Iterable[Signal], *, eager: bool = False
    ) -> ModelOutput:
        """Outputs of one student (or, with no parameters, of the module itself) on one batch.

        Args:
            params: trainable tensors by name; the others are the module's own.
            batch: ``[B, S]`` fields.
            signals: what to return beside the logits.
            eager: plain matrix products in the attention, which ``vmap`` and forward-mode derivatives need.
        """
        wanted = frozenset(signals)
        # A 2-D mask makes the model branch on its values, which vmap refuses.
        mask = ready_mask(self._masks, batch.attention_mask, self.module.dtype)
        depth = self.facts.frozen_depth or 0
        kept = None if self.upper is None else batch.states.get(depth)  # rows of other tables have none
        module, start = (self.module, 0) if kept is None else (self.upper, depth)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids} if kept is None else {"inputs_embeds": kept}
        inputs["attention_mask"] = mask
        if self._masks.causal:
            inputs["use_cache"] = False  # of keys and values, for tokens that nobody generates
        types = int(getattr(self.module.config, "type_vocab_size", 0) or 0)
        if kept is None and types > 0:  # RoBERTa has one segment only
            inputs["token_type_ids"] = batch.token_type_ids if types > 1 else torch.zeros_like(batch.input_ids)
        layers = {signal.layer for signal in wanted if signal.kind in ("hidden_states", "cls")}
        states = bool(layers) if kept is None else any(layer > depth for layer in layers)
        # Dropout draws for every token, and would draw other numbers for one.
        whole = self.module.training or Signal("hidden_states", self.facts.num_layers) in wanted
        recorder.wanted, recorder.eager, recorder.layer, recorder.tensors = wanted, eager, start, {}
        recorder.first_token = not whole and self._shortened
        recorder.recompute = torch.is_grad_enabled() and not eager and self._recomputed
        try:
            trained = {name: params[name] for name in self.trainable if name in params}
            inputs["output_hidden_states"] = states
            tie = self._tied
            out = functional_call(module, trained, (), inputs, tie_weights=tie) if trained else module(**inputs)
            recorded = recorder.tensors
        finally:
            # Also eager: a module that is called on its own afterwards (training of a teacher) would keep its rounding.
            recorder.wanted, recorder.tensors = frozenset(), {}
            recorder.eager = recorder.first_token = recorder.recompute = False
        hidden = dict(enumerate(out.hidden_states, start)) if states else {}
        if kept is not None:
            hidden[depth] = kept
        return ModelOutput(
            logits=out.logits,
            cls={s.layer: self._summary(hidden[s.layer], batch) for s in wanted if s.kind == "cls"},
            hidden_states={s.layer: hidden[s.layer] for s in wanted if s.kind == "hidden_states"},
            **{kind: {s.layer: recorded[s] for s in wanted if s.kind == kind} for kind in ATTENTION_KINDS},
        )

    def _summary(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The token that has read all others, of ``[B, S, H]``: the first one, and of a decoder the last real one."""
        if not self._masks.causal:
            return hidden[:, 0]
        last = (batch.attention_mask.sum(-1) - 1).clamp(min=0)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]


def _last_layer(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of a classifier's last linear layer: a head that is 0 in all its layers never learns."""
    name, layer = [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)][-1]
    return frozenset(f"{name}.{parameter}" for parameter, _ in layer.named_parameters())


def _check_initialisable(module: nn.Module, names: set[str]) -> None:
    for prefix, owner in module.named_modules():
        own_names = [f"{prefix}.{n}" if prefix else n for n, _ in owner.named_parameters(recurse=False)]
        known = isinstance(owner, nn.Linear | nn.Embedding | nn.LayerNorm) or "Norm" in type(owner).__name__
        if not known and names.intersection(own_names):
            raise ValueError(
                f"{type(owner).__name__} parameters ({own_names[0]}) cannot be drawn by seed; use a student cut from a "
                "teacher or a pre-trained one."
            )
