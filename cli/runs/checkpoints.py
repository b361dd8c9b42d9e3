"""Checkpoints of a training: numbered folders, of which the newest whole one counts, each in place by one renaming."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Protocol

from agents.common.storage import HEADER, read_header
from cli.runs.folder import CHECKPOINT, POLICY
from kd_files.manifest import MANIFEST, check_manifest

_REMEDY = "delete the checkpoint to go on from an older one, or to begin anew"


class Saved(Protocol):
    """What is kept."""

    def save(self, path: Path) -> None:
        """Write a folder."""


class KeepsState(Protocol):
    """An environment whose state can be written."""

    def save_state(self, folder: Path) -> None:
        """Write a folder."""


class Checkpoints:
    """The folder ``checkpoint`` of a run: for each step count that was kept the agent, and beside it the environment.

    Earlier versions kept one agent in the folder itself, and replaced it by two renames: it is read as the oldest, also
    where a process was killed between them.

    Args:
        folder: of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; None where there is none.

        Raises:
            ValueError: every one that there is is damaged.
        """
        found = [*self._numbered(), *self._former()]
        faults = []
        for place in found:
            try:
                read_header(place)
                if environment(place).is_dir():  # checkpoints of earlier versions have none
                    for folder in (environment(place), *_parts(environment(place))):
                        check_manifest(folder, _REMEDY)
            except ValueError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                print(f"{fault} Going on from the older checkpoint {place}.", file=sys.stderr, flush=True)
            return place
        if faults:
            raise ValueError(f"{faults[0]} No other checkpoint is left: to begin anew delete {self.folder}.")
        return None

    def steps(self) -> int | None:
        """Steps of the newest numbered checkpoint, whole or not; None where there is none."""
        return next((int(path.name) for path in self._numbered()), None)

    def save(self, agent: Saved, steps: int, env: KeepsState | None = None) -> None:
        """Keep an agent and the state of its environment, and then drop what was kept before."""
        target = self.folder / f"{steps:012d}"
        if env is not None:
            env.save_state(environment(target))  # first: an agent that is in place is a whole checkpoint
        agent.save(target)
        for path in [*self.folder.iterdir(), *self.folder.parent.glob(f".{self.folder.name}.*")]:
            if path not in (target, environment(target)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _numbered(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if path.name.isdigit()), reverse=True)

    def _former(self) -> list[Path]:
        """Those of earlier versions."""
        former = [self.folder] if (self.folder / HEADER).is_file() or (self.folder / MANIFEST).is_file() else []
        return [*former, *sorted(self.folder.parent.glob(f".{self.folder.name}.*.old"))]


def environment(checkpoint: Path) -> Path:
    """Where the state of the environment stands that belongs to an agent in a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}-environment")


def _parts(state: Path) -> list[Path]:
    """Folders of the processes in which replicas run; none where all run in one."""
    return sorted(path for path in state.iterdir() if path.is_dir())


def saved_steps(saved: Path | None) -> int | None:
    """Environment steps after which an agent was saved; None where none is, or a rule, or a damaged one."""
    try:
        steps = None if saved is None else read_header(saved).get("num_timesteps")
    except ValueError:  # told by whoever wants to use it
        return None
    return steps if isinstance(steps, int) else None


def steps_made(run: Path) -> int:
    """Training steps of a run that goes on."""
    return max(saved_steps(run / POLICY) or 0, Checkpoints(run / CHECKPOINT).steps() or 0)
