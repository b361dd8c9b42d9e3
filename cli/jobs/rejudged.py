"""The configuration of a run that is judged again: what its ``config.yaml`` says, and what is asked to be other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cli.runs.config import at, differences
from cli.runs.folder import OVERRIDES
from cli.runs.former import with_former_defaults
from cli.runs.paths import is_path
from cli.settings.compose import OPEN, compose
from cli.settings.presets import NO_EXPERIMENT
from cli.settings.read import read_settings

_PLACES = (
    *("name", "runs_dir", "resume", "progress", "threads", "checkpoint_every", "pause", "save_students", "presets"),
    *("logger", "logger_project"),
)
"""Keys that say nothing about what is judged."""


def composed_again(before: Mapping[str, Any], first: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """What the overrides of a run and of its evaluation compose today; raises ``ValueError`` where they do not fit."""
    return compose("config", merge_overrides(with_experiment(before, first), given))


def rejudged(
    before: Mapping[str, Any], first: Sequence[str], given: Sequence[str], composed: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The configuration under which the policy of a run is judged, and what its overrides alone would have changed.

    The overrides of a run say which presets it had; what these mean, and what holds where nothing was chosen, may be
    other today. So they tell only what ``given`` changes, and all else is as the run had it.

    Args:
        before: resolved configuration of the run.
        first: overrides of the run.
        given: overrides of the evaluation.
        composed: of both, by :func:`composed_again`.

    Returns:
        The configuration, and in words each option that ``first`` alone would set otherwise.

    Raises:
        ValueError: an option that does not fit.
    """
    before = with_former_defaults(before)
    then, now = (read_settings(values).resolved for values in (composed_again(before, first, []), composed))
    named = {_key(text) for text in given}
    told = [
        f"{key} ({at(before, key)!r} there, {at(then, key)!r} by {OVERRIDES})"
        for key in differences(then, before)
        if key.split(".")[0] not in _PLACES and not is_path(key) and key not in named and at(then, key) is not None
    ]
    return _changed(before, then, now, named), told


def _changed(before: Any, then: Any, now: Mapping[str, Any], named: set[str], prefix: str = "") -> dict[str, Any]:
    """``before``, with what is other ``now`` than ``then`` and with what is named."""
    found: dict[str, Any] = {}
    for key, value in now.items():
        name = f"{prefix}{key}"
        inner = all(isinstance(each, Mapping) for each in (value, before.get(key), then.get(key)))
        if key not in before or any(name == each or name.startswith(f"{each}.") for each in named):
            found[key] = value
        elif inner and name not in OPEN:
            found[key] = _changed(before[key], then[key], value, named, f"{name}.")
        else:
            found[key] = before[key] if value == then.get(key) else value
    return found


def with_experiment(before: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """The overrides of a run with the experiment that it had by default, which is another one on another task.

    Args:
        before: resolved configuration of the run; in earlier versions the default was none.
        overrides: of the run.
    """
    if names_key(overrides, "experiment"):
        return list(overrides)
    return [f"experiment={before.get('presets', {}).get('experiment', NO_EXPERIMENT)}", *overrides]


def merge_overrides(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Both in order; a key of the second list replaces the same key of the first."""
    replaced = {_key(text) for text in second}
    return [*(text for text in first if _key(text) not in replaced), *second]


def names_key(overrides: Sequence[str], key: str) -> bool:
    """Whether one of the overrides sets ``key``."""
    return any(_key(text) == key for text in overrides)


def names_section(overrides: Sequence[str], section: str) -> bool:
    """Whether one of the overrides sets something in a section, or chooses its preset."""
    return any(_key(text).split(".")[0] == section for text in overrides)


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+")
