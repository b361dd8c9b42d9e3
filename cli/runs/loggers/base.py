"""What a logger is: it is given scalars and pictures of one run, and keeps them where its users look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kd_files.reading import read_json
from kd_files.writing import write_json


@dataclass(frozen=True)
class Shown:
    """The run that a logger shows."""

    folder: Path
    """Its logs: ``<run folder>/logs``."""
    name: str
    """Of the run folder."""
    project: str
    """Under which services group runs (``logger_project``)."""
    config: Mapping[str, Any]
    """Resolved configuration of the run."""
    done: int = 0
    """Environment steps that were taken before (resume)."""
    judged: bool = False
    """Whether it is opened for the report of a training that has ended."""


class Logger(Protocol):
    """One run, shown somewhere. Made with a :class:`Shown`; plug-ins are entry points ``kd_env.loggers``.

    Names of scalars have their group in front: ``train/return_mean``, ``eval/dev/accuracy/uniform``.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show values at an environment step."""

    def pictures(self, paths: Mapping[str, Path], step: int) -> None:
        """Show PNG files by name."""

    def close(self) -> None:
        """Write what is left."""


def kept_id(shown: Shown, service: str) -> str | None:
    """Under which name of its own a service knows this run, from an earlier opening; None: it does not."""
    path = _id_file(shown, service)
    return str(read_json(path, "delete it, and a new run is begun there")["id"]) if path.is_file() else None


def keep_id(shown: Shown, service: str, name: str) -> None:
    """Keep it in the run's logs, so that a training that goes on, and its report, come to the same place."""
    shown.folder.mkdir(parents=True, exist_ok=True)
    write_json(_id_file(shown, service), {"id": name})


def _id_file(shown: Shown, service: str) -> Path:
    return shown.folder / f"{service}.json"
