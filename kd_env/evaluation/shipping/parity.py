"""Whether a file says what the student says: the same rows through both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_env.core.types import Floats
from kd_env.numerics.losses import log_softmax


@dataclass(frozen=True)
class Parity:
    """A model beside the student in PyTorch, on the same rows."""

    rows: int
    difference: float
    """Largest absolute difference of probabilities; in regression of scores, as a share of the label range."""
    equal: float | None
    """Share of rows of which both predict the same class; None in regression."""


def parity(reference: Floats, other: Floats, label_width: float | None) -> Parity:
    """Compare logits ``[R, C]`` on the same rows.

    Args:
        reference: of the student in PyTorch.
        other: of the other model.
        label_width: of regression; None of classes.
    """
    if label_width is not None:
        return Parity(len(reference), float(np.abs(reference - other).max() / label_width), None)
    difference = np.abs(np.exp(log_softmax(reference)) - np.exp(log_softmax(other))).max()
    equal = (reference.argmax(-1) == other.argmax(-1)).mean()
    return Parity(len(reference), float(difference), float(equal))


def words(found: Parity) -> str:
    """In one sentence's end."""
    if found.equal is None:
        return f"largest difference of scores {found.difference:.1e} of the label range on {found.rows} rows"
    return (
        f"largest difference of probabilities {found.difference:.1e}, equal predictions {found.equal:.2%}, on "
        f"{found.rows} rows"
    )
