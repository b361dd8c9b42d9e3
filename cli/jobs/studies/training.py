"""One run of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.runs import folder as runs
from cli.settings.kinds.base import Settings


@dataclass(frozen=True)
class Training:
    """One run of a study."""

    settings: Settings[Any]
    """As the main job will read them."""
    overrides: tuple[str, ...]
    """Of the main job."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.settings.run_folder

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def finished(self) -> bool:
        """Whether its results are there, of the evaluation that is asked for.

        Raises:
            ValueError: the folder holds a run of other options.
        """
        runs.check_folder(self.folder, self.settings.resolved)
        if not (self.folder / runs.RESULTS).is_file():
            return False
        before = dict(runs.run_config(self.folder)["evaluation"])
        wanted = dict(self.settings.resolved["evaluation"])
        if not wanted["rules"]:  # rules that are there do no harm
            before["rules"] = wanted["rules"]
        return before == wanted
