"""Actions that weigh the rows of a batch: raw actions of N replicas -> :class:`Effect`, row by row or by a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from kd_env.core.registry import unknown_name
from kd_env.mdp.state import Effect, TeacherEffect
from kd_env.mdp.teaching.teacher_gradient import TARGETS

TILT = 2.0
"""Box view: weights of kept rows grow by e^2 for each standard deviation of the score, at temperature 1."""
SHARES = (("half", 0.5), ("quarter", 0.25))
"""Discrete view: shares of the batch that can be kept, from either end of the score."""


@dataclass(frozen=True)
class SampleWeightingActions:
    """How much each of the B rows of the next batch counts in the student's or the teacher's update.

    Of the student (design.md section 2), the weight of a row multiplies all its losses: of every term and every
    teacher. Of a teacher that learns (``teacher_updates=weighted``) it multiplies the row's auxiliary loss, and the
    student learns from every row alike.

    ======== =================== ==================================================================================
    view     space               weights of the rows
    ======== =================== ==================================================================================
    native   ``Box(-1,1,(B,))``  ``a + 1``, in [0, 2]: a higher action is a higher weight, zeros are the plain run
    subset   ``MultiBinary(B)``  ``B / kept`` for the rows that are kept, 0 for the others
    discrete ``Discrete(6)``     none, all, or the half or quarter of the rows that is lowest or highest in the score
    box      ``Box(-1,1,(2,))``  ``keep``: a share ``(a + 1) / 2`` of the rows is kept, rounded to whole rows;
                                 ``temperature``: a kept row has a weight in proportion to ``exp(2 a z)``, z its score
                                 in standard deviations from the mean of the batch
    ======== =================== ==================================================================================

    In all but the native view the mean weight of the batch is 1, unless no row is kept: then all weights are 0, and
    the step skips its update. The box view keeps rows of high score first where ``a >= 0``, and of low score first
    elsewhere; equal rows in their order. Higher weights in it are thus always those of rows that are kept sooner.

    Attributes:
        rows: B.
        present: ``[T, K]`` bool, entries of the loss table that exist; all of them are weighed.
        view: ``native``, ``subset``, ``discrete`` or ``box``.
        score: what ranks the rows in the discrete and box view, see :mod:`kd_env.decisions.sample_weighting.scores`.
        teacher_updates: ``none``, ``prokt`` (the teacher learns, the student's update is weighed) or ``weighted``.
    """

    rows: int
    present: np.ndarray
    view: str
    score: str
    teacher_updates: str = "none"

    @property
    def ranks(self) -> bool:
        """Whether actions rank the rows by their score."""
        return self.view in ("discrete", "box")

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the components, ``weight[<row>]`` for single rows, or of the choices in the discrete view."""
        if self.view == "box":
            return (f"keep by {self.score}", f"temperature of {self.score}")
        if self.view == "discrete":
            choices = [f"{end} {share} of {self.score}" for share, _ in SHARES for end in ("lowest", "highest")]
            return ("none", "all", *choices)
        return tuple(f"weight[{row}]" for row in range(self.rows))

    @property
    def space(self) -> spaces.Space[Any]:
        """Action space of one replica."""
        if self.view == "discrete":
            return spaces.Discrete(len(self.action_names))
        if self.view == "subset":
            return spaces.MultiBinary(self.rows)
        return spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)

    def decode(self, raw: np.ndarray, scores: np.ndarray | None = None) -> Effect:
        """Effect of raw actions of the space, ``[N, ...]``, one per replica.

        Args:
            raw: raw actions.
            scores: ``[N, B]`` of the rows, finite; needed in the discrete and box view.

        Raises:
            ValueError: scores that are missing.
        """
        if self.view == "native":
            return self.effect(raw.astype(np.float64) + 1.0)
        if self.view == "subset":
            return self.effect(mean_one(raw.astype(np.float64)))
        if scores is None or scores.shape != (len(raw), self.rows):
            shape = None if scores is None else scores.shape
            raise ValueError(f"The {self.view} view ranks {self.rows} rows: it needs scores [N, B], got {shape}.")
        if self.view == "discrete":
            return self.effect(np.stack([self._choice(int(c), s) for c, s in zip(raw, scores, strict=True)]))
        shares, temperatures = (raw[:, 0].astype(np.float64) + 1.0) / 2.0, raw[:, 1].astype(np.float64)
        kept = np.rint(shares * self.rows).astype(np.int64)
        preferred = np.where(temperatures >= 0, 1.0, -1.0)[:, None] * scores
        tilt = TILT * temperatures[:, None] * standardized(scores)
        # The largest exponent is that of a kept row: rows that are preferred have the larger ones.
        powers = np.exp(tilt - tilt.max(-1, keepdims=True))
        return self.effect(mean_one(np.where(first_ranks(preferred) < kept[:, None], powers, 0.0)))

    def effect(self, weights: Any) -> Effect:
        """The effect of exactly these weights, whatever the view: a rule may return it in place of actions.

        Args:
            weights: ``[N, B]``; at least 0 and finite. Where all of a replica's are 0 its update is skipped.

        Raises:
            ValueError: another shape, or a weight that is negative, NaN or infinite.
        """
        row_weights = np.asarray(weights, dtype=np.float64)
        if row_weights.ndim != 2 or row_weights.shape[1] != self.rows:
            raise ValueError(f"Weights of rows have shape {row_weights.shape}, but batches need {('N', self.rows)}.")
        self._check_weights(row_weights)
        if self.teacher_updates == "weighted":
            return self.lesson(row_weights, 0.0, TARGETS[0])
        table = self.present[None, :, :, None] * row_weights[:, None, None, :]
        return Effect(table.astype(np.float32), np.ones(len(row_weights), dtype=np.float32))

    def lesson(self, weights: Any, influence: float, target: str, matched: bool = False) -> Effect:
        """The effect of weights in a learning teacher's update, with the influence gradient beside them.

        The student learns from every row alike. The teacher moves along ``d + c h``, see
        :mod:`kd_env.mdp.teaching.teacher_gradient`.

        Args:
            weights: ``[N, B]`` of the rows' auxiliary losses, at least 0 and finite; all 0 leaves them out.
            influence: c, at least 0 and finite; 0 leaves the influence out.
            target: ``student_loss`` or ``teacher_loss``.
            matched: whether h is first scaled to the norm of d, so that c is their ratio; needs weights above 0.

        Raises:
            ValueError: the teacher does not learn, or a value that is not allowed.
        """
        if self.teacher_updates == "none":
            raise ValueError(
                "The teacher of this env does not learn (teacher_updates='none'), so that nothing can be said of its "
                "update; make the env with teacher_updates='prokt' or 'weighted' and teacher_source='online'."
            )
        row_weights = np.asarray(weights, dtype=np.float64)
        if row_weights.ndim != 2 or row_weights.shape[1] != self.rows:
            raise ValueError(f"Weights of rows have shape {row_weights.shape}, but batches need {('N', self.rows)}.")
        self._check_weights(row_weights)
        if not 0.0 <= influence <= np.finfo(np.float32).max:
            raise ValueError(f"influence={influence!r} must be finite and at least 0.")
        if target not in TARGETS:
            raise ValueError(unknown_name("influence target", target, TARGETS))
        if matched and influence > 0 and not row_weights.any(-1).all():
            raise ValueError("matched=True scales the influence to the auxiliary loss, but all weights of it are 0.")
        count = len(row_weights)
        table = np.broadcast_to(self.present[None, :, :, None], (count, *self.present.shape, 1)).astype(np.float32)
        factors = np.full(count, influence, np.float32)
        teacher = TeacherEffect(row_weights.astype(np.float32), factors, matched, target)
        return Effect(table, np.ones(count, dtype=np.float32), teacher)

    def encode(self, weights: Any) -> np.ndarray:
        """Raw action of one replica for weights ``[B]``.

        Raises:
            ValueError: another shape, a weight that is negative, NaN or infinite, or what this view cannot express:
            native more than 2, subset anything but ``B / kept`` and 0, discrete and box anything but all 1 or all 0.
        """
        if isinstance(weights, Mapping):
            raise ValueError(
                f"The actions of this env are weights of rows, not by name: {dict(weights)}; give [B] numbers."
            )
        values = np.asarray(weights, dtype=np.float64)
        if values.shape != (self.rows,):
            raise ValueError(f"Weights of rows have shape {values.shape}; one replica takes {(self.rows,)}.")
        self._check_weights(values)
        if self.view == "native":
            if (values > 2.0).any():
                raise ValueError(f"The native view has weights from 0 to 2, got {values.max():.4g}; use sample_effect.")
            return (values - 1.0).astype(np.float32)
        kept = values > 0
        if not np.allclose(values, mean_one(kept.astype(np.float64))) or (self.ranks and kept.any() != kept.all()):
            can = "all rows or none" if self.ranks else "kept rows with weight B / kept"
            raise ValueError(
                f"The {self.view} view has {can} here, it cannot express {values.tolist()}; use action_view='native', "
                "or sample_effect."
            )
        if self.view == "subset":
            return kept.astype(np.int8)
        whole = bool(kept.all())
        return np.asarray(int(whole)) if self.view == "discrete" else np.array([2.0 * whole - 1.0, 0.0], np.float32)

    def _choice(self, choice: int, scores: np.ndarray) -> np.ndarray:
        if choice < 2:
            return np.full(self.rows, float(choice))
        share, highest = SHARES[(choice - 2) // 2][1], (choice - 2) % 2 == 1
        kept = max(1, round(share * self.rows))
        return mean_one((first_ranks(scores if highest else -scores) < kept).astype(np.float64))

    def _check_weights(self, values: np.ndarray) -> None:
        bad = ~((values >= 0) & (values <= np.finfo(np.float32).max))  # NaN fails both comparisons
        if bad.any():
            raise ValueError(f"A row's weight is {values[bad].flat[0]}; weights must be finite and at least 0.")


def mean_one(weights: np.ndarray) -> np.ndarray:
    """Weights ``[..., B]`` of at least 0, scaled to a mean of 1; all-zero stays zero."""
    total = weights.sum(-1, keepdims=True)
    return np.asarray(np.divide(weights * weights.shape[-1], total, out=np.zeros_like(weights), where=total > 0))


def standardized(scores: np.ndarray) -> np.ndarray:
    """Scores ``[..., B]`` in standard deviations from their mean; 0 where all are equal."""
    centred = scores - scores.mean(-1, keepdims=True)
    spread = scores.std(-1, keepdims=True)
    # Rounding alone leaves differences of this size between equal scores.
    flat = spread <= 1e-12 * np.abs(scores).max(-1, keepdims=True)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=~flat))


def first_ranks(values: np.ndarray) -> np.ndarray:
    """Place of each of ``[..., B]`` in descending order, from 0; the earlier of equals comes first."""
    return np.argsort(np.argsort(-values, axis=-1, kind="stable"), axis=-1, kind="stable")
