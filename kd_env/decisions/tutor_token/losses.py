"""What students learn on edited text, by name: scalars of one student's batch, which are weighted and added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from kd_env.core.types import ModelOutput
from kd_env.decisions.tutor_token.rewards import hard_label_loss, soft_label_loss
from kd_env.knowledge import plausibility

Pairs = tuple[tuple[int, int], ...]


class LossInputs(NamedTuple):
    """Everything that a loss may look at."""

    student: ModelOutput  # logits [B, S, 1], or [B, C] with labels of a task
    teacher: ModelOutput  # on the same text
    labels: Tensor  # [B, S] plausibility of every token, or [B] gold labels
    mask: Tensor  # [B, S] bool, True at real tokens
    projection: Tensor | None  # [H_T, H_S]
    pairs: Pairs  # (student layer, teacher layer), the embeddings among them
    block_pairs: Pairs  # without the embeddings
    layer_reduction: str  # mean or sum


def _plausibility(inputs: LossInputs) -> Tensor:
    return plausibility.plausibility_loss(inputs.student.logits.squeeze(-1), inputs.labels, inputs.mask)


def _hidden_states(inputs: LossInputs) -> Tensor:
    return plausibility.hidden_distance(
        inputs.student, inputs.teacher, inputs.projection, inputs.pairs, inputs.mask, inputs.layer_reduction
    )


def _attention(inputs: LossInputs) -> Tensor:
    return plausibility.attention_loss(
        inputs.student, inputs.teacher, inputs.block_pairs, inputs.mask, inputs.layer_reduction
    )


def _soft_label(inputs: LossInputs) -> Tensor:
    return soft_label_loss(inputs.student.logits, inputs.teacher.logits)


def _hard_label(inputs: LossInputs) -> Tensor:
    return hard_label_loss(inputs.student.logits, inputs.labels)


LOSSES: Mapping[str, Callable[[LossInputs], Tensor]] = MappingProxyType(
    {
        "plausibility": _plausibility,
        "hidden_states": _hidden_states,
        "attention": _attention,
        "soft_label": _soft_label,
        "hard_label": _hard_label,
    }
)
