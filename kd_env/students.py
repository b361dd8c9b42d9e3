"""New encoders from a given one: with other sizes, or with some of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kd_env.models import encoder_facts, new_encoder, set_dropout

_INTERMEDIATE = ("intermediate_size", "hidden_dim")
"""Names of the width of the feed-forward layers; the second is DistilBERT's."""


def fresh_encoder(kind: type, source: Any, sizes: Mapping[str, int], *, num_labels: int, dropout: float) -> Any:
    """A classifier of the architecture and vocabulary of the configuration ``source``, with other sizes.

    Args:
        kind: class of the classifier.
        source: configuration of the teacher.
        sizes: ``num_hidden_layers``, ``hidden_size``, ``num_attention_heads`` and ``intermediate_size``.
        num_labels: size of the head.
        dropout: every dropout probability.

    Raises:
        ValueError: the architecture does not allow these sizes, or ignores one.
    """
    known = source.to_dict()
    width = next((name for name in _INTERMEDIATE if name in known), None)
    if width is None:
        raise _ignored(kind, "intermediate_size", sizes["intermediate_size"])
    named = {width if name == "intermediate_size" else name: value for name, value in sizes.items()}
    config = _resized(kind, source, named)
    config.num_labels = num_labels
    set_dropout(config, dropout)
    module = new_encoder(kind, config)
    facts = encoder_facts(module.config)
    for name, found in (
        ("num_hidden_layers", facts.num_layers),
        ("hidden_size", facts.hidden_size),
        ("num_attention_heads", facts.num_heads),
    ):
        if found != sizes[name]:
            raise _ignored(kind, name, sizes[name])
    shape = (sizes["hidden_size"], sizes["intermediate_size"])
    if not any((m.in_features, m.out_features) == shape for m in module.modules() if isinstance(m, nn.Linear)):
        raise _ignored(kind, "intermediate_size", sizes["intermediate_size"])
    return module


def cut_encoder(source: Any, layers: tuple[int, ...], *, num_labels: int, dropout: float) -> Any:
    """A new classifier with the named blocks (from 1) of ``source`` and its embeddings and pooler.

    Its prediction layer is new (MT-BERT: "own prediction"), so that it can be drawn afresh for every episode.

    Raises:
        ValueError: blocks have to be left out, but the architecture has no one list of them.
    """
    depth = int(source.config.num_hidden_layers)
    whole = layers == tuple(range(1, depth + 1))  # ALBERT shares one block: nothing to choose from, nothing to rename
    blocks = "" if whole else layer_list(source, depth) + "."
    config = _resized(type(source), source.config, {} if whole else {"num_hidden_layers": len(layers)})
    config.num_labels = num_labels
    set_dropout(config, dropout)
    student = new_encoder(type(source), config)
    wanted = {f"{blocks}{layer - 1}.": f"{blocks}{place}." for place, layer in enumerate(layers)}
    target = student.state_dict()
    for name, tensor in source.state_dict().items():
        new_name: str | None = name
        if blocks and name.startswith(blocks):
            old = next((prefix for prefix in wanted if name.startswith(prefix)), None)
            new_name = None if old is None else wanted[old] + name[len(old) :]
        if new_name in target and target[new_name].shape == tensor.shape:
            target[new_name] = tensor
    student.load_state_dict(target)
    return student


def layer_list(model: nn.Module, num_layers: int) -> str:
    """Dotted name of the module list that holds the encoder's blocks.

    Raises:
        ValueError: there is none, or more than one, of that length.
    """
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    outer = [name for name in found if not any(name != other and name.startswith(other + ".") for other in found)]
    if len(outer) != 1:
        raise ValueError(
            f"{type(model).__name__} does not have one list of {num_layers} blocks (found {outer or 'none'}); cut "
            "students need such an encoder: use a fresh student, or a pre-trained one with all its layers."
        )
    return str(outer[0])


def _resized(kind: type, source: Any, sizes: Mapping[str, int]) -> Any:
    """A copy of a configuration with other sizes."""
    try:
        return type(source).from_dict({**source.to_dict(), **sizes})
    except Exception as error:  # NotImplementedError, failed validation and more; the cause is kept
        told = ", ".join(f"{name}={value}" for name, value in sizes.items())
        reason = " ".join(str(error).split())
        raise ValueError(
            f"A {kind.__name__} cannot be given other sizes ({told}): {type(error).__name__}: {reason} Use "
            "student.init=pretrained with all layers of a ready encoder, or a teacher of another architecture."
        ) from error


def _ignored(kind: type, name: str, value: int) -> ValueError:
    return ValueError(
        f"A fresh {kind.__name__} does not take student.{name}={value}; use student.init=teacher or pretrained, or a "
        "teacher of another architecture."
    )
