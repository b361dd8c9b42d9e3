"""Which agents of a study are trained no further: decided once, and kept in its folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kd_files.manifest import check_manifest
from kd_files.reading import check_keys, damaged, read_json
from kd_files.writing import new_folder, recover, write_json

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.comparison import Pruning

_AGENT = {"agent": str, "value": float, "pruned": bool, "trainings": list, "steps": list, "runs": list}
PRUNING, DECISION = "pruning", "decision.json"
"""Folder in the folder of a study, and the file in it."""


def write_pruning(study: Path, pruning: Pruning) -> None:
    """Keep the decision in the folder of its study."""
    with new_folder(study / PRUNING) as folder:
        write_json(folder / DECISION, asdict(pruning))


def read_pruning(study: Path) -> Pruning | None:
    """The decision of a study; None where none was made.

    Raises:
        DamagedFile: it is damaged.
    """
    from kd_env.evaluation.comparing.comparison import PausedAgent, Pruning

    folder = study / PRUNING
    recover(folder)
    path = folder / DECISION
    if not path.is_file():
        return None
    remedy = "copy the study again; where its agents went on it cannot be made anew"
    check_manifest(folder, remedy)
    values = read_json(path, remedy, {"share": float, "at": int, "median": float, "seeds": list, "agents": list})
    agents = []
    for each in values["agents"]:
        if not isinstance(each, dict):
            raise damaged(path, "an agent is no mapping", remedy)
        check_keys(path, each, _AGENT, remedy)
        lists = {key: tuple(each[key]) for key in ("trainings", "steps", "runs")}
        agents.append(PausedAgent(agent=each["agent"], value=each["value"], pruned=each["pruned"], **lists))
    numbers = {key: values[key] for key in ("share", "at", "median")}
    together = bool(values.get("together", False))
    return Pruning(study=study.name, seeds=tuple(values["seeds"]), agents=tuple(agents), together=together, **numbers)


def prunings_of(runs: Iterable[Path]) -> tuple[Pruning, ...]:
    """The decisions of the studies that run folders lie in."""
    studies = dict.fromkeys(run.parent for run in runs)
    return tuple(pruning for study in studies if (pruning := read_pruning(study)) is not None)


def is_pruned(run: Path) -> bool:
    """Whether a run folder is of an agent that its study trained no further."""
    pruning = read_pruning(run.parent)
    return pruning is not None and any(run.name in agent.runs for agent in pruning.agents if agent.pruned)
