"""Students that are cut from another encoder's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kd_env.models.architecture import classifier_kind, new_encoder, resized, set_dropout
from kd_env.models.pooling import AttentionPooling, PooledClassifier


def cut_encoder(
    source: Any,
    layers: tuple[int, ...],
    *,
    num_labels: int,
    dropout: float,
    kind: type | None = None,
    keep_pooling: bool = False,
) -> Any:
    """A new classifier with the named blocks (from 1) of ``source`` and its embeddings and pooler.

    It is of the class ``kind``, where given, of the same architecture as ``source``. Its prediction layer is new, so
    that it can be drawn afresh for every episode. From a pooled classifier comes the library's sequence classifier with
    the encoder's blocks alone, or with ``keep_pooling`` a pooled one in the encoder's width, whose pooling is new, too
    (MT-BERT: "own pooling and prediction").

    Raises:
        ValueError: blocks have to be left out, but the architecture has no one list of them.
    """
    origin = source
    if kind is None:
        kind = type(source)
    if isinstance(source, PooledClassifier):
        kind, origin = classifier_kind(source.config), source.encoder
    depth = int(source.config.num_hidden_layers)
    # ALBERT shares one block: whichever layers are kept, there is nothing to choose from, nothing to rename.
    all_layers = layers == tuple(range(1, depth + 1))
    blocks = "" if all_layers or _is_shared(source.config) else layer_list(origin, depth) + "."
    config = resized(kind, source.config, {} if all_layers else _kept(source.config, layers), "student.")
    config.num_labels = num_labels
    set_dropout(config, dropout)
    student = new_encoder(kind, config)
    receiver = student if origin is source else student.base_model
    wanted = {f"{blocks}{layer - 1}.": f"{blocks}{place}." for place, layer in enumerate(layers)}
    target = receiver.state_dict()
    for name, tensor in origin.state_dict().items():
        new_name: str | None = name
        if blocks and name.startswith(blocks):
            old_prefix = next((prefix for prefix in wanted if name.startswith(prefix)), None)
            new_name = None if old_prefix is None else wanted[old_prefix] + name[len(old_prefix) :]
            _check_place(name, new_name, target, kind)
        if new_name in target and target[new_name].shape == tensor.shape:
            target[new_name] = tensor
    receiver.load_state_dict(target)
    return _pooled(student.base_model, num_labels) if keep_pooling and origin is not source else student


def _is_shared(config: Any) -> bool:
    """Whether all layers are one block."""
    return getattr(config, "num_hidden_groups", None) == 1


def _kept(config: Any, layers: tuple[int, ...]) -> dict[str, Any]:
    """What the layers that are kept (from 1) change in a configuration."""
    sizes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if getattr(config, "num_hidden_groups", None) == config.num_hidden_layers:  # of ALBERT: a group for each layer
        sizes["num_hidden_groups"] = len(layers)
    if types := getattr(config, "layer_types", None):
        sizes["layer_types"] = [types[layer - 1] for layer in layers]
    return sizes


def _check_place(name: str, new_name: str | None, target: Mapping[str, Any], kind: type) -> None:
    """Refuse a block that is built otherwise in its new place, where a part of it would be left out without a word."""
    if new_name is not None and new_name not in target:
        raise ValueError(
            f"The first block of a {kind.__name__} is built otherwise than the others ({name} has no place in it); "
            "keep the first layers, the first one among them: student.layers=first."
        )


def _pooled(encoder: Any, num_labels: int) -> PooledClassifier:
    """The encoder under attention pooling and a prediction layer of its own; values are drawn later, by seed."""
    if getattr(encoder, "pooler", None) is not None:  # of [CLS]: nothing would read it, but its weights would decay
        encoder.pooler = None
    width = int(encoder.config.hidden_size)
    with torch.random.fork_rng(devices=[]):
        return PooledClassifier(encoder, AttentionPooling(width), nn.Linear(width, num_labels)).eval()


def layer_list(model: nn.Module, num_layers: int) -> str:
    """Dotted name of the module list that holds the encoder's blocks.

    Raises:
        ValueError: there is none, or more than one, of that length.
    """
    block_lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    outer = [name for name in block_lists if not any(name.startswith(above + ".") for above in block_lists)]
    if len(outer) != 1:
        raise ValueError(
            f"{type(model).__name__} does not have one list of {num_layers} blocks (found {outer or 'none'}); cut "
            "students need such an encoder: use a fresh student, or a pre-trained one with all its layers."
        )
    return str(outer[0])
