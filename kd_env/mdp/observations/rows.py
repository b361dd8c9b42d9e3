"""Features of the rows that the next action will weigh.

How sure the student is, how long they are, how often they were seen, and how much each would lower the feedback loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kd_env.data.shards.order import RowOrder
from kd_env.mdp.influence.rows import scaled_influence
from kd_env.mdp.observations.base import View
from kd_env.mdp.observations.teachers import add_rows
from kd_env.numerics import losses


def _of_student(measure: Callable[[np.ndarray], np.ndarray]) -> Callable[[View], np.ndarray]:
    return lambda v: measure(v.next_batch.student_logits)[..., None]


def _length(v: View) -> np.ndarray:
    lengths = v.problem.train.lengths
    return np.asarray((lengths[v.rows] / lengths.max())[..., None])


def _seen(v: View) -> np.ndarray:
    return np.asarray(np.log1p(visits(v))[..., None])


def _influence(v: View) -> np.ndarray:
    return scaled_influence(v.row_influence)[..., None]


def visits(v: View) -> np.ndarray:
    """How often each row of the next batch stood in a batch of this episode before, ``[N, B]``.

    A function of the data order, not a count that is kept: after an epoch each row has been visited once an epoch, but
    for those that are carried over. A visit counts whatever weight the row had, and whether the update was skipped.
    """
    order = v.problem.buckets
    if isinstance(order, RowOrder):
        coming = v.state.next_rows.shape[1]  # batches
        return np.stack([order.visits(s, coming, rows) for s, rows in zip(v.state.streams, v.rows, strict=True)])
    total = len(v.problem.train)
    counts = np.empty(v.rows.shape, dtype=np.int64)
    for place, (stream, drawn) in enumerate(zip(v.state.streams, v.state.next_rows, strict=True)):
        # Drawn batches stand before the cursor, but are still to come.
        ahead = np.concatenate([*stream.carry, stream.order[stream.cursor :].ravel(), drawn.ravel()])
        counts[place] = stream.epoch + 1 - np.bincount(ahead, minlength=total)[v.rows[place]]
    return counts


_ABOUT = {
    "margin": "The student's largest probability minus its second.",
    "confidence": "The student's largest probability.",
    "length": "Tokens, over those of the longest train row.",
    "seen": "``log(1 + n)``, n the batches of this episode in which the row stood before.",
    "influence": (
        "How much the row would lower the feedback loss (LGTM), over three standard deviations of its batch; below 0 "
        "it would raise it."
    ),
    "edit": (
        "Mean plausibility of the tokens that will be written into the row, and the student's mean distance from it."
    ),
}


def register() -> None:
    """Add every feature twice: as the mean over the batch, and row by row with the prefix ``row_``."""
    by_class: dict[str, Any] = {"classification_only": True, "labels_only": True}
    of_influence: dict[str, Any] = {"low": -1.0, "reads_influence": True, "labels_only": True}
    for name, rows, options in (
        ("margin", _of_student(losses.margin), by_class),
        ("confidence", _of_student(losses.confidence), by_class),
        ("length", _length, {}),
        ("seen", _seen, {"high": 10.0}),
        ("influence", _influence, of_influence),
    ):
        add_rows(name, f"row_{name}", rows, lambda _: 1, {**options, "about": _ABOUT[name]})
    add_rows("edit", "row_edit", lambda v: v.row_edit, lambda _: 2, {"text_only": True, "about": _ABOUT["edit"]})
