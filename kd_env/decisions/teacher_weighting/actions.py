"""Actions that weigh teachers: raw actions of N replicas -> :class:`Effect`, for a whole step or for each row of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from kd_env.core.registry import unknown_name
from kd_env.decisions.gate import decode_gate, encode_gate
from kd_env.mdp.state import Effect

SHARPNESS = 4.0
"""Simplex view: weights are softmax(4 a), so that two weights differ by a factor of at most e^8."""


@dataclass(frozen=True)
class TeacherWeightingActions:
    """How much each of T teachers counts in the terms that are weighed (design.md section 2; methods.md 4 and 5).

    With ``weighting=batch`` one weight a teacher holds for all rows of the step, with ``sample`` every row of the next
    batch has its own: components are then ``B * T``, row by row.

    ================= ================================ ==========================================================
    view              space of one row                 weights of the teachers
    ================= ================================ ==========================================================
    simplex, native   ``Box(-1, 1, (T,))``             ``softmax(4 a)``
    subset            ``MultiBinary(T)``               1 / |S| for the chosen S, 0 for the others
    discrete          ``Discrete(T + 2)``, batch only  none, each teacher alone, all of them
    box               ``Box(-1, 1, (T [+ 1],))``       ``(a + 1) / (2 T)``; all ones are the plain average
    ================= ================================ ==========================================================

    An empty subset (or ``none``) gives every weighed entry weight 0: the terms that are not weighed, hard labels by
    default, train alone. With ``fills`` one of them has what the teachers leave, 1 minus the sum of their weights (at
    least 0); the simplex view leaves nothing. The last component of the box view is, with ``gate``, a gate on the whole
    update as in :class:`kd_env.decisions.knowledge_selection.actions.KnowledgeSelectionActions`.

    Attributes:
        teacher_names: the T teachers in the order of the table's rows.
        weighed: ``[T, K]`` bool, entries of the table that the action weighs.
        present: ``[T, K]`` bool, entries that exist; those that are not weighed have weight 1.
        view: ``native``, ``simplex``, ``subset``, ``discrete`` or ``box``.
        gate: box view only.
        rows: B with ``weighting=sample``, None with ``batch``.
        fills: place among the K terms of the one, without a teacher, that has what the teachers leave; None: none has.
    """

    teacher_names: tuple[str, ...]
    weighed: np.ndarray
    present: np.ndarray
    view: str
    gate: bool
    rows: int | None
    fills: int | None = None

    @property
    def gated(self) -> bool:
        """Whether the action has a gate component."""
        return self.gate and self.view == "box"

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the components or, in the discrete view, of the choices; ``<teacher>[<row>]`` for single rows."""
        if self.view == "discrete":
            return ("none", *self.teacher_names, "all")
        names = self.teacher_names
        if self.rows is not None:
            names = tuple(f"{name}[{row}]" for row in range(self.rows) for name in self.teacher_names)
        return (*names, "gate") if self.gated else names

    @property
    def space(self) -> spaces.Space[Any]:
        """Action space of one replica."""
        if self.view == "discrete":
            return spaces.Discrete(len(self.teacher_names) + 2)
        if self.view == "subset":
            return spaces.MultiBinary(len(self.action_names))
        return spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)

    def decode(self, raw: np.ndarray) -> Effect:
        """Effect of raw actions of the space, ``[N, ...]``, one per replica."""
        count, teachers = len(raw), len(self.teacher_names)
        scale = np.ones(count, dtype=np.float32)
        if self.view == "discrete":
            table = np.vstack([np.zeros(teachers), np.eye(teachers), np.full(teachers, 1.0 / teachers)])
            return self.effect(table[raw])
        width = (self.rows or 1) * teachers
        shape = (count, teachers) if self.rows is None else (count, self.rows, teachers)
        values = raw[:, :width].astype(np.float64).reshape(shape)
        if self.view == "subset":
            chosen = values.sum(-1, keepdims=True)
            weights = np.divide(values, chosen, out=np.zeros_like(values), where=chosen > 0)
        elif self.view == "box":
            weights = (values + 1.0) / (2.0 * teachers)
            if self.gated:
                scale = decode_gate(raw[:, width])
        else:
            exponents = np.exp(SHARPNESS * (values - values.max(-1, keepdims=True)))
            weights = exponents / exponents.sum(-1, keepdims=True)
        return self.effect(weights)._replace(update_scale=scale)

    def effect(self, weights: Any) -> Effect:
        """The effect of exactly these teacher weights, whatever the view: a rule may return it in place of actions.

        Args:
            weights: ``[N, T]``, or ``[N, B, T]`` with ``weighting=sample``; at least 0 and finite.

        Raises:
            ValueError: another shape, or a weight that is negative, NaN or infinite.
        """
        teacher_weights = np.asarray(weights, dtype=np.float64)
        count, teachers = teacher_weights.shape[0] if teacher_weights.ndim else 0, len(self.teacher_names)
        shape = (count, teachers) if self.rows is None else (count, self.rows, teachers)
        if teacher_weights.shape != shape:
            raise ValueError(
                f"Teacher weights have shape {teacher_weights.shape}, but weighting needs {('N', *shape[1:])}."
            )
        self._check_weights(teacher_weights)
        row_weights = teacher_weights[:, None, :] if self.rows is None else teacher_weights
        rows = row_weights.transpose(0, 2, 1)[:, :, None, :]  # [N, T, 1, 1 or B]
        fixed = self.present[None, :, :, None].astype(np.float64)
        table = np.where(self.weighed[None, :, :, None], rows, fixed)
        if self.fills is not None:
            table[:, 0, self.fills] = np.maximum(1.0 - rows.sum(axis=1)[:, 0], 0.0)
        return Effect(table.astype(np.float32), np.ones(count, dtype=np.float32))

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica for teacher weights ``[T]``, or ``[B, T]`` with ``weighting=sample``.

        In the simplex view weights are divided by their sum, and what is smaller than e^-8 of the largest becomes that;
        in the subset and discrete views all weights above 0 must be equal.

        Args:
            weights: a mapping by teacher name (missing: 0; for all rows), or an array.
            gate: factor on the update, 0 (skip) or in [0.25, 1]; any but 1 needs the box view with its gate.

        Raises:
            ValueError: an unknown teacher, a weight that is negative, NaN or above the view's range, weights that sum
            to zero in the simplex view, or what this view cannot express.
        """
        values = self._values(weights)
        if self.view != "box" and gate != 1.0:
            raise ValueError(f"gate={gate} needs action_view='box' with gate=true; this view is {self.view!r}.")
        if self.view == "box":
            top = 1.0 / len(self.teacher_names)
            if (values > top + 1e-9).any():
                raise ValueError(
                    f"The box view has weights from 0 to 1/T = {top:.4g}, got {values.max():.4g}; use the simplex or "
                    "subset view."
                )
            raw = np.clip(2.0 * values / top - 1.0, -1.0, 1.0).ravel()
            return np.concatenate([raw, encode_gate(gate, self.gated)]).astype(np.float32)
        if self.view in ("subset", "discrete"):
            return self._encode_choice(values)
        if (values.sum(-1) <= 0).any():
            raise ValueError(
                "Weights that sum to zero have no place in the simplex view; use action_view='subset' or 'box' (no "
                "teacher: hard labels only)."
            )
        with np.errstate(divide="ignore"):
            logs = np.log(values)
        logs = np.maximum(logs, logs.max(-1, keepdims=True) - 2.0 * SHARPNESS)
        middle = (logs.max(-1, keepdims=True) + logs.min(-1, keepdims=True)) / 2.0
        return np.asarray(((logs - middle) / SHARPNESS).ravel().clip(-1.0, 1.0), dtype=np.float32)

    def _encode_choice(self, values: np.ndarray) -> np.ndarray:
        chosen = values > 0
        largest = np.where(chosen, values, 0.0).max(-1, keepdims=True)
        if (chosen & ~np.isclose(values, largest)).any():
            raise ValueError(
                f"The {self.view} view shares the weight equally among the chosen teachers, it cannot express "
                f"{values.tolist()}; use action_view='simplex'."
            )
        if self.view == "subset":
            return chosen.ravel().astype(np.int8)
        count = int(chosen.sum())
        if count == len(self.teacher_names):
            return np.asarray(count + 1)
        if count > 1:
            raise ValueError(
                "The discrete view has none, each teacher alone and all of them; use action_view='subset' for "
                f"{[name for name, on in zip(self.teacher_names, chosen, strict=True) if on]}."
            )
        return np.asarray(0 if count == 0 else 1 + int(chosen.argmax()))

    def _values(self, weights: Any) -> np.ndarray:
        if isinstance(weights, Mapping):
            for name in weights:
                if name not in self.teacher_names:
                    raise ValueError(unknown_name("teacher", name, self.teacher_names))
            weights = [float(weights.get(name, 0.0)) for name in self.teacher_names]
        values = np.asarray(weights, dtype=np.float64)
        shape: tuple[int, ...] = (len(self.teacher_names),)
        if self.rows is not None:
            shape = (self.rows, *shape)
            values = np.broadcast_to(values, shape) if values.ndim == 1 and len(values) == shape[-1] else values
        if values.shape != shape:
            raise ValueError(f"Teacher weights have shape {values.shape}; one replica takes {shape}.")
        self._check_weights(values)
        return values

    def _check_weights(self, values: np.ndarray) -> None:
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise ValueError(
                f"A teacher weight is {values[bad].flat[0]}; weights must be finite and at least 0 (teachers: "
                f"{', '.join(self.teacher_names)})."
            )
