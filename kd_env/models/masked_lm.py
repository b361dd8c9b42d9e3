"""Masked language models: an encoder with a head over the vocabulary, which is asked for single vectors only.

The library's own forward pass makes logits of every token, rows x length x vocabulary; here the encoder and the head
are called apart, so that logits exist at the masked positions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.models.encoder import Encoder, encoder_facts
from kd_env.models.library.attention import ATTENTION, register_attention
from kd_env.models.library.reading import read_model
from kd_env.models.loading import check_weights, load_config
from kd_env.models.pretrained import local_folder


def _roberta(model: Any, hidden: Tensor) -> Tensor:
    head = model.lm_head
    return head.layer_norm(F.gelu(head.dense(hidden)))  # type: ignore[no-any-return]


_TRANSFORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, hidden: model.cls.predictions.transform(hidden),
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "mpnet": _roberta,
    "distilbert": lambda model, hidden: model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))),
    "electra": lambda model, hidden: model.generator_predictions(hidden),
    "albert": lambda model, hidden: model.predictions.LayerNorm(
        model.predictions.activation(model.predictions.dense(hidden))
    ),
}
"""The head of each family before its decoder, on vectors of any leading shape, by ``model_type``."""
_TASK_HEADS = ("classifier", "pre_classifier", "qa_outputs", "score")
"""Names of layers that were trained on the labels of some task."""


class Encoded(NamedTuple):
    """What the encoder of a masked language model says about one batch."""

    hidden: Tensor  # [B, S, H], the last hidden states
    signals: ModelOutput  # what was asked for; its ``logits`` are empty


@dataclass(frozen=True)
class MaskedLM:
    """A Hugging Face masked language model in two parts, encoder and head.

    Attributes:
        module: the ``...ForMaskedLM`` in float32, with our attention.
        facts: sizes; ``num_labels`` means nothing here.
    """

    module: Any
    facts: EncoderFacts

    @cached_property
    def body(self) -> Encoder:
        """The encoder alone; its ``logits`` are the last hidden states."""
        return Encoder(_Body(self.module.base_model), self.facts, (), frozenset())

    def encode(self, batch: Batch, signals: Iterable[Signal] = frozenset(), *, eager: bool = False) -> Encoded:
        """Last hidden states ``[B, S, H]`` and the signals that are asked for; gradients reach the module.

        Args:
            batch: ``[B, S]`` fields; its labels are not read.
            signals: any but ``logits``, which :meth:`logits` gives at chosen positions.
            eager: as in :meth:`kd_env.models.encoder.Encoder.forward`, which runs the encoder.

        Raises:
            ValueError: logits are asked for, or a signal that the architecture does not give.
        """
        wanted = frozenset(signals)
        if any(signal.kind == "logits" for signal in wanted):
            raise ValueError("A masked language model gives no logits of whole rows; ask logits() at chosen positions.")
        try:
            output = self.body.forward({}, batch, wanted, eager=eager)
        except KeyError as error:  # the architecture has attention of its own, which records nothing
            raise ValueError(f"{type(self.module).__name__} does not give the signal {error}.") from error
        return Encoded(output.logits, output._replace(logits=output.logits.new_empty(0)))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary, ``[..., H] -> [..., V]``, of just the vectors that are given."""
        return self.decode(self.features(hidden))

    def features(self, hidden: Tensor) -> Tensor:
        """The head before its decoder, ``[..., H] -> [..., E]``, E the width of the word embeddings."""
        return _TRANSFORMS[self.module.config.model_type](self.module, hidden)

    def decode(self, features: Tensor) -> Tensor:
        """Logits of every token, ``[..., E] -> [..., V]``."""
        return self.module.get_output_embeddings()(features)  # type: ignore[no-any-return]

    def token_logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Logits of one token each, ``[..., E]`` and ``[...]`` int64 ``-> [...]``, without those of all the others."""
        decoder = self.module.get_output_embeddings()
        return (features * F.embedding(tokens, decoder.weight)).sum(-1) + decoder.bias[tokens]  # type: ignore[no-any-return]


class _Body(nn.Module):
    """The encoder alone, as a module whose ``logits`` are its last hidden states."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.dtype = encoder.dtype

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """What :meth:`kd_env.models.encoder.Encoder.forward` reads."""
        out = self.encoder(**inputs)
        return SimpleNamespace(logits=out.last_hidden_state, hidden_states=out.get("hidden_states"))


def load_masked_lm(name_or_path: str) -> MaskedLM:
    """A masked language model with the head of its folder, in float32 with our attention, in eval mode.

    Args:
        name_or_path: local folder in Hugging Face layout, or a hub name.

    Raises:
        ValueError: no model there, no network (with the local option), weights that do not fit, an architecture
            without a head that can be asked for single vectors, or no such head in the folder, with the command that
            trains one.
    """
    folder = local_folder(name_or_path)
    model, missing, _ = _load(folder, name_or_path, _config(folder, name_or_path, None), seed=0)
    if missing:
        raise ValueError(
            f"The model {name_or_path!r} has no masked-language-model head (no {missing[0]!r}, for one). Train one: "
            f"`kd-env teacher objective=mlm text=<text> teacher.name_or_path={name_or_path}`."
        )
    return _ready(model)


class NewMaskedLM(NamedTuple):
    """A masked language model ready for training."""

    model: MaskedLM
    had_head: bool
    """Whether the head is the source's, else it was drawn."""
    had_task_head: bool
    """Whether the source holds layers that were trained on the labels of some task."""


def start_masked_lm(name_or_path: str, *, num_hidden_layers: int | None = None, seed: int) -> NewMaskedLM:
    """What training starts from: an encoder with a head whose decoder is tied to the word embeddings.

    A head that the source has is kept; else the transform before the decoder is drawn from ``seed``, and biases are 0.

    Args:
        name_or_path: local folder in Hugging Face layout, or a hub name.
        num_hidden_layers: keep the first n blocks; None keeps all.
        seed: of what is drawn.

    Raises:
        ValueError: as :func:`load_masked_lm`, but for the head, and too few blocks.
    """
    folder = local_folder(name_or_path)
    config = _config(folder, name_or_path, num_hidden_layers)
    config.tie_word_embeddings = True
    model, missing, unexpected = _load(folder, name_or_path, config, seed)
    decoder, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if decoder.weight is not embeddings.weight:
        raise ValueError(
            f"The decoder of {type(model).__name__} ({name_or_path!r}) cannot be tied to its word embeddings; use "
            "another encoder."
        )
    if missing:
        _draw_head(model, seed)
    return NewMaskedLM(_ready(model), not missing, any(key.split(".")[0] in _TASK_HEADS for key in unexpected))


def head_parameters(model: MaskedLM) -> dict[str, nn.Parameter]:
    """Parameters of the head by name, without the word embeddings to which its decoder is tied."""
    inner = {id(parameter) for parameter in model.module.base_model.parameters()}
    return {name: value for name, value in model.module.named_parameters() if id(value) not in inner}


def _ready(model: Any) -> MaskedLM:
    return MaskedLM(model.eval(), encoder_facts(model.config))


def _config(folder: Path, name_or_path: str, num_hidden_layers: int | None) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    config = load_config(folder, name_or_path, num_hidden_layers)
    kinds: Any = MODEL_FOR_MASKED_LM_MAPPING
    if config.model_type not in _TRANSFORMS:
        known = ", ".join(sorted(_TRANSFORMS))
        reason = (
            "its head over the vocabulary is not known to work on single vectors"
            if type(config) in kinds
            else "the library has no masked-language-model head for it"
        )
        raise ValueError(
            f"{name_or_path!r} ({config.model_type}) cannot be a masked language model here: {reason}. Use an encoder "
            f"of one of these families: {known}."
        )
    return config


def _load(folder: Path, name_or_path: str, config: Any, seed: int) -> tuple[Any, list[str], list[str]]:
    """The model, and the names of tensors of its head that the folder lacks, and of tensors that found no place."""
    from transformers import AutoModelForMaskedLM

    register_attention()
    model, report = read_model(
        AutoModelForMaskedLM, folder, name_or_path, config, seed=seed, attn_implementation=ATTENTION
    )
    check_weights(name_or_path, model, report)
    absent = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    prefix = model.base_model_prefix + "."
    return model, sorted(name for name in absent if not name.startswith(prefix)), sorted(report["unexpected_keys"])


def _draw_head(model: Any, seed: int) -> None:
    """Draw the head anew: matrices normal, biases 0, scales 1; the decoder stays tied."""
    generator = torch.Generator().manual_seed(seed)
    std = float(getattr(model.config, "initializer_range", 0.02))
    inner, embeddings = set(model.base_model.modules()), model.get_input_embeddings().weight
    for module in model.modules():
        parameters = () if module in inner else module.named_parameters(recurse=False)
        for name, parameter in parameters:
            with torch.no_grad():
                if parameter.ndim < 2:
                    parameter.fill_(float(isinstance(module, nn.LayerNorm) and name == "weight"))
                elif parameter is not embeddings:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
