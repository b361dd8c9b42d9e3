"""Classifiers from Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from kd_env.data.tasks import Task
from kd_env.models import pretrained
from kd_env.models.library.reading import read_config, read_model


class Classifier(NamedTuple):
    """A model ready for fine-tuning."""

    model: Any
    had_head: bool
    """Whether the source holds prediction layers, kept or not: it was fine-tuned on some task before."""


def load_classifier(name_or_path: str, task: Task, num_hidden_layers: int | None, seed: int) -> Classifier:
    """A sequence classifier in float32 with the task's labels.

    The prediction layers are kept only where the source was fine-tuned on the same label names; else they are drawn
    anew from ``seed``, since a head for other classes is worse than none.

    Args:
        name_or_path: local folder in Hugging Face layout, or a hub name.
        task: gives the labels.
        num_hidden_layers: keep the first n blocks; None keeps all.
        seed: of everything that is drawn.

    Raises:
        ValueError: no model there, no network (with the local option), weights that do not fit, or too few blocks.
    """
    from transformers import AutoModelForSequenceClassification

    folder = pretrained.local_folder(name_or_path)
    config = load_config(folder, name_or_path, num_hidden_layers)
    keep_head = bool(task.labels) and [config.id2label.get(i) for i in range(len(config.id2label))] == list(task.labels)
    name_labels(config, task)
    model, report = read_model(AutoModelForSequenceClassification, folder, name_or_path, config, seed=seed)
    check_weights(name_or_path, model, report)
    if not keep_head:
        draw_head(model, seed)
    prefix = model.base_model_prefix + "."
    head = {name for name in model.state_dict() if not name.startswith(prefix)}
    return Classifier(model, bool(head - set(report["missing_keys"])))


def draw_head(model: Any, seed: int) -> None:
    """Draw the linear layers outside the encoder anew: normal weights, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    std = float(getattr(model.config, "initializer_range", 0.02))
    inner = {id(module) for module in model.base_model.modules()}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module) not in inner:
            with torch.no_grad():
                module.weight.copy_(torch.empty(module.weight.shape).normal_(0.0, std, generator=generator))
                if module.bias is not None:
                    module.bias.zero_()


def name_labels(config: Any, task: Task) -> None:
    """Write the task's labels and kind of problem into a model's configuration."""
    names = task.labels or ("score",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "regression" if task.regression else "single_label_classification"


def load_config(folder: Path, name_or_path: str, num_hidden_layers: int | None) -> Any:
    """The configuration of an encoder, with its first blocks alone where a number is given.

    Raises:
        ValueError: no encoder there, or fewer blocks.
    """
    config = read_config(folder, name_or_path)
    pretrained.check_family(config, name_or_path)
    if num_hidden_layers is not None:
        blocks = getattr(config, "num_hidden_layers", None)
        if blocks is None or num_hidden_layers > blocks:
            raise ValueError(
                f"num_hidden_layers={num_hidden_layers} is out of range: {name_or_path!r} has {blocks or 'no'} blocks; "
                f"choose 1 to {blocks}, or None for all."
                if blocks
                else f"num_hidden_layers={num_hidden_layers} cannot be set: {name_or_path!r} names no number of blocks."
            )
        config.num_hidden_layers = num_hidden_layers
    return config


def check_weights(name_or_path: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse weights of another architecture: the encoder would start from noise without a word."""
    prefix = model.base_model_prefix + "."
    absent = [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])]
    # A masked language model has no pooler; it is part of what fine-tuning learns.
    faults = sorted(name for name in absent if name.startswith(prefix) and "pooler" not in name)
    if faults:
        raise ValueError(
            f"The weights of {name_or_path!r} do not fit its config.json: {len(faults)} tensors of the encoder are "
            f"missing or of another size, such as {faults[0]!r}. Give a complete folder in Hugging Face layout."
        )
