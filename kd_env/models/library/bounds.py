"""``config.json`` is read, and its sizes are bounded, before the library builds anything from them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
_FILE_BYTES = 16 * 2**20
_MOST_PARTS = 1000
"""Layers, heads, groups or experts: the largest encoders have some hundreds."""
_MOST_BLOCKS = 10_000
"""Layers times groups times experts: a second or two of building."""
_ALWAYS_BUILT = 2**28
"""Numbers that are built whatever weights there are: a gigabyte, and damaged weights are told as such."""
_PARTS = re.compile(r".*(layer|block|group|expert|stage|depth|head)(?!.*(size|dim|id|eps)$)")
_REPEATED = re.compile(r"(n|num|encoder|decoder|inner)_.*(layer|block|group|expert)|block_sizes|block_repeats")
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
_FORWARD_WIDTHS = ("intermediate_size", "hidden_dim", "d_ff", "d_inner", "n_inner", "encoder_ffn_dim")


def check_config_file(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``config.json``.

    Raises:
        ValueError: the file is damaged, or describes a model that no weights beside it could fill.
    """
    path = folder / CONFIG
    remedy = "copy or download the folder again."
    size = path.stat().st_size
    if size > _FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes, and no configuration has above {_FILE_BYTES}; {remedy}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping of options; {remedy}")
    _check_counts(path, config)
    _check_matrices(path, config)
    return config


def _check_counts(path: Path, config: Mapping[str, Any]) -> None:
    blocks = 1.0
    for name, number in _numbers(config):
        if number > _MOST_PARTS and _PARTS.match(name):
            raise ValueError(
                f"{path}: {name}={number:g} is above {_MOST_PARTS}, more than any encoder has; building it would not "
                "end. Correct the number, or give another folder."
            )
        if _REPEATED.match(name) and number > 1:
            blocks *= number
    if blocks > _MOST_BLOCKS:
        raise ValueError(
            f"{path}: its numbers of layers, groups and experts make {blocks:g} blocks, and at most {_MOST_BLOCKS} are "
            "built. Correct them, or give another folder."
        )


def _check_matrices(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse matrices that the weights beside the file are too short for, before memory is asked for them."""
    numbers = dict(_numbers(config))
    width = max((numbers.get(name, 0.0) for name in _WIDTHS), default=0.0)
    forward = max((numbers.get(name, 0.0) for name in _FORWARD_WIDTHS), default=0.0)
    tokens, labels = numbers.get("vocab_size", 0.0), len(config.get("id2label") or ())
    values = tokens * min(width, numbers.get("embedding_size", width)) + width * (width + forward + labels)
    weights = sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))
    if not values <= max(weights, _ALWAYS_BUILT):  # a number takes a byte at least
        raise ValueError(
            f"{path} describes embeddings and layers of {values:g} numbers, but the weights beside it have {weights} "
            "bytes. Give a folder whose config.json and weights belong together."
        )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of every number, those in lists and inner configurations too; lists also give their length."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, list):
            yield name, float(len(value))
            yield from ((name, _float(item)) for item in value if _is_number(item))
        elif _is_number(value):
            yield name, _float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: float) -> float:
    """A whole number of any size as a float: infinity where none is that large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
