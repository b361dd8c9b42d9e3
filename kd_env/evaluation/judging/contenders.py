"""What takes part in an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from kd_env.envs import DistillVectorEnv
from kd_env.mdp.problem import Problem

TEACHER_TRACES = ("teacher_loss", "teacher_influence_ratio", "teacher_influence_cosine")
"""What ``info`` says of a teacher that learns."""


Progress = Callable[[str, int, int], None]
"""Called with the policy's name, the steps done and the steps of a full episode."""


class Standing(NamedTuple):
    """How a student of a task did on the selection split; of two the larger one did better."""

    metric: float
    """The task's first metric."""
    minus_loss: float
    """Its loss (``e`` of the problem), negative: among equal metrics the lower loss is better."""


Keep = Callable[[str, DistillVectorEnv, int, int, bool, Callable[[], Standing]], None]
"""Called at the end of each student's episode, while it is still there: with the policy's name, the environment, the
replica, its seed, whether it diverged, and what gives its standing (of a task of classes or scores)."""


class Policy(Protocol):
    """What an evaluation asks of a policy; SB3's algorithms have it too."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for observations ``[N, O]``, and the memory for the next call."""
        ...


PolicyFactory = Callable[[DistillVectorEnv], Policy]


@dataclass(frozen=True)
class Contender:
    """One policy of an evaluation."""

    factory: PolicyFactory
    """Makes the policy for the vector environment that it will drive."""
    action_view: str | None = None
    """View it acts in; None is the problem's."""
    learned: bool = False
    """Whether it was trained. A rule that was not may become the comparator."""
    problem: Problem | None = None
    """Another problem of the same task: with another decision process on the same rows and models, of which it may
    change what is seen and decided but no update, or one that trains on feedback rows too."""
    extra_labels: bool = False
    """Whether that problem trains on feedback rows too. Such a policy has seen more labels, so it is shown and never
    the comparator."""
    reads_evaluations: bool = True
    """Whether what it does may depend on evaluations of the feedback rows before an episode ends. Where it does not,
    none are made (where rewards only say how the episode ended): its students are the same, and cheaper."""
    chooses: bool = True
    """False for a rule that treats everything alike or goes by chance."""
    bound: bool = False
    """Whether it sees a truth that no policy can know: it is shown, and is neither comparator nor rival."""
    intervention: str = ""
    """What is done to a learned policy here (:mod:`kd_env.evaluation.judging.interventions`); such a contender is
    neither learned nor a rule."""
    of: str = ""
    """Name of that policy."""

    @property
    def said(self) -> dict[str, Any]:
        """What results say of it."""
        return {
            key: getattr(self, key) for key in ("learned", "extra_labels", "chooses", "bound", "intervention", "of")
        }
