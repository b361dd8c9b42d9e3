"""The names of packages in a checkout and in an installed wheel: both are understood in both, once kd_env is imported.

A wheel has no package of a common name such as ``agents``: there it is ``kd_env_agents``. ``import agents`` gives that
one, with a warning, unless another distribution has an ``agents`` of its own; ``import kd_env_agents`` gives ``agents``
in a checkout.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PREFIX = "kd_env_"
_NAMES = ("agents", "cli", "configs")


class _Same(Loader):
    """Gives a module that is there under another name."""

    def __init__(self, real: str) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, imported under its own name."""
        module = import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run twice; its specification stays that of its own name."""
        module.__spec__ = self._spec


class Renamed(MetaPathFinder):
    """Finds packages under the name of a checkout or of a wheel where only the other one is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of one of the renamed packages, or of a module below it; None for any other."""
        top, dot, rest = fullname.partition(".")
        common = top.removeprefix(_PREFIX)
        if common not in _NAMES:
            return None
        other = common if top != common else _PREFIX + common
        if dot:
            # Before other finders: they would make second copies of the modules, with classes of their own.
            same = getattr(sys.modules.get(top), "__name__", None) == other
            return ModuleSpec(fullname, _Same(f"{other}.{rest}"), is_package=True) if same else None
        if self._is_there(top) or not self._is_there(other):
            return None
        if top == common:
            warnings.warn(
                f"The package {common!r} of kd-env is called {other!r} where kd-env is installed: import that one.",
                FutureWarning,
                stacklevel=2,
            )
        return ModuleSpec(fullname, _Same(other), is_package=True)

    def _is_there(self, package: str) -> bool:
        finders = (finder for finder in sys.meta_path if finder is not self)
        return any(finder.find_spec(package, None) is not None for finder in finders)


def understand_both_names() -> None:
    """Take part in the import of modules."""
    if not any(isinstance(finder, Renamed) for finder in sys.meta_path):
        sys.meta_path.insert(0, Renamed())
