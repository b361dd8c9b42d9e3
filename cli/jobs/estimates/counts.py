"""What a job will do, in numbers that follow from its settings."""

from __future__ import annotations

from dataclasses import dataclass

from cli.jobs.contenders import EXTRA
from cli.settings.kinds.base import Settings
from kd_env.config.environment import EnvConfig


@dataclass(frozen=True)
class Counts:
    """Numbers of one training and of the evaluation that ends it."""

    steps: int
    """Environment steps of the training that are still to be made, over all replicas."""
    num_envs: int
    episode_steps: int
    episode_updates: int
    """Student updates of an episode."""
    evaluate_every: int
    """Steps from one reading of a student on the evaluated feedback rows to the next."""
    policies: tuple[str, ...]
    """Judged on fresh students, by name."""
    seeds: int
    """Students of each policy."""
    at_end: frozenset[str] = frozenset()
    """Rules, by name, whose students are read at the end of an episode alone."""

    @property
    def rounds(self) -> int:
        """Steps of all replicas at once, in training."""
        return -(-self.steps // self.num_envs)

    @property
    def all_rounds(self) -> int:
        """Those of the evaluation included."""
        return self.rounds + len(self.policies) * self.episode_steps

    @property
    def student_steps(self) -> tuple[int, int]:
        """Steps of single students, in the training and in the evaluation."""
        return self.rounds * self.num_envs, len(self.policies) * self.seeds * self.episode_steps

    @property
    def updates(self) -> tuple[int, int]:
        """Student updates, of both."""
        training, judged = self.student_steps
        return (
            training * self.episode_updates // self.episode_steps,
            judged * self.episode_updates // self.episode_steps,
        )

    def read_at_end(self, policy: str) -> bool:
        """Whether the students of a policy are read at the end of an episode alone."""
        return policy.removesuffix(EXTRA) in self.at_end

    @property
    def evaluations(self) -> tuple[int, int]:
        """Readings of a student on the evaluated feedback rows, of both."""
        judged = sum(
            self.seeds * (1 if self.read_at_end(name) else self.episode_steps // self.evaluate_every)
            for name in self.policies
        )
        return self.student_steps[0] // self.evaluate_every, judged


def counts_of(
    settings: Settings[EnvConfig],
    policies: tuple[str, ...],
    episode_steps: int,
    steps: int,
    done: int = 0,
    *,
    seeds: int,
    at_end: frozenset[str] = frozenset(),
) -> Counts:
    """The numbers of one run.

    Args:
        settings: of the run.
        policies: that are judged on fresh students.
        episode_steps: of its environment.
        steps: of the whole training; 0 where nothing is trained.
        done: of them, before.
        seeds: students of each policy.
        at_end: rules whose students are read at the end of an episode alone.
    """
    c, env = settings.resolved, settings.env
    return Counts(
        steps=max(steps - done, 0),
        num_envs=int(c["num_envs"]),
        episode_steps=episode_steps,
        episode_updates=min(env.budget, episode_steps * env.updates_per_step),
        evaluate_every=env.evaluate_every or episode_steps,
        policies=policies,
        seeds=seeds,
        at_end=at_end,
    )


def turns(processes: int, cores: int) -> float:
    """How many times as long each of several processes takes as alone."""
    return max(1.0, processes / cores)
