"""An encoder, pre-trained or fresh, with the classifier of a task on top, ready for fine-tuning."""

from __future__ import annotations

from typing import Any

from kd_env.data.tasks import Task
from kd_env.finetuning.config import EncoderOptions
from kd_env.models import encoder
from kd_env.models.architecture import classifier_kind, encoder_sizes, fresh_encoder
from kd_env.models.loading import Classifier, load_classifier, load_config, name_labels
from kd_env.models.pretrained import local_folder


def start_classifier(options: EncoderOptions, task: Task, seed: int, prefix: str = "") -> Classifier:
    """What fine-tuning starts from: :func:`load_classifier`, or with ``init=fresh`` :func:`new_classifier`."""
    if options.init == "fresh":
        return Classifier(new_classifier(options, task, seed, prefix), had_head=False)
    return load_classifier(options.name_or_path, task, options.num_hidden_layers, seed)


def new_classifier(options: EncoderOptions, task: Task, seed: int, prefix: str = "") -> Any:
    """A sequence classifier all of whose weights are drawn from ``seed``, with the source's dropout.

    Args:
        options: ``name_or_path`` gives architecture and vocabulary; sizes that are None are its own.
        task: gives the labels.
        seed: of the weights.
        prefix: of the options' names in messages.

    Raises:
        ValueError: no configuration there, or sizes that the architecture does not take.
    """
    config = load_config(local_folder(options.name_or_path), options.name_or_path, None)
    name_labels(config, task)
    source_sizes = encoder_sizes(config)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    wanted = {name: getattr(options, name) for name in names}
    sizes = {**source_sizes, **{name: value for name, value in wanted.items() if value is not None}}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ValueError(
            f"{prefix}hidden_size={sizes['hidden_size']} is not divisible by "
            f"{prefix}num_attention_heads={sizes['num_attention_heads']}."
        )
    module = fresh_encoder(
        classifier_kind(config), config, sizes, num_labels=task.num_labels, dropout=None, prefix=prefix
    )
    drawn = encoder.Encoder.build(module, train_embeddings=True, fresh="all").initial(seed)
    module.load_state_dict({**module.state_dict(), **drawn})
    return module.requires_grad_(True)
