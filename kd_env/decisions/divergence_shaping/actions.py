"""Actions that say how soft labels are compared: raw actions of N replicas -> :class:`Effect`, for a step or by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from kd_env.core.registry import unknown_name
from kd_env.core.types import Floats
from kd_env.decisions.gate import decode_gate, encode_gate
from kd_env.knowledge.labels import REVERSE_SHARE, SOFT_TEMPERATURE
from kd_env.knowledge.options import TEMPERATURES
from kd_env.mdp.state import Effect

SHAPES = (SOFT_TEMPERATURE, REVERSE_SHARE)


@dataclass(frozen=True)
class DivergenceShapingActions:
    """How the student's distribution is compared with the teacher's in every term ``soft_label``.

    ``soft_temperature`` is its temperature tau, ``reverse_share`` the r of
    ``(1 - r) KL(p_T || p_S) + r KL(p_S || p_T)``. Of a raw number ``a`` in [-1, 1], ``tau`` is
    ``low (high / low)^((a + 1) / 2)`` and ``r`` is ``(a + 1) / 2``. All terms keep weight 1. For P of the two that are
    shaped, with ``weighting=sample`` row by row:

    ========== =========================== =====================================================================
    view       space                       what it says
    ========== =========================== =====================================================================
    native     ``Box(-1, 1, (P,))``        the numbers
    box        ``Box(-1, 1, (P [+ 1],))``  the same, and with ``gate`` a gate on the whole update as in
                                           :mod:`kd_env.decisions.gate`
    discrete   ``Discrete(3^P)``           each at its least, middle (of tau the geometric mean) and largest;
                                           ``weighting=batch`` only
    ========== =========================== =====================================================================

    Attributes:
        shapes: which of :data:`SHAPES` the action says, in that order.
        limits: least and largest temperature of actions.
        present: ``[T, K]`` bool, entries of the loss table that exist.
        view: ``native``, ``box`` or ``discrete``.
        gate: box view only.
        rows: B with ``weighting=sample``, None with ``batch``.
    """

    shapes: tuple[str, ...]
    limits: tuple[float, float]
    present: NDArray[np.bool_]
    view: str
    gate: bool
    rows: int | None

    @property
    def gated(self) -> bool:
        """Whether the action has a gate component."""
        return self.gate and self.view == "box"

    @property
    def choices(self) -> Floats:
        """Raw numbers of the choices in the discrete view, ``[3^P, P]``."""
        return np.array(list(product((-1.0, 0.0, 1.0), repeat=len(self.shapes))))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the components, ``soft_temperature[<row>]`` of single rows, or of the choices."""
        if self.view == "discrete":
            said = [self._said(name, self.choices[:, place]) for place, name in enumerate(self.shapes)]
            return tuple(
                " ".join(f"{name}={values[choice]:.3g}" for name, values in zip(self.shapes, said, strict=True))
                for choice in range(len(self.choices))
            )
        names = self.shapes
        if self.rows is not None:
            names = tuple(f"{name}[{row}]" for row in range(self.rows) for name in self.shapes)
        return (*names, "gate") if self.gated else names

    @property
    def space(self) -> spaces.Space[Any]:
        """Action space of one replica."""
        if self.view == "discrete":
            return spaces.Discrete(len(self.choices))
        return spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)

    def decode(self, raw: NDArray[Any]) -> Effect:
        """Effect of raw actions of the space, ``[N, ...]``, one per replica."""
        if self.view == "discrete":
            numbers, gates = self.choices[raw], None
        else:
            width = (self.rows or 1) * len(self.shapes)
            numbers = raw[:, :width].astype(np.float64).reshape(len(raw), *self._shape, len(self.shapes))
            gates = raw[:, width] if self.gated else None
        effect = self.effect({name: self._said(name, numbers[..., place]) for place, name in enumerate(self.shapes)})
        return effect if gates is None else effect._replace(update_scale=decode_gate(gates))

    def effect(self, values: Mapping[str, Any]) -> Effect:
        """The effect of exactly these values, which a rule may return in place of actions.

        Args:
            values: by name, all that are shaped: ``[N]``, or ``[N, B]`` with ``weighting=sample``. Temperatures are
                those of the term (0.05 to 100) and may lie outside the limits of actions, shares in [0, 1].

        Raises:
            ValueError: a name that is missing or not shaped, another shape, or a value that is not allowed.
        """
        numbers = self._checked(values)
        count = len(next(iter(numbers.values())))
        for name, value in numbers.items():
            if value.shape != (count, *self._shape):
                raise ValueError(f"{name} has shape {value.shape}, but weighting needs {('N', *self._shape)}.")
        table = np.broadcast_to(self.present[None, :, :, None], (count, *self.present.shape, 1)).astype(np.float32)
        return Effect(table, np.ones(count, np.float32), given=numbers)

    def encode(self, values: Mapping[str, Any], gate: float = 1.0) -> NDArray[Any]:
        """Raw action of one replica for values by name, one number each or ``[B]`` with ``weighting=sample``.

        Args:
            values: all that are shaped; temperatures within the limits of actions.
            gate: factor on the update, 0 (skip) or in [0.25, 1]; any but 1 needs the box view with its gate.

        Raises:
            ValueError: as :meth:`effect`, a temperature outside the limits, or what the discrete view has not.
        """
        low, high = self.limits
        numbers = []
        for name, value in self._checked(values).items():
            if value.shape not in ((), self._shape):
                raise ValueError(f"{name} has shape {value.shape}; one replica takes {self._shape or 'one number'}.")
            if name == SOFT_TEMPERATURE:
                outside = (value < low * (1 - 1e-9)) | (value > high * (1 + 1e-9))
                if outside.any():
                    raise ValueError(
                        f"A {name} of {value[outside].flat[0]:.4g} is outside temperature_range=[{low:g}, {high:g}]; "
                        "make the env with a wider range, or give the effect itself."
                    )
                value = np.log(value / low) / np.log(high / low)
            numbers.append(np.broadcast_to(2.0 * value - 1.0, self._shape))
        raw = np.stack(numbers, axis=-1)
        if self.view != "discrete":
            return np.concatenate([raw.clip(-1.0, 1.0).ravel(), encode_gate(gate, self.gated)]).astype(np.float32)
        encode_gate(gate, False)
        found = np.flatnonzero(np.isclose(self.choices, raw, atol=1e-6).all(-1))
        if not len(found):
            raise ValueError(
                f"The discrete view has {', '.join(self.action_names)}, not {dict(values)}; use action_view='native'."
            )
        return np.asarray(int(found[0]))

    @property
    def _shape(self) -> tuple[int, ...]:
        return () if self.rows is None else (self.rows,)

    def _said(self, name: str, raw: Floats) -> Floats:
        """Values of raw numbers in [-1, 1]."""
        low, high = self.limits
        share = (raw + 1.0) / 2.0
        return np.asarray(low * (high / low) ** share if name == SOFT_TEMPERATURE else share)

    def _checked(self, values: Mapping[str, Any]) -> dict[str, Floats]:
        if not isinstance(values, Mapping):
            raise ValueError(f"values={values!r} must be numbers by name; here {', '.join(self.shapes)}.")
        for name in values:
            if name not in self.shapes:
                raise ValueError(unknown_name("shaped number", name, self.shapes))
        if missing := [name for name in self.shapes if name not in values]:
            raise ValueError(f"{missing[0]} is missing in {dict(values)}; give {', '.join(self.shapes)}.")
        numbers = {name: np.array(values[name], dtype=np.float64) for name in self.shapes}
        for name, value in numbers.items():
            low, high = TEMPERATURES if name == SOFT_TEMPERATURE else (0.0, 1.0)
            good = (value >= low) & (value <= high)
            if not good.all():  # NaN is neither
                raise ValueError(f"A {name} is {value[~good].flat[0]}; it must be from {low:g} to {high:g}.")
        return numbers
