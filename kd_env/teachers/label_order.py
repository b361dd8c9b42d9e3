"""Which output of a teacher stands for which class: read off its label names, and put into the order of the task."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_env.data.tasks import Task
from kd_env.models.library.copies import library_copy

logger = logging.getLogger("kd_env")


def label_names(module: Any) -> tuple[str, ...]:
    """The names that a classifier's configuration gives to its outputs, in their order."""
    names = module.config.id2label
    return tuple(str(names.get(index, f"LABEL_{index}")) for index in range(int(module.config.num_labels)))


def are_default(names: Sequence[str]) -> bool:
    """Whether nobody has named the outputs: then only labelled rows tell what they stand for."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def put_in_task_order(module: Any, folder: str, task: Task, what: str = "teacher") -> tuple[int, ...]:
    """Put the outputs of a classifier into the order of a task's labels; for each label the output that it was before.

    Nothing, and an empty order, where they are in it, or have no names of their own (``LABEL_0``, ...).

    Args:
        module: from :func:`kd_env.models.pretrained.load_encoder`; its last layer is changed in place.
        folder: where it comes from, for messages.
        task: gives the labels.
        what: it is, for messages.

    Raises:
        ValueError: another number of labels, or other names than the task's.
    """
    names = label_names(module)
    ways = f"Fine-tune one for this task: `kd-env teacher task={task.name} teacher.name_or_path=...`"
    if len(names) != task.num_labels:
        raise ValueError(
            f"The {what} {folder!r} has {len(names)} labels ({', '.join(names)}), the task {task.name!r} "
            f"has {task.num_labels} ({', '.join(task.labels) or 'a score'}). {ways}."
        )
    if not task.labels or names == task.labels or are_default(names):
        return ()
    order = matching_order(names, task.labels)
    if order is None:
        raise ValueError(
            f"The {what} {folder!r} names its labels {list(names)}, the task {task.name!r} {list(task.labels)}. If "
            "they are the same under other names, write the task's, in the order of its outputs, into "
            f"id2label of its config.json. {ways}."
        )
    if order == sorted(order):
        return ()
    _reorder(module, order, folder, what)
    module.config.id2label = dict(enumerate(task.labels))
    module.config.label2id = {label: index for index, label in enumerate(task.labels)}
    logger.info(
        "The %s %s orders its labels %s: its outputs were put into the task's order, %s.",
        what,
        folder,
        list(names),
        list(task.labels),
    )
    return tuple(order)


def matching_order(names: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """For each label the place of its name; None where they are not the same names.

    Case, hyphens and spaces do not count, unless labels differ in them alone.
    """
    own, wanted = ([_plain(name) for name in group] for group in (names, labels))
    if len(set(wanted)) < len(wanted):
        own, wanted = list(names), list(labels)
    if sorted(own) != sorted(wanted):
        return None
    return [own.index(name) for name in wanted]


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", name.lower())


def _reorder(module: Any, order: Sequence[int], folder: str, what: str) -> None:
    """Change the order of the outputs in the last layer, so that every forward pass has it."""
    inner = {id(part) for part in module.base_model.modules()}
    layers = [
        part
        for part in module.modules()
        if isinstance(part, nn.Linear) and part.out_features == len(order) and id(part) not in inner
    ]
    before = _some_logits(module)
    if layers:
        with torch.no_grad():
            for parameter in layers[-1].parameters():
                parameter.copy_(parameter[list(order)].clone())
    if not layers or not torch.allclose(_some_logits(module), before[:, list(order)], rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"The outputs of the {what} {folder!r} ({type(module).__name__}) cannot be put into the task's order: no "
            "linear layer gives them. Give the labels in its order: columns.labels=[...] of a custom task."
        )


def _some_logits(module: Any) -> Tensor:
    ids = torch.arange(4)[None] % int(module.get_input_embeddings().weight.shape[0])
    with torch.no_grad():
        logits: Tensor = library_copy(module, None)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits
