"""Paths in a configuration are absolute: a run means the same folders wherever it is resumed, judged or compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd_env.data.tasks import TASKS

_FOLDERS = ("runs_dir", "cache_dir", "task.data_dir", "agent.from")
_MODELS = ("teacher.path", "teacher.name_or_path", "student.name_or_path", "env.language_model")
"""Folders, or names of the hub."""
_TEXTS = "env.text"
_TEACHERS = ("teachers", "cofinetuned")
_OF_A_TEACHER = ("path", "name_or_path")


def with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every path absolute, as seen from here."""
    return _changed(config, lambda key, path: absolute(path, always=key in _FOLDERS))


def is_path(key: str) -> bool:
    """Whether a dotted key holds a path, or several: what it is relative to is where its run was started."""
    return key in (*_FOLDERS, *_MODELS, _TEXTS) or key.split(".")[0] in _TEACHERS


def has_moved(key: str, then: object, now: object) -> bool:
    """Whether the value of a key is a path that is not there any more, and another one now is."""
    if key not in (*_FOLDERS, *_MODELS, _TEXTS, "cofinetuned") or not isinstance(then, str) or not isinstance(now, str):
        return False
    return os.path.isabs(then) and not Path(then).exists() and os.path.isabs(now) and Path(now).exists()


def absolute(path: str, *, always: bool = False) -> str:
    """A path as seen from here; what is not there may be a name of the hub, and stays unless ``always``."""
    place = Path(path).expanduser()
    return os.path.abspath(place) if always or place.exists() else path


def _changed(config: Mapping[str, Any], change: Callable[[str, str], str]) -> dict[str, Any]:
    """The configuration with ``change(key, path)`` in the place of every path; keys are dotted, and lists count."""

    def value_of(key: str, value: Any) -> Any:
        if isinstance(value, str) and value and value != "auto" and value not in TASKS:
            return change(key, value)
        if isinstance(value, list):
            return [value_of(f"{key}.{place}", item) for place, item in enumerate(value)]
        if isinstance(value, Mapping) and key.split(".")[0] in _TEACHERS:
            return {
                name: value_of(f"{key}.{name}", item) if name in _OF_A_TEACHER else item for name, item in value.items()
            }
        return value

    found = dict(config)
    for key in (*_FOLDERS, *_MODELS, _TEXTS, *_TEACHERS):
        *section, name = key.split(".")
        values = found.get(section[0]) if section else found
        if isinstance(values, Mapping) and name in values:
            changed = {**values, name: value_of(key, values[name])}
            found = {**found, section[0]: changed} if section else changed
    return found
