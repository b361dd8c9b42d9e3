"""Encoders built from a configuration: which classes an architecture has, and which sizes it takes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn

from kd_env.models.encoder import encoder_facts
from kd_env.models.library.attention import ATTENTION, register_attention
from kd_env.models.library.reading import first_line, quiet_transformers

_INTERMEDIATE = ("intermediate_size", "hidden_dim")
"""Names of the width of the feed-forward layers; the second is DistilBERT's."""


def classifier_kind(config: Any) -> type:
    """The library's sequence classifier for a configuration.

    Raises:
        ValueError: the architecture has none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    kinds: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in kinds:
        raise ValueError(f"{type(config).__name__} has no sequence classifier; use an encoder such as BERT.")
    kind: type = kinds[type(config)]
    return kind


def token_classifier_kind(config: Any) -> type:
    """The library's token classifier for a configuration: scores for every token.

    Raises:
        ValueError: the architecture has none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

    kinds: Any = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    if type(config) not in kinds:
        raise ValueError(f"{type(config).__name__} has no token classifier; use an encoder such as BERT.")
    kind: type = kinds[type(config)]
    return kind


def encoder_sizes(config: Any) -> dict[str, int]:
    """Sizes of a configuration, by the names that :func:`fresh_encoder` takes; without those that it does not name."""
    facts, known = encoder_facts(config), config.to_dict()
    width = next((known[name] for name in _INTERMEDIATE if name in known), None)
    sizes = {
        "num_hidden_layers": facts.num_layers,
        "hidden_size": facts.hidden_size,
        "num_attention_heads": facts.num_heads,
    }
    return sizes if width is None else {**sizes, "intermediate_size": int(width)}


def fresh_encoder(
    kind: type,
    source: Any,
    sizes: Mapping[str, int],
    *,
    num_labels: int,
    dropout: float | None,
    prefix: str = "student.",
) -> Any:
    """A classifier of the architecture and vocabulary of the configuration ``source``, with other sizes.

    Args:
        kind: class of the classifier.
        source: configuration of the teacher.
        sizes: ``num_hidden_layers``, ``hidden_size``, ``num_attention_heads`` and ``intermediate_size``; where it may
            differ from ``source``'s, also ``embedding_size``.
        num_labels: size of the head.
        dropout: every dropout probability; None keeps the source's.
        prefix: of the options' names in messages.

    Raises:
        ValueError: the architecture does not allow these sizes, or ignores one.
    """
    known = source.to_dict()
    width = next((name for name in _INTERMEDIATE if name in known), None)
    if width is None:
        raise _ignored(kind, prefix, "intermediate_size", sizes.get("intermediate_size"))
    named: dict[str, Any] = {width if name == "intermediate_size" else name: size for name, size in sizes.items()}
    if "pooler_hidden_size" in known:  # DeBERTa names the width of its pooler apart
        named["pooler_hidden_size"] = sizes["hidden_size"]
    if known.get("layer_types"):
        named["layer_types"] = list(islice(cycle(known["layer_types"]), sizes["num_hidden_layers"]))
    config = resized(kind, source, named, prefix)
    config.num_labels = num_labels
    if dropout is not None:
        set_dropout(config, dropout)
    module = new_encoder(kind, config)
    facts = encoder_facts(module.config)
    for name, size in (
        ("num_hidden_layers", facts.num_layers),
        ("hidden_size", facts.hidden_size),
        ("num_attention_heads", facts.num_heads),
    ):
        if size != sizes[name]:
            raise _ignored(kind, prefix, name, sizes[name])
    shape = (sizes["intermediate_size"], sizes["hidden_size"])  # of the way down: ModernBERT's way up has a gate, too
    if not any((m.in_features, m.out_features) == shape for m in module.modules() if isinstance(m, nn.Linear)):
        raise _ignored(kind, prefix, "intermediate_size", sizes["intermediate_size"])
    narrow = sizes.get("embedding_size")
    if narrow is not None and module.get_input_embeddings().weight.shape[1] != narrow:
        raise _ignored(kind, prefix, "embedding_size", narrow)
    return module


def resized(kind: type, source: Any, sizes: Mapping[str, int], prefix: str) -> Any:
    """A copy of a configuration with other sizes."""
    try:
        return type(source).from_dict({**source.to_dict(), **sizes})
    except Exception as error:  # NotImplementedError, failed validation and more; the cause is kept
        listed = ", ".join(f"{name}={value}" for name, value in sizes.items())
        reason = " ".join(str(error).split())
        raise ValueError(
            f"A {kind.__name__} cannot be given other sizes ({listed}): {type(error).__name__}: {reason} Use "
            f"{prefix}init=pretrained with all layers of a ready encoder, or a teacher of another architecture."
        ) from error


def _ignored(kind: type, prefix: str, name: str, value: int | None) -> ValueError:
    ways = f"{prefix}init=teacher or pretrained" if prefix == "student." else f"{prefix}init=pretrained"
    return ValueError(
        f"A fresh {kind.__name__} does not take {prefix}{name}={value}; use {ways}, or a teacher of another "
        "architecture."
    )


def new_encoder(kind: type, config: Any) -> Any:
    """A classifier from a configuration, in float32 with our attention; values are drawn later, by seed.

    Raises:
        ValueError: the architecture cannot be built with these sizes.
    """
    register_attention()
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = kind._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)  # type: ignore[attr-defined]
        except Exception as error:  # every architecture refuses sizes in its own way; the cause is kept
            raise ValueError(
                f"A {kind.__name__} cannot be built with these sizes ({type(error).__name__}: {first_line(error)}). "
                "Choose other sizes, or init=pretrained with a ready encoder."
            ) from error
    return model.eval()


def set_dropout(config: Any, dropout: float) -> None:
    """Set every dropout probability of a configuration."""
    for name in vars(config):
        value = getattr(config, name)
        # A flag is no probability: ESM's token_dropout scales embeddings.
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, dropout)
