"""What searches of options maximise: the agent on the selection split, never on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

from cli.runs.folder import RESULTS
from kd_files.reading import read_json

_SELECTION = "selection"


def objective_of(folder: Path) -> float | None:
    """Gap closed on the selection rows under the agent of a run, by the students of its evaluation seeds together.

    None where the run has no results yet (``pause.at``), or where its environment has no such number.
    """
    path = folder / RESULTS
    if not path.is_file():
        return None
    results = read_json(path, "delete it, and the same command with resume=true judges the policy again")
    return selection_gap(results["policies"][0])


def selection_gap(policy: Mapping[str, Any]) -> float | None:
    """Gap closed on the selection rows by all students of a policy, from its entry in the results of a run.

    The plain mean where a former version judged it; None where there is no such number.
    """
    scores = policy.get("seeds", {}).get("splits", {}).get(_SELECTION, {})
    if "gap_size" in scores:
        gaps, sizes = scores["gap_closed"], scores["gap_size"]
        known = None not in gaps and None not in sizes and fsum(sizes) > 0  # what is not finite is null in the file
        return gap_closed_together(gaps, sizes) if known else None
    mean = policy["gap_closed"].get(_SELECTION, {}).get("mean")
    return None if mean is None else float(mean)


def gap_closed_together(gaps: Sequence[float], sizes: Sequence[float]) -> float:
    """The gap closed by several students together, ``sum_i D_i gap_i / sum_i D_i``; more is better.

    What differs between policies is then their mean loss alone. A plain mean is decided by students that are nearly as
    good as the teacher from the start: of a small D any change is a large share.

    Args:
        gaps: gap closed of each.
        sizes: their ``D``, above 0.
    """
    return fsum(gap * size for gap, size in zip(gaps, sizes, strict=True)) / fsum(sizes)
