"""One run of a study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.jobs.studies.agents import quoted
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

    def with_values(self, section: str, **values: Any) -> Training:
        """The run with other values in a section of its configuration, which are overrides, too."""
        resolved = self.settings.resolved
        settings = replace(self.settings, resolved={**resolved, section: {**resolved[section], **values}})
        named = {f"{section}.{key}": value for key, value in values.items()}
        others = (text for text in self.overrides if text.split("=", 1)[0].lstrip("+") not in named)
        return Training(settings, (*others, *(f"{key}={quoted(value)}" for key, value in named.items())))

    def with_rules_of(self, other: Training) -> Training:
        """The run with the rules that another one judges."""
        given = self.with_values("evaluation", rules=other.settings.resolved["evaluation"]["rules"])
        return replace(given, settings=replace(given.settings, rules=other.settings.rules))

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
