"""One temperature for a model's logits: what of a loss is only a matter of being too sure, or not sure enough.

The loss of a student falls when its logits get the right size, without one prediction being another. A gap between
a calibrated teacher and a student that is not would thus count calibration as knowledge (Guo et al. 2017).

On the few rows that it is fitted on, a model may be right everywhere: then the loss falls without end as it gets surer,
and one wrong row elsewhere would outweigh all others. So the labels that a temperature is fitted to are those of Platt
(1999): on R rows of C classes the label counts ``(R + 1) / (R + C)``, every other class ``1 / (R + C)``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOUNDS = (0.05, 20.0)
"""Least and largest temperature."""
BINS = 15
"""Of the expected calibration error (Guo et al. 2017)."""
_CLOSE = 1e-4
"""Relative change at which the search for a temperature ends: Newton's next change would be its square."""
_REMEDIES = {
    "feedback": "Use more feedback rows (feedback_rows, evaluation_rows); gap='labels', if there is gap, needs none.",
    "selection": "Use more selection rows (selection_rows).",
}
_Slopes = Callable[[Floats], tuple[Floats, Floats]]


def check_calibration_rows(labels: NDArray[np.generic], split: str = "feedback") -> None:
    """Refuse labels ``[R]`` that no temperature can be fitted on.

    Raises:
        ValueError: no row, or rows of one class.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        reason = f"all {len(labels)} rows have the label {classes[0]}" if len(labels) else "there is no row"
        raise ValueError(
            f"A temperature cannot be fitted on the {split} split: {reason}, and the loss of one class falls without "
            f"end as a model gets surer. {_REMEDIES[split]}"
        )


def fit_temperatures(logits: NDArray[np.floating], labels: NDArray[np.generic], split: str = "feedback") -> Floats:
    """The temperature of every model with the least mean cross-entropy to Platt's labels, ``[..., R, C] -> [...]``.

    In [0.05, 20].

    The loss is convex in the inverse temperature b: Newton's steps in b, or half of a bracket where one would leave
    it. What is found for a model does not depend on the others.

    Args:
        logits: of any number of models on R rows.
        labels: ``[R]`` class indices.
        split: ``feedback`` or ``selection``, that these rows are of, for messages.

    Raises:
        ValueError: logits that are not finite, or labels of one class.
    """
    check_calibration_rows(labels, split)
    if not np.isfinite(logits).all():
        count = int((~np.isfinite(logits)).sum())
        raise ValueError(
            f"A temperature cannot be fitted: {count} of {logits.size} logits are not finite; the model has diverged."
        )
    *models, rows, classes = logits.shape
    temperatures = 1.0 / _least(_slopes(logits.reshape(-1, rows, classes), labels), int(np.prod(models)))
    return temperatures.reshape(models)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.generic], split: str = "feedback") -> float:
    """:func:`fit_temperatures` of one model, ``[R, C]``."""
    return float(fit_temperatures(logits[None], labels, split)[0])


def reliability(logits: NDArray[np.floating], labels: NDArray[np.generic]) -> Floats:
    """What a reliability diagram shows of logits ``[R, C]``: ``[3, 15]``, over 15 bins of equal width.

    Rows in each bin of the largest probability, the sum of that probability over them, and how many of them are right
    (Guo et al. 2017, figure 4).
    """
    place, confidence, right = _binned(logits, labels)
    counted = [np.bincount(place, weights, BINS) for weights in (None, confidence, right.astype(np.float64))]
    return np.stack(counted).astype(np.float64)


def expected_calibration_error(logits: NDArray[np.floating], labels: NDArray[np.generic]) -> float:
    """Mean distance of confidence and accuracy of logits ``[R, C]``, in [0, 1], over 15 bins of equal width.

    Guo et al. 2017, equation 3: bins of the largest probability, weighted by the rows in them.
    """
    place, confidence, right = _binned(logits, labels)
    gaps = np.bincount(place, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _binned(
    logits: NDArray[np.floating], labels: NDArray[np.generic]
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Of each row ``[R]`` its bin, the largest probability and whether it is right."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    confidence = 1.0 / np.exp(shifted).sum(axis=-1)
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return place, confidence, logits.argmax(axis=-1) == labels


def _slopes(logits: NDArray[np.floating], labels: NDArray[np.generic]) -> _Slopes:
    """First and second derivative of the loss by b, each ``[N]``, as a function of b ``[N]``."""
    index = np.broadcast_to(labels.astype(np.int64)[..., None], (*logits.shape[:-1], 1))
    excess = logits.astype(np.float64) - np.take_along_axis(logits, index, axis=-1)  # [N, R, C], 0 at the label
    rows, classes = excess.shape[1:]
    share = 1.0 / (rows + classes)  # of a class that is not the label
    if excess.shape[-1] == 2:  # the other class alone has an excess: a third of the work
        pair_excess = excess.sum(axis=-1)  # [N, R]

        def of_two(b: Floats) -> tuple[Floats, Floats]:
            t = np.tanh((0.5 * b)[:, None] * pair_excess)
            weighted = (
                t * pair_excess
            )  # with p = (1 + t) / 2: p x = (x + t x) / 2 and p (1 - p) x^2 = (x^2 - (t x)^2) / 4
            slope = (0.5 * (total + weighted.sum(axis=-1)) - share * total) / rows
            return slope, 0.25 * (squares - np.einsum("nr,nr->n", weighted, weighted)) / rows

        total, squares = pair_excess.sum(axis=-1), np.einsum("nr,nr->n", pair_excess, pair_excess)
        return of_two

    largest = excess.max(axis=-1, keepdims=True)
    wished = share * excess.sum(axis=-1).mean(axis=-1)

    def of_many(b: Floats) -> tuple[Floats, Floats]:
        p = np.exp(b[:, None, None] * (excess - largest))
        weighted = p * excess / p.sum(axis=-1, keepdims=True)
        mean = weighted.sum(axis=-1)
        return mean.mean(axis=-1) - wished, (np.einsum("nrc,nrc->nr", weighted, excess) - mean**2).mean(axis=-1)

    return of_many


def _least(slopes: _Slopes, count: int) -> Floats:
    """Where the first slope changes its sign, ``[count]``, or the bound beyond which it would."""
    ends = 1.0 / BOUNDS[1], 1.0 / BOUNDS[0]
    low, high = np.full(count, ends[0]), np.full(count, ends[1])
    low_seen, high_seen, done = (np.zeros(count, dtype=bool) for _ in range(3))
    b = np.ones(count)
    for _ in range(100):
        slope, curvature = slopes(b)
        rises = slope > 0
        done |= (slope == 0) | ((b == ends[0]) & rises) | ((b == ends[1]) & ~rises)
        low, high = np.where(rises, low, b), np.where(rises, b, high)
        low_seen, high_seen = low_seen | ~rises, high_seen | rises
        step = b - np.divide(slope, curvature, out=np.where(rises, -np.inf, np.inf), where=curvature > 0)
        middle = np.sqrt(low * high)
        below, above = np.where(low_seen, middle, low), np.where(high_seen, middle, high)
        after = np.where(step <= low, below, np.where(step >= high, above, step))
        far = np.abs(after - b) > _CLOSE * b
        b = np.where(done, b, after)
        done |= ~far
        if done.all():
            break
    return b
