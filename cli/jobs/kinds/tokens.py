"""The main job in the environment in which a tutor writes tokens into text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.common.saved import SavedAgent
from cli.jobs.kinds import prepare
from cli.jobs.kinds.base import AnyVectorEnv, Job
from cli.jobs.kinds.labels import row_hashes
from cli.jobs.kinds.token_samples import edited_samples
from cli.jobs.kinds.token_students import keep_student, read_joint, save_starts, write_joint
from cli.jobs.progress import show_progress
from cli.runs import folder as runs
from cli.settings.kinds.base import PolicySpec
from cli.settings.kinds.learning import check_learns, learning_options, total_steps
from cli.settings.kinds.tokens import is_joint, with_ready
from kd_env.config.environment import EnvConfig
from kd_env.mdp.problem import Problem
from kd_files.manifest import digests

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Contender
    from kd_env.evaluation.judging.keeping.kept import KeptResults
    from kd_env.evaluation.judging.results import PolicyResult
    from kd_env.evaluation.reports.report import Report


class TokenJob(Job[EnvConfig, Problem]):
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

    def load_problem(self) -> Problem:
        """As in :class:`Job`."""
        from kd_env.envs.build import build_problem

        config = with_ready(self.settings.env, tuple(prepare.made_teachers(self.settings.teachers)))
        problem = build_problem(config)
        facts, reader = problem.summary(), problem.reader
        words = "Labels of " if config.objective != "text" else ""
        verdict = problem.reference.verdict
        judged = "" if verdict is None else f"{verdict.words}; "
        print(
            f"{words}{facts['task']}: {len(problem.train)} train rows ({reader.left_out} left out, with too few "
            f"tokens), {reader.slots} slots a row, {len(problem.feedback)} feedback rows. Teacher: {judged}"
            f"saw feedback rows: {facts['saw_feedback']}. Passes in {problem.precision}.",
            flush=True,
        )
        return problem

    def check_training(self, problem: Problem) -> None:
        """As in :class:`Job`: the steps of an episode may follow from the text."""
        from kd_env.envs import DistillVectorEnv

        if self.learns:
            check_learns(self.settings, DistillVectorEnv(self.settings.resolved["num_envs"], problem=problem))

    def row_hashes(self, problem: Problem) -> dict[str, str]:
        """As in :class:`Job`."""
        return row_hashes(problem)

    def training_env(self, problem: Problem) -> AnyVectorEnv:
        """As in :class:`Job`; with ``protocol=joint`` it holds the one student of the run's seed."""
        from kd_env.envs import DistillVectorEnv
        from kd_env.evaluation.judging.joint import JointEnv
        from kd_env.evaluation.judging.tables import judged_tables

        c = self.settings.resolved
        if self.joint:
            return JointEnv(problem, judged_tables(problem), c["seed"], self.settings.agent.label)
        return DistillVectorEnv(c["num_envs"], problem=problem)

    def judged(self, problem: Problem) -> tuple[tuple[str, ...], dict[str, Contender]]:
        """As in :class:`Job`; with ``protocol=joint`` the agent's student is none of the fresh ones."""
        everyone = self._contenders(problem, self.settings.run_folder / runs.POLICY)
        return tuple(everyone), {name: each for name, each in everyone.items() if not each.learned}

    def rule_env(self, problem: Problem) -> AnyVectorEnv:
        """As in :class:`Job`; rules choose any token, and read by name."""
        from kd_env.envs import DistillVectorEnv

        return DistillVectorEnv(1, problem=_native(problem))

    def agent_options(self, env: AnyVectorEnv) -> dict[str, Any]:
        """As in :class:`Job`."""
        return learning_options(self.settings, env.unwrapped)

    def total_steps(self, env: AnyVectorEnv) -> int:
        """As in :class:`Job`; with ``protocol=joint`` those of the one episode."""
        return total_steps(self.settings.resolved, env.unwrapped)

    def is_over(self, env: AnyVectorEnv) -> bool:
        """With ``protocol=joint`` a student that diverged ends the training."""
        return self.joint and _result(env) is not None

    @property
    def goes_on(self) -> bool:
        """Not where the one student of the training is judged."""
        return not self.joint

    def end_training(self, agent: Any, env: AnyVectorEnv) -> None:
        """With ``protocol=joint`` the student is judged already, and kept."""
        if isinstance(agent, SavedAgent):  # nobody goes on from here
            agent.forget_experience()
        if not self.joint:
            return
        base: Any = env.unwrapped
        result = _result(env)
        assert result is not None, "the one episode has not ended"
        if result.diverged[0]:
            print("The student diverged; it counts as the worst end there is.", flush=True)
        [seed] = self.settings.evaluation_seeds
        if seed in self._kept():
            lost = bool(result.diverged[0])
            keep_student(self.settings.run_folder, self.settings.agent.label, base, 0, seed, lost, finished=True)
        write_joint(self.settings.run_folder, result)

    def check_rejudged(self, run: Path) -> None:
        """As in :class:`Job`."""
        if self.joint and self.learns:
            raise ValueError(
                f"The student of {run} learned while its agent did, and is judged there (env.protocol=joint). To judge "
                "the agent as it is now on fresh students add env.protocol=frozen; rules beside it stand in the run."
            )

    def load_policy(self, run: Path, problem: Problem) -> Any:
        """As in :class:`Job`."""
        from cli.jobs.contenders import load_policy
        from kd_env.envs import DistillVectorEnv

        if not self.learns:
            return None
        env = DistillVectorEnv(1, problem=problem)
        runs.check_spaces(run, env)
        return load_policy(run / runs.POLICY, env)

    def trained(self, problem: Problem, policy: Path) -> Contender:
        """As in :class:`Job`; each evaluation reads it anew."""
        from kd_env.evaluation.judging.contenders import Contender

        return Contender(self._trained(policy), learned=True, problem=problem)

    def evaluate(self, problem: Problem, agent: Any, policy: Path) -> Report:
        """As in :class:`Job`; with ``protocol=joint`` the student of the training beside those of the rules."""
        from kd_env.evaluation.judging.keeping.running import Running
        from kd_env.evaluation.judging.protocol import as_evaluation, evaluate_policies
        from kd_env.evaluation.judging.tables import judged_tables
        from kd_env.evaluation.reports.report import summarize

        settings, judged = self.settings, judged_tables(problem)
        save_starts(settings.run_folder, problem, self._kept())

        def keep(name: str, env: DistillVectorEnv, replica: int, seed: int, diverged: bool, _: object) -> None:
            if seed in self._kept():
                keep_student(settings.run_folder, name, env, replica, seed, diverged)

        seeds, contenders = settings.evaluation_seeds, self._contenders(problem, policy)
        kept, policies = self._kept_results(problem), {name: self._identity(name, policy) for name in contenders}
        found = {name: kept.read(name, identity) for name, identity in policies.items()}
        finished = {name: result for name, result in found.items() if result is not None}
        if finished:
            print(f"Judged before, and kept: {', '.join(finished)}.", flush=True)
        results: dict[str, PolicyResult] = {}
        if self.joint and self.learns:
            results[settings.agent.label] = read_joint(settings.run_folder)
        if contenders:  # a joint training without rules has none
            fresh = evaluate_policies(
                _native(problem),
                contenders,
                seeds,
                progress=show_progress(len(contenders) - len(finished)) if settings.resolved["progress"] else None,
                keep=keep,
                judged=judged,
                finished=finished,
                on_result=lambda result: kept.write(result.name, policies[result.name], result),
                running=lambda name: Running(kept, name, policies[name]),
            )
            results |= fresh.policies
        evaluation = as_evaluation(_native(problem), judged, results, seeds, joint=self.joint)
        return summarize(evaluation)

    def appendix(self, problem: Problem, policy: Path) -> str:
        """Texts as they were and as the agent edits them."""
        from kd_env.envs import DistillVectorEnv

        c, shown = self.settings.resolved, problem if self.learns else _native(problem)
        env = DistillVectorEnv(1, problem=shown, autoreset_mode="disabled")
        make = self._trained(policy) if self.learns else self._rule(self.settings.agent)
        lines = edited_samples(env, make(env), c["evaluation"]["first_seed"], c["env"]["samples"])
        return f"Texts, and as {self.settings.agent.label} edits them:\n\n{lines}" if lines else ""

    def _kept(self) -> tuple[int, ...]:
        return self.settings.evaluation_seeds[: self.settings.resolved["save_students"]]

    def _contenders(self, problem: Problem, policy: Path) -> dict[str, Contender]:
        """Who teaches fresh students, each in the view in which it acts."""
        from agents.rules.catalog import rule_class
        from kd_env.evaluation.judging.contenders import Contender

        agent, native = self.settings.agent, _native(problem)
        rules = [spec for spec in self.settings.rules or () if spec.label != agent.label]
        if not self.learns:
            rules = [agent, *rules]
        contenders: dict[str, Contender] = {}
        if self.learns and not self.joint:
            contenders[agent.label] = self.trained(problem, policy)
        for spec in rules:
            contenders[spec.label] = Contender(self._rule(spec), problem=native, chooses=rule_class(spec.name).chooses)
        return contenders

    def _kept_results(self, problem: Problem) -> KeptResults:
        """Where results of single policies are kept until the evaluation is written."""
        import kd_env
        from kd_env.evaluation.judging.keeping.kept import KeptResults

        evaluation = self.settings.resolved["evaluation"]
        models = (problem.config.teacher, problem.config.student_config.name_or_path)
        identity = {
            "version": kd_env.__version__,
            "rows": problem.fingerprint,
            "env": problem.config.to_dict(),
            "models": [digests(Path(folder)) for folder in models if folder],
            "seeds": list(self.settings.evaluation_seeds),
            "options": [evaluation["first_seed"], evaluation["deterministic"], self._kept()],
        }
        return KeptResults(self.settings.run_folder / runs.JUDGED, identity)

    def _identity(self, name: str, policy: Path) -> list[Any]:
        agent = self.settings.agent
        if name == agent.label and self.learns:
            return [agent.name, agent.options, digests(policy)]
        spec = next(spec for spec in (agent, *(self.settings.rules or ())) if spec.label == name)
        return [spec.name, spec.options]

    def _rule(self, spec: PolicySpec) -> Callable[[DistillVectorEnv], Any]:
        from agents import make_rule

        seed = self.settings.resolved["evaluation"]["first_seed"]
        return lambda env: make_rule(spec.name, env, seed=seed, **spec.options)

    def _trained(self, policy: Path) -> Callable[[DistillVectorEnv], Any]:
        """Makes the agent of a folder, as it is judged."""
        from agents import load_agent

        c = self.settings.resolved

        def make(env: DistillVectorEnv) -> _Actor:
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

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        best = self.deterministic or (isinstance(self.agent, SavedAgent) and self.agent.explores_by_chance)
        acted: tuple[Any, Any] = self.agent.predict(observation, state, episode_start, best)
        return acted


def _native(problem: Problem) -> Problem:
    """The problem in which rules act."""
    from kd_env.envs.process import with_options

    return with_options(problem, action_view="native", observation="dict")


def _result(env: AnyVectorEnv) -> PolicyResult | None:
    base: Any = env.unwrapped
    result: PolicyResult | None = base.result
    return result
