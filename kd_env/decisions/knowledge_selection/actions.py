"""Action models: raw actions of N replicas -> :class:`Effect`, in a native, a discrete and a box view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from kd_env.core.registry import unknown_name
from kd_env.decisions.gate import decode_gate, encode_gate
from kd_env.mdp.state import Effect


@dataclass(frozen=True)
class KnowledgeSelectionActions:
    """Which knowledge terms the student learns from in the next step (KS; Wang et al. 2022, methods.md section 3).

    ========== ============================ ==================================================================
    view       space                        effect
    ========== ============================ ==================================================================
    native     ``MultiBinary(K)``           weight 1 for the chosen terms, 0 for the others (hard selection)
    discrete   ``Discrete(K + 2)``          none, each term alone, all
    box        ``Box(-1, 1, (K [+ 1],))``   soft weights (a + 1) / 2; the last component, with ``gate``, skips the
                                            update below -0.5 and else scales it by (g + 1) / 2
    ========== ============================ ==================================================================

    Attributes:
        term_names: the K terms in the order of the table's columns.
        view: ``native``, ``discrete`` or ``box``.
        gate: box view only.
        present: ``[T, K]`` bool, existing entries of the table: a term's weight holds for every teacher. None: one
            teacher and every entry.
    """

    term_names: tuple[str, ...]
    view: str
    gate: bool
    present: np.ndarray | None = None

    @property
    def gated(self) -> bool:
        """Whether the action has a gate component."""
        return self.gate and self.view == "box"

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the components (native, box) or of the choices (discrete)."""
        if self.view == "discrete":
            return ("none", *self.term_names, "all")
        return (*self.term_names, "gate") if self.gated else self.term_names

    @property
    def space(self) -> spaces.Space[Any]:
        """Action space of one replica."""
        if self.view == "discrete":
            return spaces.Discrete(len(self.term_names) + 2)
        if self.view == "box":
            return spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)
        return spaces.MultiBinary(len(self.term_names))

    def decode(self, raw: np.ndarray) -> Effect:
        """Effect of raw actions of the space, ``[N, ...]``, one per replica."""
        count = len(self.term_names)
        scale = np.ones(len(raw), dtype=np.float32)
        if self.view == "discrete":
            table = np.vstack([np.zeros(count), np.eye(count), np.ones(count)]).astype(np.float32)
            weights = table[raw]
        elif self.view == "native":
            weights = raw.astype(np.float32)
        else:
            weights = ((raw[:, :count] + 1.0) / 2.0).astype(np.float32)
            if self.gated:
                scale = decode_gate(raw[:, count])
        if self.present is None:
            return Effect(weights[:, None, :, None], scale)
        return Effect(np.where(self.present, weights[:, None, :], np.float32(0.0))[..., None], scale)

    def encode(self, weights: Mapping[str, float], gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica for weights in [0, 1] by term name (missing: 0).

        Args:
            weights: term name -> weight.
            gate: factor on the update, 0 (skip) or in [0.25, 1]; any but 1 needs the box view with its gate.

        Raises:
            ValueError: an unknown term, a weight outside [0, 1], or an effect that this view cannot express.
        """
        for name, weight in weights.items():
            if name not in self.term_names:
                raise ValueError(unknown_name("knowledge term", name, self.term_names))
            if not 0.0 <= weight <= 1.0:
                raise ValueError(f"The weight of {name!r} is {weight!r}; it must lie in [0, 1].")
        values = np.array([weights.get(name, 0.0) for name in self.term_names], dtype=np.float32)
        if gate != 1.0 and not self.gated:
            raise ValueError(f"gate={gate} needs action_view='box' with gate=true; this view is {self.view!r}.")
        if self.view == "box":
            return np.concatenate([2.0 * values - 1.0, encode_gate(gate, self.gated)]).astype(np.float32)
        if not np.isin(values, (0.0, 1.0)).all():
            raise ValueError(
                f"The {self.view} view has weights 0 and 1 only, got {dict(weights)}; use action_view='box'."
            )
        if self.view == "native":
            return values.astype(np.int8)
        chosen = int(values.sum())
        if chosen == len(values):
            return np.asarray(len(values) + 1)
        if chosen > 1:
            raise ValueError(
                f"The discrete view has none, each term alone and all, not {dict(weights)}; use action_view='native'."
            )
        return np.asarray(0 if chosen == 0 else 1 + int(values.argmax()))
