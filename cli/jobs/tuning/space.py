"""What ``kd-env tune`` searches: options of an agent, each with its values or its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_env.core import checks
from kd_env.core.registry import unknown_name

_RANGE = ("low", "high", "log")


def check_space(search: Any) -> None:
    """Refuse a search that is no mapping from options to values or ranges.

    Raises:
        ValueError: with what is allowed.
    """
    checks.mapping("search", search)
    if not search:
        raise ValueError(
            "search is empty: name options of the agent, as search={learning_rate: {low: 1e-4, high: 1e-2, log: true}}."
        )
    for name, spec in search.items():
        if isinstance(spec, Mapping):
            _check_range(f"search.{name}", spec)
        elif not isinstance(spec, list) or len(spec) < 2 or not all(_is_plain(value) for value in spec):
            checks.refuse(f"search.{name}", spec, "a list of at least two plain values, or {low: ..., high: ...}")


def ends(search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sets of options with the first and the last value of each: both have to be allowed."""
    last = {name: spec["high"] if isinstance(spec, Mapping) else spec[-1] for name, spec in search.items()}
    return [{name: spec["low"] if isinstance(spec, Mapping) else spec[0] for name, spec in search.items()}, last]


def distributions(search: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's form of a search."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, spec in search.items():
        if isinstance(spec, list):
            found[name] = CategoricalDistribution(spec)
        else:
            low, high = spec["low"], spec["high"]
            kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
            found[name] = kind(low, high, log=spec.get("log", False))
    return found


def _check_range(name: str, spec: Mapping[str, Any]) -> None:
    for key in spec:
        if key not in _RANGE:
            raise ValueError(unknown_name(f"key of {name}:", str(key), _RANGE))
    low, high = spec.get("low"), spec.get("high")
    if not checks.is_number(low) or not checks.is_number(high) or not low < high:
        checks.refuse(name, dict(spec), "{low: <number>, high: <a higher one>}, and with log: true above 0")
    checks.boolean(f"{name}.log", spec.get("log", False))
    if spec.get("log") and low <= 0:
        checks.refuse(f"{name}.low", low, "above 0 with log: true")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
