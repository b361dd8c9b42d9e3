"""What a report is made of: run folders as they were read, one problem or several, and the parts of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_env.evaluation.comparing.comparison import Comparison
from kd_env.evaluation.comparing.hypotheses import Outcome
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.comparing.transfer import TransferCell
from kd_env.evaluation.pages.tables import Table


@dataclass(frozen=True)
class Source:
    """One run folder: every number of a report comes from one or several of them."""

    run: Run
    link: str
    """From the report's folder to the run's."""
    history: tuple[Mapping[str, float], ...] = ()
    """Log of the training, a mapping for each report of the agent."""
    command: str = ""
    """Content of ``command.txt``."""
    versions: Mapping[str, Any] | None = None
    updates_per_step: int = 1
    """Student updates of an environment step, where the episode has as many."""
    budget: int | None = None
    """Student updates of an episode; None where the data say how many."""

    @property
    def place(self) -> str:
        """Its folder."""
        return self.run.place


@dataclass(frozen=True)
class Problem:
    """Runs that can be compared: one task, split, teacher, student and budget."""

    name: str
    comparison: Comparison
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Registration:
    """What was fixed before the cells of a grid study ran."""

    hash: str
    registered: str
    """When, in UTC."""
    departures: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Everything that a report is made from."""

    title: str
    command: str
    problems: tuple[Problem, ...]
    left_out: tuple[str, ...] = ()
    """Sentences that name what has no results yet."""
    registration: Registration | None = None
    outcomes: tuple[Outcome, ...] = ()
    """What became of its hypotheses."""
    transfer: tuple[TransferCell, ...] = ()
    """Policies of one problem on others."""


@dataclass(frozen=True)
class Picture:
    """A figure: its drawing, and what it says to who cannot see it."""

    name: str
    """Of its files, unique in a report."""
    caption: str
    alt: str
    svg: str
    """Part of an HTML page: without a header, and with ids of its own."""
    png: bytes
    """Empty where only the page is written."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    lead: str
    """Stands above the figures; what is not there, and why, too."""
    words: tuple[str, ...] = ()
    """What the numbers do and do not show, behind a click."""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    texts: tuple[str, ...] = ()
    """Shown as they are, in a fixed-width font."""
