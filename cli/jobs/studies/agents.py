"""Agents of a study as overrides of the main job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cli.settings.options import names_of
from kd_env.core.registry import unknown_name

_ENTRY_KEYS = ("name", "label", "options", "env", "from")
"""Of an entry of ``agents`` that is more than a name."""


def read_agents(given: Any) -> list[list[str]]:
    """Overrides of the main job for each agent of a study.

    Args:
        given: preset names, or mappings with ``name, label, options, env, from``.

    Raises:
        ValueError: anything else, or one agent twice.
    """
    items = given if isinstance(given, list) else [given]
    plain = [item for item in items if not isinstance(item, Mapping)]
    if plain or not items:
        names_of("agents", plain)
    return [agent_overrides(item) if isinstance(item, Mapping) else [f"agent={quoted(item)}"] for item in items]


def agent_overrides(item: Mapping[Any, Any]) -> list[str]:
    """Overrides of one mapping; raises as :func:`read_agents`."""
    for key in item:
        if key not in _ENTRY_KEYS:
            raise ValueError(unknown_name(f"key of the agent {item.get('name')!r}:", str(key), _ENTRY_KEYS))
    if not isinstance(item.get("name"), str):
        raise ValueError(
            f"agents holds {dict(item)}; write a name, or {{name: sb3/ppo, label: ..., options: {{...}}, "
            "env: {...}}."
        )
    found = [f"agent={quoted(item['name'])}"]
    for key, section in (("options", "agent.options"), ("env", "env")):
        values = item.get(key, {})
        if not isinstance(values, Mapping):
            raise ValueError(
                f'agents holds {dict(item)}: {key} must hold options by name, as "{key}: {{name: value}}".'
            )
        found += [f"{section}.{name}={quoted(value)}" for name, value in values.items()]
    found += [f"agent.{key}={quoted(item[key])}" for key in ("label", "from") if item.get(key) is not None]
    return found


def quoted(value: object) -> str:
    """A value as Hydra reads it back."""
    if value is None or isinstance(value, list | Mapping):
        return _flow(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if re.fullmatch(r"[\w./~-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _flow(value: Any) -> str:
    """Lists and mappings as Hydra reads them."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_flow, value)) + "]"
    return "null" if value is None else quoted(value)
