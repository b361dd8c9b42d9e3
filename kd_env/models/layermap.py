"""Which student layer learns from which teacher layer, and which layers a student keeps when it is cut from a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from kd_env.core.registry import unknown_name

MAP_NAMES = ("uniform", "last", "skip")
CUT_NAMES = ("first", "last", "skip")


def layer_pairs(
    layer_map: str | Sequence[Sequence[int]], student_layers: int, teacher_layers: int
) -> tuple[tuple[int, int], ...]:
    """Pairs (student layer, teacher layer) in the order of the student's layers; layer 0 is the embedding output.

    - ``uniform``: ``(l, round(l * L_T / L_S))`` for l = 0..L_S (ties to the even layer, as Python rounds).
    - ``last``: ``(0, 0)`` and ``(l, L_T - L_S + l)``: the student's blocks follow the teacher's last ones.
    - ``skip``: ``(0, 0)`` and ``(l, l * (L_T // L_S))`` for l = 1..L_S-1; the last student layer is left to the logits
      (PKD-skip; Sun et al., EMNLP 2019, section 3.2).
    - explicit pairs, each student layer once.

    Args:
        layer_map: a name or the pairs.
        student_layers: number of blocks L_S of the student, at least 1.
        teacher_layers: number of blocks L_T of the teacher, at least 1.

    Raises:
        ValueError: unknown name, a named map that the depths do not allow, or a pair that is malformed, out of range or
            repeats a student layer.
    """
    for owner, count in (("student", student_layers), ("teacher", teacher_layers)):
        if count < 1:
            raise ValueError(f"The {owner} has {count} layers; a layer map needs at least 1.")
    if not isinstance(layer_map, str):
        return _explicit_pairs(layer_map, student_layers, teacher_layers)
    if layer_map not in MAP_NAMES:
        raise ValueError(unknown_name("layer map", layer_map, MAP_NAMES) + " Or give pairs, such as [[0, 0], [1, 3]].")
    if layer_map == "uniform":
        return tuple((layer, round(layer * teacher_layers / student_layers)) for layer in range(student_layers + 1))
    if student_layers > teacher_layers:
        raise ValueError(
            f"layer_map={layer_map!r} needs a student that is not deeper than its teacher, but the student has "
            f"{student_layers} layers and the teacher {teacher_layers}; use layer_map='uniform' or explicit pairs."
        )
    if layer_map == "last":
        shift = teacher_layers - student_layers
        return ((0, 0), *((layer, layer + shift) for layer in range(1, student_layers + 1)))
    stride = teacher_layers // student_layers
    return ((0, 0), *((layer, layer * stride) for layer in range(1, student_layers)))


def _explicit_pairs(
    pairs: Sequence[Sequence[int]], student_layers: int, teacher_layers: int
) -> tuple[tuple[int, int], ...]:
    if len(pairs) == 0:
        raise ValueError("layer_map is empty; give at least one pair (student layer, teacher layer), or 'uniform'.")
    checked: dict[int, int] = {}
    for pair in pairs:
        if not _is_pair(pair):
            raise ValueError(f"layer_map pair {pair!r} must be two whole numbers (student layer, teacher layer).")
        for owner, layer, last in (("student", pair[0], student_layers), ("teacher", pair[1], teacher_layers)):
            if not 0 <= layer <= last:
                raise ValueError(
                    f"layer_map pair {tuple(pair)}: {owner} layer {layer} is out of range; the {owner} has the layers "
                    f"0 (embeddings) to {last}. Change the pair, or use layer_map='uniform'."
                )
        if pair[0] in checked:
            raise ValueError(
                f"layer_map pair {tuple(pair)}: student layer {pair[0]} is already mapped to teacher layer "
                f"{checked[pair[0]]}; map each student layer once (allowed: 0 to {student_layers})."
            )
        checked[pair[0]] = pair[1]
    return tuple(sorted(checked.items()))


def _is_pair(value: object) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(isinstance(layer, int) and not isinstance(layer, bool) for layer in value)


def layer_table(pairs: Sequence[tuple[int, int]]) -> str:
    """The layer map as a printable table, one line for each pair; layer 0 is shown as ``embeddings``."""
    rows = [("student layer", "teacher layer")]
    rows += [tuple("embeddings" if layer == 0 else str(layer) for layer in pair) for pair in pairs]  # type: ignore[misc]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{left:<{widths[0]}} | {right:<{widths[1]}}".rstrip() for left, right in rows]
    lines.insert(1, "-" * (widths[0] + 1) + "+" + "-" * (widths[1] + 1))
    return "\n".join(lines)


def cut_layers(layers: str | Sequence[int], num_hidden_layers: int | None, source_layers: int) -> tuple[int, ...]:
    """Layers, counted from 1, that a student keeps when it is cut from a model of ``source_layers`` blocks.

    ``first`` keeps 1..n, ``last`` the last n, ``skip`` evenly spaced ones ending with the last
    (``round((i + 1) * L / n)``), a sequence keeps just those.

    Args:
        layers: a name or increasing layer numbers from 1.
        num_hidden_layers: n; None keeps all layers, or as many as are listed.
        source_layers: L, blocks of the model that is cut.

    Raises:
        ValueError: unknown name, n out of range, or numbers out of range, repeated or not in order.
    """
    if isinstance(layers, str):
        if layers not in CUT_NAMES:
            raise ValueError(unknown_name("choice of layers", layers, CUT_NAMES) + " Or list them, such as [2, 4].")
        count = source_layers if num_hidden_layers is None else num_hidden_layers
        if not 1 <= count <= source_layers:
            raise ValueError(
                f"num_hidden_layers={count} is out of range; the model that the student is cut from has "
                f"{source_layers} layers, so choose 1 to {source_layers}."
            )
        if layers == "first":
            return tuple(range(1, count + 1))
        if layers == "last":
            return tuple(range(source_layers - count + 1, source_layers + 1))
        return tuple(round((index + 1) * source_layers / count) for index in range(count))
    numbers = tuple(layers)
    if not numbers:
        raise ValueError("The list of layers to keep is empty; list at least one layer number from 1.")
    for layer in numbers:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= source_layers:
            raise ValueError(
                f"Layer {layer!r} in {list(numbers)} is out of range; the model that the student is cut from has the "
                f"layers 1 to {source_layers}."
            )
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ValueError(f"The layers {list(numbers)} must be listed once each and in increasing order.")
    if num_hidden_layers is not None and num_hidden_layers != len(numbers):
        raise ValueError(
            f"num_hidden_layers={num_hidden_layers} contradicts the listed layers {list(numbers)}; leave it out."
        )
    return numbers
