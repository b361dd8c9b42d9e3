"""Checked settings of a job, and what reads them for the environments of one kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from kd_env.finetuning.classifier import TeacherConfig
    from kd_env.finetuning.co_classifier import CoTeacherConfig

Options = TypeVar("Options")
"""Options of the environments of a kind."""
Teachers = tuple[tuple[str, "str | TeacherConfig"], ...]


@dataclass(frozen=True)
class PolicySpec:
    """An agent or a rule by name, with its options."""

    name: str
    options: dict[str, Any]
    label: str
    """Its name in tables; differs from ``name`` where one rule stands twice."""


@dataclass(frozen=True)
class Settings(Generic[Options]):
    """Everything that the main job needs, checked."""

    kind: str
    """Of the environment, by name (:mod:`cli.settings.kinds.catalog`)."""
    resolved: dict[str, Any]
    """The configuration as it is written to ``config.yaml``."""
    env: Options
    """Of training; its teachers are None where some are made first, or packaged ones are used."""
    teachers: Teachers
    """Teachers that are named or made first: name, and folder or options of the fine-tuning; empty for packaged
    ones."""
    agent: PolicySpec
    rules: tuple[PolicySpec, ...] | None
    """None until :meth:`Reader.check` has found those that fit (``auto``)."""
    run_folder: Path
    evaluation_seeds: tuple[int, ...]
    cofinetuned: CoTeacherConfig | None = None
    """Options of the set that is co-fine-tuned first; ``teachers`` are the folders that its members will have."""
    interventions: tuple[str, ...] | None = ()
    """On the agent's policy: names that were given, and after :meth:`Reader.check` single ones. None: auto."""


class ReadOptions(NamedTuple):
    """What a reader makes of a configuration."""

    env: Any
    resolved: dict[str, Any]
    """The section ``env`` with what was left to be chosen."""
    teachers: Teachers
    agent: PolicySpec
    cofinetuned: CoTeacherConfig | None = None


class Reader(ABC, Generic[Options]):
    """Reads and checks the settings of the environments of one kind, before any work."""

    name: ClassVar[str]
    of_the_agent: ClassVar[tuple[str, ...]]
    """Options of the environment that belong to the agent: what it sees and how it says what it wants."""

    @abstractmethod
    def defaults(self, c: Mapping[str, Any]) -> dict[str, Any]:
        """Values by dotted key of options of the main job that are null or auto unless they are given."""

    @abstractmethod
    def read(self, c: dict[str, Any], agent: PolicySpec) -> ReadOptions:
        """The environment's options of a complete configuration; raises ``ValueError`` with the remedy."""

    @abstractmethod
    def check(self, settings: Settings[Options]) -> Settings[Options]:
        """Check names, options and pairs of agent and view, and fill in rules; raises ``ValueError`` with the
        remedy.
        """

    def ranks_students(self, c: Mapping[str, Any]) -> bool:
        """Whether judged students of a complete configuration can be ranked by their metric on the selection split."""
        return False

    def evaluation_seeds(self, c: Mapping[str, Any]) -> tuple[int, ...]:
        """Seeds of the students that are judged.

        Raises:
            ValueError: they are among those of the training.
        """
        first = c["evaluation"]["first_seed"]
        seeds = tuple(range(first, first + c["evaluation"]["seeds"]))
        # Replica i is trained from seed + i.
        if set(range(c["seed"], c["seed"] + c["num_envs"])) & set(seeds):
            raise ValueError(
                f"seed={c['seed']} with num_envs={c['num_envs']} trains on evaluation seeds ({seeds[0]} to "
                f"{seeds[-1]}); choose another seed or evaluation.first_seed."
            )
        return seeds
