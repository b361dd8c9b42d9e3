"""What a sweep that looks for good options maximises: the agent on the selection split, never on dev."""

from __future__ import annotations

from pathlib import Path

from cli.runs.folder import RESULTS
from kd_files.reading import read_json

_SELECTION = "selection"


def objective_of(folder: Path) -> float | None:
    """Gap closed on the selection rows under the agent of a run, the mean over its evaluation seeds.

    None where the run has no results yet (``pause.at``), or where its environment has no such number.
    """
    path = folder / RESULTS
    if not path.is_file():
        return None
    agent = read_json(path, "delete it, and the same command with resume=true judges the policy again")["policies"][0]
    mean = agent["gap_closed"].get(_SELECTION, {}).get("mean")
    return None if mean is None else float(mean)
