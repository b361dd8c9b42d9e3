"""The main job in environments in which students learn the labels of a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs import contenders
from cli.jobs.kinds import judge, prepare
from cli.jobs.kinds.base import AnyVectorEnv, Job
from cli.runs import folder as runs
from cli.settings.controls import agent_options
from kd_env.config.environment import EnvConfig
from kd_env.mdp.problem import Problem

if TYPE_CHECKING:
    from kd_env.evaluation.judging.contenders import Contender
    from kd_env.evaluation.reports.report import Report


class LabelJob(Job[EnvConfig, Problem]):
    """As in :class:`Job`."""

    def make_teachers(self) -> None:
        """As in :class:`Job`."""
        prepare.with_teachers(self.settings)

    def load_problem(self) -> Problem:
        """As in :class:`Job`; checked down to the dev rows."""
        return prepare.load_problem(self.settings)

    def check_training(self, problem: Problem) -> None:
        """Nothing: a probe told everything before."""

    def row_hashes(self, problem: Problem) -> dict[str, str]:
        """As in :class:`Job`."""
        return row_hashes(problem)

    def training_env(self, problem: Problem) -> AnyVectorEnv:
        """As in :class:`Job`."""
        from kd_env.envs import make_vector

        c = self.settings.resolved
        return make_vector(problem.config, c["num_envs"], c["vectorization"], problem=problem)

    def stacks(self, problem: Problem) -> bool:
        """As in :class:`Job`."""
        from kd_env.envs import choose_vectorization

        c = self.settings.resolved
        chosen = choose_vectorization(
            c["vectorization"], device=problem.device, arithmetic=problem.arithmetic, num_envs=c["num_envs"]
        )
        return chosen == "stacked" or problem.ranks.world > 1

    def judged(self, problem: Problem) -> tuple[tuple[str, ...], dict[str, Contender]]:
        """As in :class:`Job`."""
        return tuple(contenders.names(self.settings)), contenders.rules(self.settings, problem)

    def judging_processes(self, problem: Problem) -> int:
        """As in :class:`Job`."""
        return contenders.number_of_jobs(self.settings, problem, len(contenders.names(self.settings)))

    def rule_env(self, problem: Problem) -> AnyVectorEnv:
        """As in :class:`Job`."""
        from kd_env.envs import DistillVectorEnv

        return DistillVectorEnv(1, problem=problem)

    def agent_options(self, env: AnyVectorEnv) -> dict[str, Any]:
        """As in :class:`Job`."""
        c = self.settings.resolved
        return {**self.settings.agent.options, **agent_options(c["control"], c["seed"])}

    def total_steps(self, env: AnyVectorEnv) -> int:
        """As in :class:`Job`."""
        return int(self.settings.resolved["total_timesteps"])

    def is_over(self, env: AnyVectorEnv) -> bool:
        """Never before all steps are made."""
        return False

    @property
    def goes_on(self) -> bool:
        """Always."""
        return True

    def end_training(self, agent: Any, env: AnyVectorEnv) -> None:
        """Nothing is kept but the agent."""

    def check_rejudged(self, run: Path) -> None:
        """Every policy can be judged again."""

    def load_policy(self, run: Path, problem: Problem) -> Any:
        """As in :class:`Job`."""
        from agents import agent_kind

        if agent_kind(self.settings.agent.name) == "rule":  # made anew, from the names that it finds
            return None
        env = self.rule_env(problem)
        # Names are compared here and spaces by the agent: equal sizes alone do not make two observations the same.
        runs.check_spaces(run, env)
        return contenders.load_policy(run / runs.POLICY, env)

    def trained(self, problem: Problem, policy: Path) -> Contender:
        """As in :class:`Job`."""
        from kd_env.evaluation.judging.contenders import Contender

        agent = contenders.load_policy(policy, self.rule_env(problem))
        return Contender(lambda env: agent, problem.config.action_view, learned=True)

    def evaluate(self, problem: Problem, agent: Any, policy: Path) -> Report:
        """As in :class:`Job`, on fresh students."""
        return judge.evaluate(self.settings, problem, agent, policy)

    def appendix(self, problem: Problem, policy: Path) -> str:
        """Nothing."""
        return ""


def row_hashes(problem: Problem) -> dict[str, str]:
    """Hashes of the rows of a problem, by split; of texts the train split is all there is to hold back from."""
    from kd_env.evaluation.judging.dev import check_dev

    train = {"train": problem.fingerprint}
    if problem.config.objective == "text":
        return train
    return {**train, **check_dev(problem.task, problem.config.data_dir)}
