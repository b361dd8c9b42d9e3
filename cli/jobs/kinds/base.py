"""What the main job asks of the environments of one kind: a problem, where to train, and how to judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gymnasium.vector import VectorEnv

from cli.settings.kinds.base import Options, Settings

if TYPE_CHECKING:
    from kd_env.evaluation.judging.contenders import Contender
    from kd_env.evaluation.reports.report import Report

ProblemType = TypeVar("ProblemType")
AnyVectorEnv = VectorEnv[Any, Any, Any]


class Job(ABC, Generic[Options, ProblemType]):
    """One run.

    Args:
        settings: checked.
    """

    def __init__(self, settings: Settings[Options]) -> None:
        self.settings = settings

    @abstractmethod
    def make_teachers(self) -> None:
        """Make teachers that are missing."""

    @abstractmethod
    def load_problem(self) -> ProblemType:
        """The problem, with teachers that are made where they are missing, and a word about it."""

    @abstractmethod
    def check_training(self, problem: ProblemType) -> None:
        """Refuse what only the built problem tells to be of no use; raises ``ValueError``."""

    @abstractmethod
    def row_hashes(self, problem: ProblemType) -> dict[str, str]:
        """A hash of what each split that is read holds, by its name; ``train`` stands for all that is cut from it."""

    @abstractmethod
    def training_env(self, problem: ProblemType) -> AnyVectorEnv:
        """Where the agent learns."""

    @abstractmethod
    def judged(self, problem: ProblemType) -> tuple[tuple[str, ...], dict[str, Contender]]:
        """Names of those that are judged on fresh students, and the rules among them.

        A rule that is judged with other rows, too, stands among the rules once.
        """

    def stacks(self, problem: ProblemType) -> bool:
        """Whether the students of a training are stacked in one process."""
        return True

    def judging_processes(self, problem: ProblemType) -> int:
        """Processes that share the evaluation; 1: this one does it."""
        return 1

    @abstractmethod
    def rule_env(self, problem: ProblemType) -> AnyVectorEnv:
        """One replica, in which a rule can be made."""

    @abstractmethod
    def agent_options(self, env: AnyVectorEnv) -> dict[str, Any]:
        """Hyper-parameters of the agent."""

    @abstractmethod
    def total_steps(self, env: AnyVectorEnv) -> int:
        """Environment steps of the training."""

    @abstractmethod
    def is_over(self, env: AnyVectorEnv) -> bool:
        """Whether the training has come to its end before all steps are made."""

    @property
    @abstractmethod
    def goes_on(self) -> bool:
        """Whether a training that is finished can be taken up for more steps."""

    @abstractmethod
    def end_training(self, agent: Any, env: AnyVectorEnv) -> None:
        """Called when the agent has learned, before it is written."""

    @abstractmethod
    def check_rejudged(self, run: Path) -> None:
        """Refuse to judge the policy of a run again where that has no meaning; raises ``ValueError``."""

    @abstractmethod
    def load_policy(self, run: Path, problem: ProblemType) -> Any:
        """The policy of a run that fits the problem; None for a rule, which is made anew; raises ``ValueError``."""

    @abstractmethod
    def trained(self, problem: ProblemType, policy: Path) -> Contender:
        """The run's agent, which is no rule, as it is saved in a folder and judged."""

    @abstractmethod
    def evaluate(self, problem: ProblemType, agent: Any, policy: Path) -> Report:
        """Judge the agent and every rule on the same students.

        Args:
            problem: of training.
            agent: None where the run's agent is a rule.
            policy: the folder that it is saved in.
        """

    @abstractmethod
    def appendix(self, problem: ProblemType, policy: Path) -> str:
        """What ``results.md`` ends with, as Markdown; after the evaluation."""
