"""Where the rows of a batch stand in the observations and actions of an environment that decides about each of them.

Such an env shows ``row_features`` (names in ``observation_layout`` of features ``[B, n]``, one row of the next batch
each), ``batch_size`` (B), and actions of ``B * P`` components, row by row, with a gate behind them in some views. What
does not depend on B, the :class:`RowStructure`, is what a policy that is shared by all rows has to agree with.

Shape letters: B rows, P action components a row, R entries of the features of a row, G entries of the other features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.common import storage
from agents.common.base import ActionSpace, AnyEnv, Spaces, inner_env, spaces_of


class RowFeature(NamedTuple):
    """One feature of the observation."""

    name: str
    width: int  # entries, of each row where it is one of the rows
    per_row: bool


class RowStructure(NamedTuple):
    """What must be the same for a policy to act at another batch size."""

    features: tuple[RowFeature, ...]  # in the order of the observation
    action: ActionSpace  # of one row, P components
    gate: spaces.Box | None  # of the one component behind all rows


@dataclass(frozen=True)
class RowLayout:
    """Rows of one environment."""

    spaces: Spaces
    batch_size: int
    structure: RowStructure

    @cached_property
    def row_index(self) -> NDArray[np.int64]:
        """Components of the observation that hold the features of the rows, ``[B, R]``."""
        parts = [part for part, feature in self._places() if feature.per_row]
        return np.concatenate([part.reshape(self.batch_size, -1) for part in parts], axis=1)

    @cached_property
    def other_index(self) -> NDArray[np.int64]:
        """Components of the observation that belong to no row, ``[G]``."""
        parts = [part for part, feature in self._places() if not feature.per_row]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def _places(self) -> list[tuple[NDArray[np.int64], RowFeature]]:
        features = self.structure.features
        sizes = [feature.width * (self.batch_size if feature.per_row else 1) for feature in features]
        places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        return list(zip(places, features, strict=True))


def find_rows(env: AnyEnv | Spaces | RowLayout, choice: bool | str) -> RowLayout | None:
    """The rows of an env, or None where the policy is to be one for the whole observation.

    Args:
        env: an env, or what a saved agent says of one.
        choice: True, False or ``auto`` (rows where the env has them).

    Raises:
        ValueError: ``choice`` is True and the env has no rows (with what to change), or a layout that is not one of
            rows.
    """
    if isinstance(env, RowLayout):
        return env
    if choice is False:
        return None
    reason = "spaces alone do not tell where the rows are; give the env." if isinstance(env, Spaces) else _misfit(env)
    if not reason:
        assert not isinstance(env, Spaces)
        return read_rows(env)
    if choice is True:
        raise ValueError(f"One policy cannot be shared by all rows: {reason}")
    return None


def read_rows(env: AnyEnv) -> RowLayout:
    """The rows of an env that has some.

    Raises:
        ValueError: features that do not cover the observation, or one of the rows whose first axis is not B.
    """
    base, found = inner_env(env), spaces_of(env)
    rows, batch_size = tuple(base.row_features), int(base.batch_size)
    features, end = [], 0
    for name, place in sorted(base.observation_layout.items(), key=lambda item: int(item[1].start)):
        if place.start != end:
            break
        end = int(place.stop)
        size = end - int(place.start)
        if name in rows and place.shape[0] != batch_size:
            raise ValueError(
                f"The feature {name!r} of the env has the shape {tuple(place.shape)}, but its batches have "
                f"{batch_size} rows; leave it out of row_features."
            )
        features.append(RowFeature(name, size // batch_size if name in rows else size, name in rows))
    if end != found.observation.shape[0]:
        raise ValueError(
            f"observation_layout of the env leaves gaps in the observation of {found.observation.shape[0]} components "
            f"after the feature that ends at {end}; name all of them."
        )
    action = _row_space(found.action, batch_size, _gated(base))
    assert action is not None
    gate = None
    if _gated(base) and isinstance(found.action, spaces.Box):
        gate = spaces.Box(found.action.low[-1:], found.action.high[-1:], dtype=np.float32)
    return RowLayout(found, batch_size, RowStructure(tuple(features), action, gate))


def check_same_rows(saved: RowLayout, env: AnyEnv) -> None:
    """Raise ``ValueError`` naming both where an env has not the rows of a saved agent; another B is no difference."""
    remedy = "make the env with the same features, teachers and action view (the batch size may differ)."
    trained = f"The agent was trained on {describe(saved.structure)}"
    reason = _misfit(env)
    if reason:
        raise ValueError(f"{trained}, but here {reason} Or {remedy}")
    present = read_rows(env).structure
    if present != saved.structure:
        raise ValueError(f"{trained}, the env has {describe(present)}; {remedy}")


def describe(structure: RowStructure) -> str:
    """One line about a structure."""
    rows = [f"{name} [{width}]" for name, width, per_row in structure.features if per_row]
    others = [f"{name} [{width}]" for name, width, per_row in structure.features if not per_row]
    gate = "no gate" if structure.gate is None else "a gate"
    return (
        f"rows of {', '.join(rows)} beside {', '.join(others) or 'nothing'}, with {structure.action} a row and {gate}"
    )


def rows_to_json(layout: RowLayout) -> dict[str, Any]:
    """All but the spaces as plain values."""
    structure = layout.structure
    return {
        "batch_size": layout.batch_size,
        "features": [list(feature) for feature in structure.features],
        "action": storage.space_to_json(structure.action),
        "gate": None if structure.gate is None else storage.space_to_json(structure.gate),
    }


def rows_from_json(data: Mapping[str, Any], pair: Spaces) -> RowLayout:
    """The rows that :func:`rows_to_json` described."""
    features = tuple(RowFeature(str(name), int(width), bool(per_row)) for name, width, per_row in data["features"])
    action: Any = storage.space_from_json(data["action"])
    gate: Any = None if data["gate"] is None else storage.space_from_json(data["gate"])
    return RowLayout(pair, int(data["batch_size"]), RowStructure(features, action, gate))


def _gated(base: Any) -> bool:
    names = tuple(getattr(base, "action_names", ()))
    return bool(names) and names[-1] == "gate"


def _misfit(env: AnyEnv) -> str:
    """Why an env has no rows to share a policy between, with the remedy; empty where it has."""
    base, found = inner_env(env), spaces_of(env)
    # As many components as there are rows would otherwise pass for one a row.
    if refusal := getattr(getattr(base, "decision", None), "shared_refusal", ""):
        return str(refusal)
    if not getattr(base, "row_features", ()):
        return (
            "the env observes no features of single rows (row_features is empty); add some to its features, for "
            "example row_student."
        )
    if _row_space(found.action, int(base.batch_size), _gated(base)) is None:
        return (
            f"its actions {found.action} are not the same components for each of {base.batch_size} rows; make it with "
            "an action view that has components for each row."
        )
    return ""


def _row_space(space: ActionSpace, batch_size: int, gated: bool) -> ActionSpace | None:
    """The action space of one row; None where the rows of ``space`` are not alike."""
    size = int(np.prod(space.shape or (0,))) - int(gated)
    if isinstance(space, spaces.Discrete) or size <= 0 or size % batch_size:
        return None
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(size // batch_size)
    first, second = (space.low, space.high) if isinstance(space, spaces.Box) else (space.nvec, space.start)
    low, high = first[:size].reshape(batch_size, -1), second[:size].reshape(batch_size, -1)
    if (low != low[0]).any() or (high != high[0]).any():
        return None
    if isinstance(space, spaces.Box):
        kind: Any = space.dtype
        return spaces.Box(low[0], high[0], dtype=kind.type)
    return spaces.MultiDiscrete(low[0], start=high[0])
