"""Wrong labels on purpose: noise in train rows, whole classes shuffled as a control, and the rows that words choose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from kd_env.data.tasks import Rows


class NoiseOptions(Protocol):
    """Options that say by which seed labels are replaced."""

    @property
    def split_seed(self) -> int: ...  # noqa: D102 - documented where the options are
    @property
    def noise_seed(self) -> int | None: ...  # noqa: D102


def noise_seed(options: NoiseOptions) -> int:
    """Seed of which labels are replaced: ``noise_seed``, or where it is None that of the cut."""
    return options.split_seed if options.noise_seed is None else options.noise_seed


def add_label_noise(labels: np.ndarray, rows: np.ndarray, fraction: float, num_labels: int, seed: int) -> np.ndarray:
    """Copy of ``labels`` in which exactly ``round(fraction * len(rows))`` of ``rows`` carry another class.

    Args:
        labels: ``[all rows]`` int64 class indices.
        rows: ``[R]`` row indices that may be changed (train).
        fraction: share in [0, 1].
        num_labels: number of classes C; wrong ones are drawn uniformly from the other C - 1.
        seed: of the choice.

    Raises:
        ValueError: scores instead of classes, or a share outside [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"label_noise={fraction!r} must lie in [0, 1].")
    if num_labels < 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"label_noise={fraction!r} needs classes; regression has no wrong class: set label_noise=0.")
    rng = np.random.default_rng([seed, 2])
    changed = _first_of(rows, fraction, rng)
    noisy = labels.copy()
    noisy[changed] = (labels[changed] + rng.integers(1, num_labels, size=len(changed))) % num_labels
    return noisy


def replaced_rows(rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Those of ``rows`` whose label :func:`add_label_noise` replaces, for reports and bounds: nothing else may know."""
    return _first_of(rows, fraction, np.random.default_rng([seed, 2]))


def _first_of(rows: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(rows)[: round(fraction * len(rows))]


def shuffle_labels(labels: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Copy of ``labels`` in which those of ``rows`` are permuted among themselves, so that they say nothing.

    Rows of every class get the labels of all classes in the same shares, as far as whole rows go: by chance alone, some
    correlation with the right labels would be left, and a student whose gradients nearly lie on one line finds it.

    Args:
        labels: ``[all rows]`` classes, or scores, which are permuted freely.
        rows: ``[R]`` row indices.
        seed: of the permutation.
    """
    rng = np.random.default_rng([seed, 3])
    gold, order = labels[rows], rng.permutation(len(rows))
    values, counts = np.unique(gold, return_counts=True)
    # Every label evenly spaced from 0 to 1, along the rows sorted by class: each class takes its part of all of them.
    places = np.concatenate([(np.arange(count) + rng.random()) / count for count in counts])
    shuffled = labels.copy()
    by_class = rows[order[np.argsort(gold[order], kind="stable")]]
    shuffled[by_class] = np.repeat(values, counts)[np.argsort(places, kind="stable")]
    return shuffled


def rows_with_words(rows: Rows, row_indices: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Those of ``row_indices`` in which, in either text, one of ``words`` stands as a whole word, whatever its case.

    Words that all begin with ``!`` name the other half: the rows in which none of them stands.

    Args:
        rows: the official train split.
        row_indices: ``[R]`` row indices.
        words: without spaces; punctuation beside a word does not hide it.

    Raises:
        ValueError: there is no such row, or only some words begin with ``!``.
    """
    without = {word.startswith("!") for word in words}
    if len(without) > 1:
        raise ValueError(f"noisy_words={list(words)}: either all words begin with '!' (rows without them) or none.")
    plain = [re.escape(word.lower().removeprefix("!")) for word in words]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(plain)})(?!\w)")
    columns = [rows.first] if rows.second is None else [rows.first, rows.second]
    has: np.ndarray = np.array(
        [any(pattern.search(column[row].lower()) for column in columns) for row in row_indices.tolist()], dtype=np.bool_
    )
    matching: np.ndarray = row_indices[has != without.pop()]
    if not len(matching):
        raise ValueError(
            f"noisy_words={list(words)}: none of the {len(row_indices)} train rows has one of them; choose other words."
        )
    return matching.astype(np.int64)
