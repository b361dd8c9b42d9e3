"""The main job in the environment in which a tutor writes tokens into text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.common.saved import SavedAgent
from cli.jobs.kinds import prepare
from cli.jobs.kinds.base import AnyVectorEnv, Job
from cli.jobs.kinds.token_samples import edited_samples
from cli.jobs.kinds.token_students import keep_students, read_joint, save_starts, write_joint
from cli.jobs.progress import show_progress
from cli.runs import folder as runs
from cli.settings.kinds.base import PolicySpec
from cli.settings.kinds.tokens import is_joint, with_ready
from cli.settings.learning import check_learns, learning_options, total_steps
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.decisions.tutor_token.process import with_tutor_options

if TYPE_CHECKING:
    from kd_env.envs.tutor_env import TutorVectorEnv
    from kd_env.evaluation.judging.tutor_dev import Judged
    from kd_env.evaluation.judging.tutoring import Contender, TutorResult
    from kd_env.evaluation.reports.report import Report

DEV_ROWS = 512
"""Dev and selection texts that students are judged on, where there is no task."""


class TokenJob(Job[TutorConfig, TutorProblem]):
    """As in :class:`Job`."""

    @property
    def joint(self) -> bool:
        """Whether the student beside which the agent learns is the one that is judged."""
        return is_joint(self.settings.resolved)

    @property
    def learns(self) -> bool:
        """Whether the run's agent is none of the rules."""
        from agents import agent_kind

        return agent_kind(self.settings.agent.name) != "rule"

    def make_teachers(self) -> None:
        """As in :class:`Job`."""
        prepare.made_teachers(self.settings.teachers)

    def load_problem(self) -> TutorProblem:
        """As in :class:`Job`."""
        from kd_env.decisions.tutor_token.corpus.text import build_tutor_problem

        config = with_ready(self.settings.env, tuple(prepare.made_teachers(self.settings.teachers)))
        problem = build_tutor_problem(config)
        assets, what = problem.assets, config.task or config.text
        print(
            f"{'Text' if config.task is None else 'Labels of'} {what}: {len(problem.train)} train rows "
            f"({assets.left_out} left out, with too few tokens), {problem.slots} slots a row, {len(problem.feedback)} "
            f"feedback rows. Teacher saw feedback rows: {assets.saw_feedback}.",
            flush=True,
        )
        return problem

    def check_training(self, problem: TutorProblem) -> None:
        """As in :class:`Job`: the steps of an episode may follow from the text."""
        from kd_env.envs.tutor_env import TutorVectorEnv

        if self.learns:
            check_learns(self.settings, TutorVectorEnv(self.settings.resolved["num_envs"], problem=problem))

    def row_hashes(self, problem: TutorProblem) -> dict[str, str]:
        """As in :class:`Job`; of texts the train split is all there is to hold back from."""
        from kd_env.data.loading import get_task
        from kd_env.evaluation.judging.dev import check_dev

        config, train = problem.config, {"train": problem.assets.fingerprint}
        if config.task is None:
            return train
        return {**train, **check_dev(get_task(config.task, config.columns, config.data_dir), config.data_dir)}

    def training_env(self, problem: TutorProblem) -> AnyVectorEnv:
        """As in :class:`Job`; with ``protocol=joint`` it holds the one student of the run's seed."""
        from kd_env.envs.tutor_env import TutorVectorEnv
        from kd_env.evaluation.judging.tutor_joint import JointEnv

        c = self.settings.resolved
        if self.joint:
            return JointEnv(problem, self._judged(problem), c["seed"])
        return TutorVectorEnv(c["num_envs"], problem=problem)

    def rule_env(self, problem: TutorProblem) -> AnyVectorEnv:
        """As in :class:`Job`; rules choose any token, and read by name."""
        from kd_env.envs.tutor_env import TutorVectorEnv

        return TutorVectorEnv(1, problem=_native(problem))

    def agent_options(self, env: AnyVectorEnv) -> dict[str, Any]:
        """As in :class:`Job`."""
        return learning_options(self.settings, env.unwrapped)

    def total_steps(self, env: AnyVectorEnv) -> int:
        """As in :class:`Job`; with ``protocol=joint`` those of the one episode."""
        return total_steps(self.settings.resolved, env.unwrapped)

    def is_over(self, env: AnyVectorEnv) -> bool:
        """With ``protocol=joint`` a student that diverged ends the training."""
        return self.joint and _result(env) is not None

    def end_training(self, agent: Any, env: AnyVectorEnv) -> None:
        """With ``protocol=joint`` the student is judged already, and kept."""
        if isinstance(agent, SavedAgent):  # nobody goes on from here
            agent.forget_experience()
        if not self.joint:
            return
        base: Any = env.unwrapped
        result = _result(env)
        assert result is not None, "the one episode has not ended"
        settings, seeds = self.settings, self.settings.evaluation_seeds
        if result.diverged[0]:
            print("The student diverged; it is judged as it was at its start.", flush=True)
        keep_students(settings.run_folder, settings.agent.label, base, result, seeds, self._kept(), finished=True)
        write_joint(settings.run_folder, result)

    def check_rejudged(self, run: Path) -> None:
        """As in :class:`Job`."""
        if self.joint and self.learns:
            raise ValueError(
                f"The student of {run} learned while its agent did, and is judged there (env.protocol=joint). To judge "
                "the agent as it is now on fresh students add env.protocol=frozen; rules beside it stand in the run."
            )

    def load_policy(self, run: Path, problem: TutorProblem) -> Any:
        """As in :class:`Job`."""
        from cli.jobs.contenders import load_policy
        from kd_env.envs.tutor_env import TutorVectorEnv

        if not self.learns:
            return None
        env = TutorVectorEnv(1, problem=problem)
        runs.check_spaces(run, env)
        return load_policy(run / runs.POLICY, env)

    def evaluate(self, problem: TutorProblem, agent: Any, policy: Path) -> Report:
        """As in :class:`Job`; with ``protocol=joint`` the student of the training beside those of the rules."""
        from agents.rules.catalog import rule_class
        from kd_env.evaluation.judging.tutor_evaluation import as_evaluation
        from kd_env.evaluation.judging.tutoring import evaluate_tutors
        from kd_env.evaluation.reports.report import summarize

        settings, judged = self.settings, self._judged(problem)
        save_starts(settings.run_folder, problem, self._kept())
        contenders = self._contenders(problem, policy)

        def on_end(name: str, env: TutorVectorEnv, result: TutorResult, of: Sequence[int]) -> None:
            keep_students(settings.run_folder, name, env, result, of, self._kept())

        progress = show_progress() if settings.resolved["progress"] else None
        results = evaluate_tutors(
            _native(problem), contenders, settings.evaluation_seeds, judged=judged, progress=progress, on_end=on_end
        )
        label = settings.agent.label
        if self.joint and self.learns:
            results = {label: read_joint(settings.run_folder), **results}
        views = {name: "native" for name in results} | {label: problem.config.action_view}
        learned = [label] if self.learns else []
        rules = [settings.agent, *(settings.rules or ())] if not self.learns else settings.rules or ()
        alike = [spec.label for spec in rules if not rule_class(spec.name).chooses]
        seeds = settings.evaluation_seeds
        return summarize(as_evaluation(problem, judged, results, seeds, learned, views, self.joint, alike))

    def appendix(self, problem: TutorProblem, policy: Path) -> str:
        """Texts as they were and as the agent edits them."""
        from kd_env.envs.tutor_env import TutorVectorEnv

        c, shown = self.settings.resolved, problem if self.learns else _native(problem)
        env = TutorVectorEnv(1, problem=shown, autoreset_mode="disabled")
        make = self._trained(policy) if self.learns else self._rule(self.settings.agent)
        lines = edited_samples(env, make(env), c["evaluation"]["first_seed"], c["env"]["samples"])
        return f"Texts, and as {self.settings.agent.label} edits them:\n\n{lines}" if lines else ""

    def _judged(self, problem: TutorProblem) -> Judged:
        from kd_env.evaluation.judging.tutor_dev import judged_problems

        return judged_problems(problem, DEV_ROWS)

    def _kept(self) -> tuple[int, ...]:
        return self.settings.evaluation_seeds[: self.settings.resolved["save_students"]]

    def _contenders(self, problem: TutorProblem, policy: Path) -> dict[str, Contender]:
        """Who teaches fresh students, each in the view in which it acts."""
        from kd_env.evaluation.judging.tutoring import Contender

        agent, native = self.settings.agent, _native(problem)
        rules = [spec for spec in self.settings.rules or () if spec.label != agent.label]
        if not self.learns:
            rules = [agent, *rules]
        contenders = {} if self.joint or not self.learns else {agent.label: Contender(self._trained(policy), problem)}
        return {**contenders, **{spec.label: Contender(self._rule(spec), native) for spec in rules}}

    def _rule(self, spec: PolicySpec) -> Callable[[TutorVectorEnv], Any]:
        from agents import make_rule

        seed = self.settings.resolved["evaluation"]["first_seed"]
        return lambda env: make_rule(spec.name, env, seed=seed, **spec.options)

    def _trained(self, policy: Path) -> Callable[[TutorVectorEnv], Any]:
        """Makes the agent of a folder, as it is judged."""
        from agents import load_agent

        c = self.settings.resolved

        def make(env: TutorVectorEnv) -> _Actor:
            agent: Any = load_agent(policy, device=prepare.agent_device(c))
            if isinstance(agent, SavedAgent):
                agent.seed_draws(c["evaluation"]["first_seed"])
            return _Actor(agent, c["evaluation"]["deterministic"])

        return make


@dataclasses.dataclass(frozen=True)
class _Actor:
    """A trained agent that acts as in training, but without exploration by chance alone."""

    agent: Any
    deterministic: bool

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None) -> tuple[Any, Any]:
        best = self.deterministic or (isinstance(self.agent, SavedAgent) and self.agent.explores_by_chance)
        acted: tuple[Any, Any] = self.agent.predict(observation, state, episode_start, best)
        return acted


def _native(problem: TutorProblem) -> TutorProblem:
    """The problem in which rules act."""
    return with_tutor_options(problem, action_view="native", observation="dict")


def _result(env: AnyVectorEnv) -> TutorResult | None:
    base: Any = env.unwrapped
    result: TutorResult | None = base.result
    return result
