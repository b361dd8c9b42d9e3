"""What installed distributions declare as entry points; one that does not load is named, and the others go on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, MutableMapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Check = Callable[[str, object], None]
"""Raises for what a plug-in of this name must not be."""


class Plugins(NamedTuple):
    """The plug-ins of one group."""

    found: dict[str, object]
    """Objects by name."""
    broken: dict[str, Exception]
    """What stopped the others, by name."""
    places: dict[str, str]
    """By name, where each comes from, in words."""


def plugin_names(group: str) -> tuple[str, ...]:
    """Names that are declared under an entry-point group, sorted; nothing is imported."""
    return tuple(sorted({point.name for point in _declared(group, tuple(sys.path))}))


def load_plugins(group: str) -> Plugins:
    """Everything that is declared under an entry-point group, imported once a process.

    One that raises while it is imported is told of in a warning, and left out.
    """
    return _load(group, tuple(sys.path))


def add_plugins(table: MutableMapping[str, T], group: str, check: Check | None = None) -> None:
    """Add the plug-ins of a group to a table by name; a name that is taken stays, and a warning says so.

    What a plug-in's module has put there itself while it was imported is the same object.

    Args:
        table: by name.
        group: of entry points.
        check: of what they must be; one that is something else counts as one that does not load.
    """
    loaded = load_plugins(group)
    for name, item in list(loaded.found.items()):
        try:
            if check is not None:
                check(name, item)
        except (TypeError, ValueError) as error:
            del loaded.found[name]
            _leave_out(loaded, name, error)
            continue
        present = table.setdefault(name, item)  # type: ignore[arg-type]  # an entry point says no type
        if present is not item:
            _warn_once(
                f"The plug-in {name!r} ({loaded.places[name]}) is left out: {name!r} is taken in {group}; its "
                "distribution has to choose another name."
            )


def check_loads(group: str, kind: str, name: object) -> None:
    """Refuse the name of a plug-in that does not load.

    Args:
        group: of entry points.
        kind: what the name stands for, for the message.
        name: as it was given.

    Raises:
        ValueError: it does not, with what stopped it.
    """
    loaded = load_plugins(group)
    if isinstance(name, str) and name in loaded.broken:
        place, cause = loaded.places[name], loaded.broken[name]
        raise ValueError(f"The {kind} {name!r} is a plug-in that does not load ({place}): {_said(cause)}") from cause


def instance_of(kind: type) -> Check:
    """Refuses what is no object of a class, or says another name of itself than its entry point."""

    def check(name: str, item: object) -> None:
        if not isinstance(item, kind):
            raise TypeError(f"it is {_kind_of(item)}, and must be an object of the class {kind.__name__}.")
        _check_name(name, item)

    return check


def subclass_of(kind: type) -> Check:
    """Refuses what is no class of this kind, or says another name of itself than its entry point."""

    def check(name: str, item: object) -> None:
        if not isinstance(item, type) or not issubclass(item, kind):
            raise TypeError(f"it is {_kind_of(item)}, and must be a class, a {kind.__name__}.")
        _check_name(name, item)

    return check


def function(name: str, item: object) -> None:
    """Refuses what cannot be called."""
    if not callable(item):
        raise TypeError(f"it is {_kind_of(item)}, and must be a function.")


def _kind_of(item: object) -> str:
    return f"the class {item.__name__}" if isinstance(item, type) else f"an object of the class {type(item).__name__}"


def _check_name(name: str, item: object) -> None:
    own = getattr(item, "name", None)
    if isinstance(own, str) and own != name:
        raise ValueError(f"it calls itself {own!r}, and its entry point {name!r}; give them one name.")


@cache
def _declared(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of a group; to read them from every distribution on ``path`` takes milliseconds."""
    return tuple(entry_points(group=group))


@cache
def _load(group: str, path: tuple[str, ...]) -> Plugins:
    loaded = Plugins({}, {}, {})
    for point in _declared(group, path):
        place = _place(point)
        if point.name in loaded.places:
            _warn_once(f"The plug-in {point.name!r} ({place}) is left out: {loaded.places[point.name]} has its name.")
            continue
        loaded.places[point.name] = place
        try:
            loaded.found[point.name] = point.load()
        except Exception as error:  # whatever a stranger's module raises must not stop the others
            _leave_out(loaded, point.name, error)
    return loaded


def _leave_out(loaded: Plugins, name: str, error: Exception) -> None:
    loaded.broken[name] = error
    _warn_once(f"The plug-in {name!r} ({loaded.places[name]}) does not load and is left out: {_said(error)}")


def _place(point: EntryPoint) -> str:
    owner = f" of the distribution {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"entry point {point.value} in {point.group}{owner}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)
