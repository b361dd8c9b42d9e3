"""Students of which the lower part stays as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

from kd_env.models.encoder import Encoder
from kd_env.models.students.cut import layer_list


def freeze(student: Encoder, trainable: str) -> Encoder:
    """The student with its lower part frozen: its template's own tensors, which all replicas share.

    Args:
        student: cut from another encoder or pre-trained.
        trainable: ``all``, ``top<n>`` (the highest n blocks and what is above them) or ``head`` (what is above the
            blocks), see :attr:`kd_env.config.student.StudentConfig.trainable`.

    Raises:
        ValueError: more blocks than there are, or an encoder without one list of blocks.
    """
    if trainable == "all":
        return student
    blocks = student.facts.num_layers
    learning = 0 if trainable == "head" else int(trainable.removeprefix("top"))
    if learning > blocks:
        raise ValueError(
            f"student.trainable={trainable!r} is more than the {blocks} blocks of the student; choose at most "
            f"'top{blocks}', or 'all', which trains its embeddings, too."
        )
    depth = blocks - learning
    frozen = _below(student.module, blocks, depth, trainable)
    return dataclasses.replace(
        student,
        facts=student.facts._replace(frozen_depth=depth),
        trainable=tuple(name for name in student.trainable if name not in frozen),
    )


def _below(module: Any, blocks: int, depth: int, trainable: str) -> set[str]:
    """Names of the parameters of the embeddings and of the first ``depth`` of the encoder's blocks."""
    try:
        prefix = layer_list(module, blocks) + "."
    except ValueError as error:  # ALBERT shares one block
        raise ValueError(
            f"student.trainable={trainable!r} freezes blocks one by one: {error} Or set student.trainable='all'."
        ) from error
    names = [name for name, _ in module.named_parameters()]
    # A module lists what it reads first before its blocks, and what reads their output after them.
    first = next(place for place, name in enumerate(names) if name.startswith(prefix))
    inside = {name for name in names if name.startswith(prefix) and int(name[len(prefix) :].split(".")[0]) < depth}
    return {*names[:first], *inside}
