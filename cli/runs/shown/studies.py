"""How far a study is, read from its files alone: what is half written, or not there yet, is passed over."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from cli.runs.folder import CONFIG, LOGS, METRICS, POLICY, RESULTS
from cli.runs.objective import selection_gap
from cli.runs.shown.cells import ENDED, FAILED, RUNNING, WAITING, read_record
from kd_env.core.locks import is_owned

STUDY = "study.json"
"""Of a study over several problems."""
DONE, STOPPED, PRUNED = "done", "stopped", "pruned"
_JUDGING = 0.2
"""The share of a run's work that its evaluation is taken for."""
_TAIL = 4096
"""Bytes at the end of a log that are read."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One run."""

    name: str
    state: str
    """``waiting, running, failed, stopped, pruned`` or ``done``."""
    steps: int = 0
    total: int | None = None
    """Environment steps that it has made, and of all; None where they are not known."""
    judging: bool = False
    """Whether it has trained, and its students are judged."""
    said: str = ""
    """Of one that failed the end of its log."""

    @property
    def share(self) -> float:
        """Of its work, in [0, 1]: steps of the training, and the evaluation as a fifth of all."""
        if self.state == DONE:
            return 1.0
        trained = 1.0 if self.judging else min(self.steps / self.total, 1.0) if self.total else 0.0
        return (1 - _JUDGING) * trained


@dataclass(frozen=True)
class Best:
    """A policy by the gap closed on the selection rows, a mean over the trainings that have finished."""

    policy: str
    gap: float
    trainings: int
    learned: bool


@dataclass(frozen=True)
class Part:
    """One problem of a study."""

    name: str
    cells: tuple[Cell, ...]
    best: tuple[Best, ...] = ()
    """Largest gap first; without bounds, which are no competitors."""
    begun: float | None = None
    """When the process that runs its cells began, in seconds since 1970."""
    before: float = 0.0
    """How many cells' worth of work was done by then."""

    @property
    def share(self) -> float:
        """Cells' worth of work that is done; a cell that is half done counts half."""
        return sum(cell.share for cell in self.cells if cell.state != PRUNED)


@dataclass(frozen=True)
class Study:
    """All that is shown of a study."""

    name: str
    parts: tuple[Part, ...]
    alive: bool
    """Whether a process works on it."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Of all parts, without those that are pruned."""
        return tuple(cell for part in self.parts for cell in part.cells if cell.state != PRUNED)

    @property
    def unknown(self) -> int:
        """Problems of which no cell is known yet."""
        return sum(not part.cells for part in self.parts)

    @property
    def done(self) -> bool:
        """Whether every cell of every problem is."""
        return not self.unknown and all(cell.state == DONE for cell in self.cells)

    def count(self, state: str) -> int:
        """Cells in that state."""
        return sum(cell.state == state for cell in self.cells)

    @property
    def share(self) -> float:
        """Cells' worth of work that is done."""
        return sum(part.share for part in self.parts)

    def left(self, now: float) -> float | None:
        """Seconds until all known cells are done, at the rate since the last process began; None where none is seen."""
        last = max((part.begun for part in self.parts if part.begun is not None), default=None)
        gained = sum(part.share - part.before for part in self.parts if part.begun == last)
        if last is None or not self.alive or gained <= 0 or now <= last:
            return None
        return (now - last) / gained * (len(self.cells) - self.share)


class Reader:
    """Reads a study again and again; what has not changed since is not parsed anew.

    Args:
        name: of the study.
        parts: folder of each of its problems by name; an ordinary study is one problem.
        root: folder of the study; its owner or that of a problem works on it.
    """

    def __init__(self, name: str, parts: Mapping[str, Path], root: Path) -> None:
        self._name, self._parts, self._root = name, parts, root
        self._known: dict[tuple[Path, Callable[[Path], Any]], tuple[tuple[int, int], Any]] = {}

    def read(self) -> Study:
        """How far it is now."""
        owned = is_owned(self._root)
        alive = {name: owned or is_owned(folder) for name, folder in self._parts.items()}
        return Study(self._name, tuple(self._part(name, alive[name]) for name in self._parts), any(alive.values()))

    def _part(self, name: str, alive: bool) -> Part:
        folder = self._parts[name]
        record = read_record(folder)
        states = dict(record.cells) if record is not None else {}
        states |= dict.fromkeys(self._once(folder / "pruning" / "decision.json", _pruned) or (), PRUNED)
        names = [*states, *sorted(run for run in _runs(folder) if run not in states)]
        cells = tuple(self._cell(folder, cell, states.get(cell), alive) for cell in names)
        best = self._best(folder, [cell.name for cell in cells if cell.state == DONE])
        began = () if record is None else (record.begun, record.before)
        return Part(name, cells, best, *began)

    def _cell(self, folder: Path, name: str, noted: str | None, alive: bool) -> Cell:
        run = folder / name
        if noted == PRUNED:
            return Cell(name, PRUNED)
        if self._once(run / RESULTS, _gaps) is not None:
            return Cell(name, DONE)
        steps, total = _steps(run / LOGS / METRICS), self._once(run / CONFIG, _total)
        if noted == FAILED:
            return Cell(name, FAILED, steps, total, said=_last_line(folder / f"{name}.log"))
        running = alive and noted == RUNNING if noted is not None else is_owned(run)
        waiting = (alive and noted in (WAITING, ENDED)) or not run.is_dir()  # who has ended without results has paused
        state = RUNNING if running else WAITING if waiting else STOPPED
        judging = (run / POLICY).is_dir() and (total is None or steps >= total)
        return Cell(name, state, steps, total, judging)

    def _best(self, folder: Path, done: Iterable[str]) -> tuple[Best, ...]:
        found: dict[tuple[str, bool], list[float]] = {}
        for name in done:
            for policy, learned, gap in self._once(folder / name / RESULTS, _gaps) or ():
                group = re.sub(r"-seed\d+$", "", name) if learned else policy
                found.setdefault((group, learned), []).append(gap)
        best = [Best(policy, fmean(gaps), len(gaps), learned) for (policy, learned), gaps in found.items()]
        return tuple(sorted(best, key=lambda one: -one.gap))

    def _once(self, path: Path, parse: Callable[[Path], T]) -> T | None:
        """What a file holds; None where it is not there, or cannot be read (yet)."""
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_size)
            if (path, parse) not in self._known or self._known[path, parse][0] != mark:
                self._known[path, parse] = mark, parse(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        found: T = self._known[path, parse][1]
        return found


def open_study(folder: Path) -> Reader:
    """The reader of a study, over several problems or over one.

    Raises:
        ValueError: no folder, a run's own folder, or one in which no study lies, with the remedy.
    """
    if not folder.is_dir():
        near = (
            sorted(path.name for path in folder.parent.glob("*") if path.is_dir())[:8] if folder.parent.is_dir() else []
        )
        there = f" There: {', '.join(near)}." if near else ""
        raise ValueError(f"There is no folder {folder}; give that of a study, as runs/<name>.{there}")
    if (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is the folder of one run; give that of its study, {folder.parent}.")
    if (folder / STUDY).is_file():
        return Reader(folder.name, _problems(folder), folder)
    if read_record(folder) is None and not _runs(folder) and not is_owned(folder):
        raise ValueError(f"No study lies in {folder}: it has neither {STUDY} nor runs. Give the folder of a study.")
    return Reader(folder.name, {folder.name: folder}, folder)


def _problems(folder: Path) -> dict[str, Path]:
    try:
        values = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        names = [str(problem["folder"]) for problem in values["problems"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder / STUDY} names no problems ({error}); the command of the study writes it again."
        ) from error
    return {Path(name).name: folder / name for name in names}


def _runs(folder: Path) -> list[str]:
    """Names of the run folders in a study."""
    try:
        return [path.name for path in folder.iterdir() if (path / CONFIG).is_file()]
    except OSError:
        return []


def _gaps(path: Path) -> list[tuple[str, bool, float]]:
    """Policy, whether it learned, and the gap that its students closed on the selection rows, from ``results.json``."""
    values = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for row in values["policies"]:
        gap = selection_gap(row)
        if not row.get("bound") and not row.get("intervention") and gap is not None and math.isfinite(gap):
            found.append((str(row["policy"]), bool(row["learned"]), gap))
    return found


def _pruned(path: Path) -> tuple[str, ...]:
    values = json.loads(path.read_text(encoding="utf-8"))
    return tuple(str(run) for agent in values["agents"] if agent["pruned"] for run in agent["runs"])


def _total(path: Path) -> int | None:
    """``total_timesteps`` of a configuration, of which nothing else is parsed."""
    found = re.search(r"^total_timesteps: (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else None


def _steps(log: Path) -> int:
    """Environment steps of the last whole line of ``metrics.jsonl``; 0 where there is none."""
    for line in reversed(_tail(log).split("\n")[:-1]):
        try:
            return int(json.loads(line)["timesteps"])
        except (ValueError, LookupError, TypeError):
            continue
    return 0


def _last_line(log: Path) -> str:
    lines = _tail(log).strip().splitlines()
    return lines[-1][-300:] if lines else ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL, 0))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
