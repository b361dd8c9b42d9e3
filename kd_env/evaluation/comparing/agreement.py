"""What runs must have in common to be compared: the problem, the evaluation seeds, and the ends of a common rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kd_env.evaluation.comparing.runs import Run, group_name, seed_values

TOLERANCE = 1e-5
"""Relative tolerance within which runs must agree: on the facts of the problem, and on the losses of a common rule."""
_AGREE = ("seeds", "dev_splits", "term_names", "measure", "facts", "teacher")

_LATER = ("teacher_verdicts", "label_orders")
"""Facts that earlier versions did not write: runs of theirs agree without them."""


def check_agreement(runs: Sequence[Run]) -> None:
    """Refuse runs of other problems or other evaluation seeds than the first.

    Raises:
        ValueError: with what differs, or what a run lacks.
    """
    first = runs[0]
    for other in runs:
        for key in ("policies", *_AGREE):
            if key not in other.results:
                raise ValueError(f"The results of {other.place} lack {key!r}: no job of kd-env wrote them.")
        for key in _AGREE:
            for where, a, b in _disagreements(first.results[key], other.results[key], key):
                raise ValueError(
                    f"{first.place} and {other.place} cannot be compared: {where} is {a!r} in the first and {b!r} in "
                    "the second. Compare runs of one problem and the same evaluation seeds."
                )


def check_equal(rule: str, results: Sequence[tuple[Run, Mapping[str, Any]]]) -> None:
    """Refuse two results of one rule that differ: rules are deterministic given the seeds.

    Raises:
        ValueError: with both runs, the split and the losses of the seed where they differ most.
    """
    (run, row), *others = results
    for other_run, other_row in others:
        for split in (*run.results["dev_splits"], "selection"):
            a, b = (seed_values(r, line, ("splits", split, "loss")) for r, line in ((run, row), (other_run, other_row)))
            if not np.allclose(a, b, rtol=TOLERANCE, atol=0.0):
                worst = int(np.argmax(np.abs(a - b)))
                views = {line["seeds"]["action_view"] for line in (row, other_row)}
                hint = f" It acted in the action views {' and '.join(sorted(views))}." if len(views) > 1 else ""
                raise ValueError(
                    f"The rule {rule!r} ended differently in {run.place} and {other_run.place}: its {split} loss at "
                    f"seed {run.results['seeds'][worst]} is {a[worst]:.8g} and {b[worst]:.8g}.{hint} Judge both runs "
                    "with the same options, threads and versions, or leave the rule out of one with "
                    "evaluation.rules=[...]."
                )


def overlapping_trainings(members: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Pairs of runs of one group that share seeds of students.

    Raises:
        ValueError: one training given twice.
    """
    ordered = sorted(members, key=lambda run: run.train_seeds.start)
    for first, second in pairwise(ordered):
        if first.train_seeds.start == second.train_seeds.start:
            raise ValueError(
                f"{first.place} and {second.place} are one training of {group_name(first)} (seed "
                f"{first.train_seeds.start}) and no independent ones; leave one of them out."
            )
        if second.train_seeds.start < first.train_seeds.stop:
            yield first.place, second.place


def _disagreements(first: Any, second: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            if key in _LATER and not (key in first and key in second):
                continue
            yield from _disagreements(first.get(key), second.get(key), f"{where}.{key}")
    elif isinstance(first, float) and isinstance(second, float):
        if not math.isclose(first, second, rel_tol=TOLERANCE):
            yield where, first, second
    elif first != second:
        yield where, first, second
