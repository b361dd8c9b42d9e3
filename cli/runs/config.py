"""The resolved configuration of a run as YAML: written plainly, and read only as far as it is plain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kd_files.reading import Kinds, check_keys, damaged, read_text

_LARGEST, _DEEPEST = 2**20, 30
"""Bytes of a configuration file, and how deeply its values may be nested; ours have some thousands and five."""
_REMEDY = "copy the run folder again, or choose another"


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))


def read_config(path: Path, schema: Mapping[str, Kinds] | None = None, *, remedy: str = _REMEDY) -> dict[str, Any]:
    """Values that :func:`to_yaml` wrote.

    Aliases, which a few lines of YAML can blow up to any size, are refused before anything is built from them.

    Args:
        path: of the file.
        schema: keys that it must have, with the types of their values.
        remedy: what to do where it cannot be read, for the message.

    Raises:
        DamagedFile: it is no plain YAML mapping, or one of another form.
    """
    import yaml

    text = read_text(path, remedy, largest=_LARGEST)
    try:
        _check_plain(text)
        values = yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise damaged(path, f"no plain YAML: {error}", remedy) from error
    if not isinstance(values, dict):
        raise damaged(path, "it holds no options by name", remedy)
    found = {str(key): value for key, value in values.items()}
    check_keys(path, found, schema or {}, remedy)
    return found


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    found: list[str] = []
    for key in dict.fromkeys([*first, *second]):
        a, b = first.get(key), second.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found


def at(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


@cache
def _loader() -> Any:
    """The parser in C, where it is there, with OmegaConf's form of numbers, whose own takes many times as long."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """As OmegaConf's: 1e-3 is a number, a date is text, and a key stands once."""

        yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """Refuse a key that stands twice."""
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            if len(found) < len(node.value):
                raise ValueError(f"line {node.start_mark.line + 1}: a key stands twice")
            return found

    return Loader


def _check_plain(text: str) -> None:
    """Refuse aliases and deep nesting; raises ``ValueError``, and the library's error where it is no YAML."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1} repeats other values by an alias")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"line {event.start_mark.line + 1} names a type, {tag}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"line {event.start_mark.line + 1} is nested more than {_DEEPEST} deep")
