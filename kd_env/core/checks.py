"""Checks of single options: type first, then range; each failure names the key, the value and what is allowed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeGuard

from kd_env.core.registry import shown, unknown_name

Check = Callable[[str, Any], None]
"""Takes an option's name and value; raises ``ValueError``."""


def check_fields(prefix: str, options: object, checks: Mapping[str, Check]) -> None:
    """Run every check on the field of its name; ``prefix`` comes before the names in messages."""
    for name, check in checks.items():
        check(prefix + name, getattr(options, name))


def refuse(name: str, value: object, allowed: str) -> NoReturn:
    """Raise the ``ValueError`` of a value that is not allowed."""
    raise ValueError(f"{name}={shown(value)} must be {allowed}.")


def optional(check: Check) -> Check:
    """None, or what ``check`` allows."""

    def run(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return run


def one_of(*valid: str) -> Check:
    """One of some names."""

    def run(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in valid:
            raise ValueError(unknown_name(f"value of {name}:", value, valid))

    return run


def whole(low: int, high: int = 2**63 - 1) -> Check:
    """An integer of at least ``low`` and at most ``high``; True and 2.0 are none."""

    def run(name: str, value: Any) -> None:
        if not is_whole(value, low) or value > high:
            limit = f" and at most {high}" if isinstance(value, int) and value >= low else ""
            refuse(name, value, f"a whole number of at least {low}{limit}")

    return run


def positive(name: str, value: Any) -> None:
    """A finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        refuse(name, value, "above 0 and finite")


def clipping(name: str, value: Any) -> None:
    """A finite number above 0, or None; 0 is told apart, since it does not do what it seems to say."""
    if is_number(value) and value == 0:
        raise ValueError(
            f"{name}={value!r} would scale every gradient to 0, so that no update learned anything; it must be above 0 "
            "and finite, and null (None) means no clipping."
        )
    if value is not None:
        positive(name, value)


def within(low: float, high: float = math.inf) -> Check:
    """A finite number in ``[low, high]``."""

    def run(name: str, value: Any) -> None:
        if not is_number(value) or not low <= value <= high or value == math.inf:
            refuse(name, value, f"a finite number in [{low}, {high}]")

    return run


def mask_rate(name: str, value: Any) -> None:
    """A share of masked tokens, strictly between 0 and 1."""
    if not is_number(value) or not 0 < value < 1:
        refuse(name, value, "strictly between 0 and 1 (0 masks nothing, 1 leaves nothing to predict from)")


def boolean(name: str, value: Any) -> None:
    """True or False; texts and numbers are neither."""
    if not isinstance(value, bool):
        refuse(name, value, "true or false")


def text(name: str, value: Any) -> None:
    """A string."""
    if not isinstance(value, str):
        refuse(name, value, "a text")


def filled(name: str, value: Any) -> None:
    """A string with something in it."""
    if not isinstance(value, str) or not value.strip():
        hint = f"; write {name}=\"'{value}'\"" if is_number(value) else ""
        refuse(name, value, f"a text that is not empty{hint}")


def mapping(name: str, value: Any) -> None:
    """A mapping with texts as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        refuse(name, value, "a mapping from names to values")


def names(example: str, *, mappings: bool = False) -> Check:
    """A list of names that is not empty; with ``mappings``, entries with options are allowed too."""

    def run(name: str, value: Any) -> None:
        if not isinstance(value, list | tuple):
            hint = f"; write [{value!r}]" if isinstance(value, str) else f", for example ['{example}']"
            raise ValueError(f"{name}={value!r} must be a list{hint}.")
        if not value:
            raise ValueError(f"{name} is empty; name at least one, for example ['{example}'].")
        for entry in value:
            if not isinstance(entry, str) and not (mappings and isinstance(entry, Mapping)):
                refuse(f"{name} entry", entry, "a name" + (", or a mapping with name and options" if mappings else ""))

    return run


def layer_numbers(low: int, length: int | None = None) -> Check:
    """A name, or a list of layer numbers from ``low``; with ``length``, a list of groups of so many."""

    def run(name: str, value: Any) -> None:
        if isinstance(value, str):
            return
        groups = [value] if length is None else value
        if not isinstance(groups, list | tuple) or not all(is_group(group) for group in groups):
            entries = "layer numbers" if length is None else "pairs [student layer, teacher layer] of whole numbers"
            refuse(name, value, f"a name or a list of {entries} from {low}")

    def is_group(group: Any) -> bool:
        fits = isinstance(group, list | tuple) and length in (None, len(group))
        return fits and all(is_whole(layer, low) for layer in group)

    return run


def pair_of_rates(name: str, value: Any) -> None:
    """Two numbers in [0, 1)."""
    fits = isinstance(value, list | tuple) and len(value) == 2
    if not fits or not all(is_number(rate) and 0 <= rate < 1 for rate in value):
        refuse(name, value, "two numbers in [0, 1)")


def is_whole(value: object, low: int) -> bool:
    """Whether ``value`` is an integer (no bool) of at least ``low`` that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a float, or an int (no bool) that a float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float)
