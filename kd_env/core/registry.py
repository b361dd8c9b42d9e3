"""Names to objects: unique, with near matches in errors, and open to plug-ins through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from kd_files.plugins import Check, add_plugins, check_loads

T = TypeVar("T")


def shown(value: object) -> str:
    """A value as messages write it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"<{type(value).__name__} of too many digits>"
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Message for a name that does not exist: the value, near matches and every valid name."""
    names = sorted(valid)
    near = get_close_matches(name, names, n=3, cutoff=0.5) if isinstance(name, str) else []
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"Unknown {kind} {shown(name)}.{hint} Valid: {', '.join(names) or '(none)'}."


class Registry(Generic[T]):
    """A mapping from unique names to objects of one kind.

    Args:
        kind: what the names stand for, used in messages ("knowledge term").
        group: entry-point group; distributions that declare entry points in it are imported on the first look-up, so
            that a plug-in needs no import by the user. One that does not load is told of in a warning, and its name
            refused with the cause.
        check: of what a plug-in must be (:mod:`kd_files.plugins`); None takes anything.
    """

    def __init__(self, kind: str, group: str, check: Check | None = None) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an object under ``name``; raises ``ValueError`` if the name is taken."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"The {self.kind} {name!r} is already registered; choose another name.")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> T:
        self._load_plugins()
        if not isinstance(name, str) or name not in self._items:
            check_loads(self.group, self.kind, name)
            raise ValueError(unknown_name(self.kind, name, self._items))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return isinstance(name, str) and name in self._items

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._items))

    def _load_plugins(self) -> None:
        if not self._loaded:
            self._loaded = True  # first: a plug-in's module may look up another name while it is imported
            add_plugins(self._items, self.group, self._check)
