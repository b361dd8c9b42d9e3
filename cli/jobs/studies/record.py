"""``study.json``: what a study was registered as, before its first cell, and every departure from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.jobs.studies.grid import Planned, label_of
from cli.jobs.studies.registration import Registration
from cli.runs.config import differences
from kd_files.reading import check_keys, damaged, read_json
from kd_files.writing import write_json

STUDY = "study.json"
_REMEDY = "copy it again; without it nobody can tell what the study was registered as"
_OF_THE_STUDY = {"registration": dict, "problems": list, "departures": list}


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the folder of a study says of its registration; None for one that was not registered.

    Raises:
        DamagedFile: it cannot be read.
    """
    path = folder / STUDY
    if not path.is_file():
        return None
    record = read_json(path, _REMEDY, {"name": str, **dict.fromkeys(("hash", "registered"), str), **_OF_THE_STUDY})
    for problem in record["problems"]:
        if not isinstance(problem, dict):
            raise damaged(path, "it holds a problem that is no mapping", _REMEDY)
        check_keys(path, problem, {"folder": str, "block": str, "agents": list, "transfers": list}, _REMEDY)
    return record


def registered(folder: Path, registration: Registration, planned: Sequence[Planned]) -> dict[str, Any]:
    """Write the record before any cell begins, or take a changed file into the one that is there; the record.

    As long as no cell has begun, the file may be changed without a word.
    """
    before, begun = read_record(folder), _begun(planned)
    problems = [_problem(one) for one in planned]
    record = {
        "name": folder.name,
        "hash": registration.hash,
        "registered": _now(),
        "registration": dict(registration.values),
        "changes": [],
        "departures": [],
        "problems": problems,
    }
    if before is not None and begun:
        record = {**before, "problems": problems}
        newest = before["changes"][-1] if before.get("changes") else before
        if newest["hash"] != registration.hash:
            change = {
                "hash": registration.hash,
                "at": _now(),
                "registration": dict(registration.values),
                "keys": _changed(newest["registration"], registration.values),
                "cells": begun,
            }
            record["changes"] = [*before.get("changes", []), change]
    record["departures"] = departures(record, planned)
    write_json(folder / STUDY, record)
    return record


def departures(record: Mapping[str, Any], planned: Sequence[Planned]) -> list[str]:
    """In words, what is otherwise than registered: changes of the file after the first cell, and missing results."""
    words = [
        f"The registration was changed on {change['at']}, when {change['cells']} cells had begun: "
        f"{', '.join(change['keys'])} (hash {change['hash'][:12]})."
        for change in record.get("changes", [])
    ]
    every = [training for one in planned for training in one.trainings]
    done = sum(training.finished() for training in every)
    if done < len(every):
        words.append(
            f"{len(every) - done} of {len(every)} cells have no results yet: nothing below is the study's end."
        )
    return words


def concluded(folder: Path, planned: Sequence[Planned]) -> dict[str, Any]:
    """The record with the departures as they are now, written."""
    record = read_record(folder)
    assert record is not None, "it is written before the first cell"
    record["departures"] = departures(record, planned)
    write_json(folder / STUDY, record)
    return record


def _problem(one: Planned) -> dict[str, Any]:
    problem, env = one.problem, one.trainings[0].settings.resolved["env"]["id"]
    named = {key: getattr(problem, key) for key in ("block", "task", "regime", "student")}
    agents = list(dict.fromkeys(training.settings.agent.label for training in one.trainings))
    transfers = [
        {"agent": entry["from"]["agent"], "source": entry["from"]["problem"], "label": label_of(entry)}
        | {"continued": entry.get("steps") != 0}
        for entry in problem.agents
        if entry.get("from") is not None
    ]
    counts = {"cells": len(one.trainings), "transfers": transfers}
    return {"folder": problem.name, **named, "env": env, "agents": agents, **counts}


def _begun(planned: Sequence[Planned]) -> int:
    """Cells that have a run folder."""
    return sum(training.folder.is_dir() for one in planned for training in one.trainings)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys of a registration that are other now; of blocks their names."""
    keys = [key for key in differences(dict(before), dict(now)) if key != "blocks"]
    old, new = ({block["name"]: block for block in values["blocks"]} for values in (before, now))
    return [*keys, *(f"block {name}" for name in {**old, **new} if old.get(name) != new.get(name))]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
