"""What a study asks of the place where its trainings run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self


class Child(NamedTuple):
    """One process."""

    name: str
    words: tuple[str, ...]
    """Module and its arguments, as after ``python -m``."""
    log: Path
    """Gets what it prints, after what is there."""


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    """Of the process; 0 is no error."""
    said: str = ""
    """What stood in the way of its start, or took it away; joins its log."""
    lost: bool = False
    """Whether its place was lost, not its work: it may go on elsewhere, from its last checkpoint."""


class Cell(ABC):
    """A process that was handed in."""

    def __init__(self, child: Child) -> None:
        self.child = child

    @abstractmethod
    def ended(self) -> Ended | None:
        """How it ended; None where it has not. Nothing of it is left where it was then."""

    def waits(self) -> bool:
        """Whether it has no place yet."""
        return False


class Backend(ABC):
    """Starts processes somewhere; a context that closes what it opened there."""

    jobs: int | None
    """Processes that are handed in at the same time; None: all."""
    retries: int = 0
    """Times that a process starts anew after it was lost."""
    poll: float = 0.1
    """Seconds between two looks at the processes."""
    wanted: str = ""
    """What each of them needs, for those that wait."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @abstractmethod
    def start(self, child: Child) -> Cell:
        """Hand a process in."""

    @abstractmethod
    def stop(self, cells: Sequence[Cell]) -> None:
        """End processes that have not ended: politely, so that they close what they opened, then by force."""
