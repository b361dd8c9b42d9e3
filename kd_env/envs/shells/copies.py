"""Copies of environments: whole ones in this process, and options with a state across processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

from kd_env.envs.shells.replicas import EnvState, Replicas


class Copied:
    """An environment that :mod:`copy` copies whole, and :mod:`pickle` as its options and its state.

    Models are not pickled: they are loaded anew from where the options say, and a state of another problem (data or a
    teacher that changed since) is refused as in ``set_state``.
    """

    run: Replicas[Any]

    def arguments(self) -> dict[str, Any]:
        """Keywords that make this environment again."""
        options: dict[str, Any] = self.run.problem.config.to_dict()
        return options

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        state = None if self.run.state is None else self.run.get_state()
        return _made_again, (type(self), self.arguments(), state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


def _made_again(kind: type[Any], arguments: dict[str, Any], state: EnvState | None) -> Any:
    env = kind(**arguments)
    if state is not None:
        env.run.set_state(state)
    return env
