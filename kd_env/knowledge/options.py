"""Checks that the term factories share: option values, mapped layers, label counts and projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_env.core.checks import is_number, refuse
from kd_env.core.registry import unknown_name
from kd_env.knowledge.base import LayerPairs, TermInputs, TermSpec
from kd_env.knowledge.tensors import wide

TEMPERATURES = (0.05, 100.0)
"""Beyond them float32 no longer tells the losses of two students apart, or a softmax is a step."""
LARGEST_WEIGHT = 1e6
"""Of a loss or a part of one: products with it stay far from the largest float32."""


class DoesNotFit(ValueError):
    """An option that is right by itself, and does not fit this student or teacher."""


def choose(term: str, option: str, value: object, valid: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the valid names."""
    if not isinstance(value, str) or value not in valid:
        raise ValueError(unknown_name(f"value of {term}.{option}:", value, valid))


def number(
    term: str, option: str, value: object, low: float, high: float = float("inf"), *, open_low: bool = False
) -> None:
    """Refuse what is no finite number in [low, high], or in (low, high] with ``open_low``."""
    inside = is_number(value) and isfinite(value) and (low < value if open_low else low <= value) and value <= high
    if not inside:
        bounds = f"above {low}" if open_low else f"at least {low}"
        bounds += f" and at most {high}" if isfinite(high) else ""
        refuse(f"{term}.{option}", value, f"a finite number {bounds}")


def temperature_of(term: str, value: object) -> None:
    """Refuse a temperature at which the numbers mean nothing."""
    number(term, "temperature", value, *TEMPERATURES)


def flag(term: str, option: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        refuse(f"{term}.{option}", value, "true or false")


def same_labels(term: str, spec: TermSpec) -> None:
    """Refuse a teacher with another number of labels."""
    if spec.student.num_labels != spec.teacher.num_labels:
        raise ValueError(
            f"{term} compares logits, but the student has {spec.student.num_labels} labels and the teacher "
            f"{spec.teacher.num_labels}; use a teacher that was fine-tuned on this task."
        )


def block_pairs(term: str, spec: TermSpec) -> LayerPairs:
    """The mapped pairs of blocks: those in which neither side is the embedding output. Refused where there is none."""
    pairs = tuple(pair for pair in spec.pairs if min(pair) >= 1)
    if not pairs:
        raise ValueError(
            f"{term} needs a mapped pair of layers of at least 1, but the layer map holds only {list(spec.pairs)}; "
            "use layer_map='uniform' or add a pair, or leave the term out."
        )
    return pairs


def reduction_of(term: str, value: str) -> Callable[[list[Tensor]], Tensor]:
    """How the losses ``[B]`` of mapped layers (or of relations) become one: ``mean``, or ``sum`` as papers write it.

    Raises:
        ValueError: another name.
    """
    choose(term, "reduction", value, ("mean", "sum"))
    return lambda losses: torch.stack(losses).mean(0) if value == "mean" else torch.stack(losses).sum(0)


class Projections(NamedTuple):
    """Which trainable map takes a layer of one side to the width of the other; none where nothing is mapped."""

    shapes: Mapping[str, tuple[int, int]]  # name -> (width of the other side, width of the mapped side)
    names: Mapping[int, str]  # student layer -> name; empty where nothing is mapped
    side: str = "student"  # which side is mapped, student or teacher

    def apply(self, inputs: TermInputs, layer: int, features: Tensor) -> Tensor:
        """Features ``[..., H]`` of the mapped side in the other's width, in at least float32."""
        name = self.names.get(layer)
        features = wide(features)
        return features if name is None else F.linear(features, wide(inputs.projections[name]))

    def pair(self, inputs: TermInputs, layer: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides ``[..., H_S]`` and ``[..., H_T]`` in one width, as they are compared."""
        if self.side == "teacher":
            return student, self.apply(inputs, layer, teacher)
        return self.apply(inputs, layer, student), teacher


def plan_projections(
    term: str,
    spec: TermSpec,
    layers: tuple[int, ...],
    *,
    shared: bool = False,
    projection: str = "auto",
    side: str = "student",
) -> Projections:
    """One map for each student layer (``layer_<l>``), or a single one for all (``shared``).

    Args:
        term: name of the term, for messages.
        spec: what the term is built for.
        layers: student layers that are mapped.
        shared: whether they have one map in common.
        projection: ``auto`` has maps only where the widths differ, ``always`` also where they are the same.
        side: whose features are mapped, ``student`` or ``teacher``.

    Raises:
        ValueError: another name of ``projection``, or a side that is named and would not be mapped.
    """
    choose(term, "projection", projection, ("auto", "always"))
    width, target = spec.student.hidden_size, spec.teacher.hidden_size
    if side == "teacher":
        width, target = target, width
    if width == target and projection == "auto":
        if side == "teacher":
            raise ValueError(
                f"{term}: projected='teacher' maps nothing where teacher and student have the same width ({width}); "
                "set projection='always', or leave it out."
            )
        return Projections({}, {}, side)
    names = {layer: "shared" if shared else f"layer_{layer}" for layer in layers}
    return Projections({name: (target, width) for name in names.values()}, names, side)
