"""Who stands in an evaluation, and evaluations in several processes: each judges some of the policies.

Large students gain nothing from stacking on a CPU, and two threads in one process gain less than two processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from agents import agent_kind
from cli.jobs.progress import Progress
from cli.jobs.students import keeper
from cli.runs import folder as runs
from cli.settings import probe
from cli.settings.kinds.base import PolicySpec, Settings
from cli.settings.kinds.labels import with_feedback
from kd_env.config.environment import EnvConfig
from kd_env.core.processes import Tell, side_by_side
from kd_files.manifest import digests

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Contender, Policy
    from kd_env.evaluation.judging.keeping.kept import KeptResults
    from kd_env.evaluation.judging.results import Evaluation, PolicyResult
    from kd_env.mdp.problem import Problem

EXTRA = " (train+feedback)"


def names(settings: Settings[EnvConfig]) -> list[str]:
    """The run's agent, interventions on it, the rules, and with wrong labels in train those that see feedback, too."""
    rules = [rule.label for rule in settings.rules or () if rule.label != settings.agent.label]
    extra = [name + EXTRA for name in rules if settings.env.label_noise > 0]
    return [settings.agent.label, *interventions(settings), *rules, *extra]


def interventions(settings: Settings[EnvConfig]) -> dict[str, str]:
    """The interventions on the run's agent by their names in tables."""
    return {f"{settings.agent.label} [{what}]": what for what in settings.interventions or ()}


def schedule_seeds(settings: Settings[EnvConfig]) -> list[int]:
    """Seeds of the students on which schedules are recorded: the first of the training that are in no report."""
    from kd_env.evaluation.judging.interventions import STUDENTS

    judged = set(settings.evaluation_seeds)
    return list(islice((seed for seed in count(settings.resolved["seed"]) if seed not in judged), STUDENTS))


def contenders(
    settings: Settings[EnvConfig], problem: Problem, agent: Any, chosen: Sequence[str]
) -> dict[str, Contender]:
    """The chosen of :func:`names` on a problem; ``agent`` is None where the run's agent is a rule."""
    from kd_env.envs.build import build_problem
    from kd_env.evaluation.judging.contenders import Contender
    from kd_env.evaluation.judging.interventions import intervened

    rules = {rule.label: rule for rule in settings.rules or ()}
    view, acted = settings.env.action_view, interventions(settings)
    learned = Contender(lambda env: agent, view, learned=True)
    # The feedback labels are clean: what they give without any agent has to stand beside what the agent gives.
    wider = build_problem(with_feedback(settings.env)) if any(name.endswith(EXTRA) for name in chosen) else None
    found: dict[str, Contender] = {}
    for name in chosen:
        if name == settings.agent.label:
            found[name] = _rule(settings, settings.agent, view, problem) if agent is None else learned
        elif name in acted:
            seeds, deterministic = schedule_seeds(settings), settings.resolved["evaluation"]["deterministic"]
            found[name] = intervened(learned, settings.agent.label, acted[name], problem, seeds, deterministic)
        else:
            spec = rules[name.removesuffix(EXTRA)]
            own = probe.rule_view(spec, settings.env, probe.teacher_names(settings))
            found[name] = _rule(settings, spec, own, problem, wider if name.endswith(EXTRA) else None)
    return found


def rules(settings: Settings[EnvConfig], problem: Problem) -> dict[str, Contender]:
    """Every rule that is judged, in the view in which it acts; the run's agent among them where it is one."""
    found = {rule.label: rule for rule in settings.rules or ()}
    if agent_kind(settings.agent.name) == "rule":
        found = {settings.agent.label: settings.agent, **found}
    names = probe.teacher_names(settings)
    views = {label: probe.rule_view(spec, settings.env, names) for label, spec in found.items()}
    return {label: _rule(settings, spec, views[label], problem) for label, spec in found.items()}


def load_policy(folder: Path, env: VectorEnv[Any, Any, Any]) -> Any:
    """The agent in a folder, to act as in ``env``, where it learns no more.

    Raises:
        ValueError: no saved agent, or one that does not fit the spaces (or rows) of the environment.
    """
    from agents import load_agent
    from agents.common.base import check_same_spaces
    from agents.common.storage import read_header

    if agent_kind(read_header(folder)["agent"]) != "sb3":
        return load_agent(folder, env)  # one whose policy is shared by rows learns here how many there are
    # With an env it would take up its replay buffer, which fits only as many replicas as it was trained in.
    agent: Any = load_agent(folder)
    check_same_spaces(agent.spaces, env)
    return agent


def _rule(
    settings: Settings[EnvConfig], spec: PolicySpec, view: str, problem: Problem, wider: Problem | None = None
) -> Contender:
    from agents import make_rule
    from agents.rules.catalog import rule_class
    from kd_env.envs.process import with_options
    from kd_env.evaluation.judging.contenders import Contender

    def factory(env: DistillVectorEnv) -> Policy:
        return make_rule(spec.name, env, seed=settings.evaluation_seeds[0], **spec.options)

    rule, changes = rule_class(spec.name), probe.beside(spec, settings.env)
    return Contender(
        factory,
        view,
        problem=with_options(wider or problem, **changes) if changes else wider,
        extra_labels=wider is not None,
        reads_evaluations=rule.looks_at_feedback and not rule.asks_influence,
        chooses=rule.chooses,
        bound=rule.bound,
    )


def number_of_jobs(settings: Settings[EnvConfig], problem: Problem, count: int) -> int:
    """Processes that share the work: ``evaluation.jobs``, or with ``auto`` one a core where stacking gains nothing."""
    from kd_env.envs import choose_vectorization

    jobs = settings.resolved["evaluation"]["jobs"]
    if problem.ranks.world > 1:  # which share the work already
        return 1
    if jobs != "auto":
        return min(int(jobs), count)
    chosen = choose_vectorization("auto", device=problem.device, arithmetic=problem.arithmetic, num_envs=2)
    return min(os.cpu_count() or 1, count) if chosen == "processes" else 1


def policy_identity(settings: Settings[EnvConfig], name: str, policy: Path) -> list[Any]:
    """What a policy is: its name and options, and of an agent that has learned the files that it is saved in."""
    if name == settings.agent.label or name in interventions(settings):
        learned = agent_kind(settings.agent.name) != "rule"
        files = digests(policy) if learned else None
        return [settings.agent.name, settings.agent.options, files, settings.resolved["save_students"]]
    spec = {rule.label: rule for rule in settings.rules or ()}[name.removesuffix(EXTRA)]
    return [spec.name, spec.options]


def kept_results(settings: Settings[EnvConfig], problem: Problem) -> KeptResults:
    """Where the evaluation keeps the results of single policies until it is written."""
    import kd_env
    from kd_env.evaluation.judging.keeping.kept import KeptResults

    models = [teacher.folder for teacher in problem.teachers if teacher.answers is None]
    student = problem.config.student_config.name_or_path
    answered = [teacher.identity for teacher in problem.teachers if teacher.answers is not None]
    identity = {
        "version": kd_env.__version__,
        "rows": problem.fingerprint,
        "env": {key: value for key, value in problem.config.to_dict().items() if key != "show_progress"},
        "models": [*(digests(Path(folder)) for folder in (*models, student) if folder), *answered],
        "seeds": list(settings.evaluation_seeds),
        "deterministic": settings.resolved["evaluation"]["deterministic"],
    }
    return KeptResults(settings.run_folder / runs.JUDGED, identity)


def judge(
    settings: Settings[EnvConfig],
    problem: Problem,
    agent: Any,
    policy: Path,
    chosen: Sequence[str],
    progress: Progress | None,
) -> Evaluation:
    """The evaluation of the chosen policies in this process, but for those whose results are kept.

    Args:
        settings: of the run.
        problem: of training.
        agent: None where the run's agent is a rule.
        policy: the folder that it is saved in.
        chosen: of :func:`names`.
        progress: told about every step.
    """
    from kd_env.evaluation.judging.keeping.running import Running
    from kd_env.evaluation.judging.protocol import evaluate_policies

    kept = kept_results(settings, problem)
    policies = {name: policy_identity(settings, name, policy) for name in chosen}
    return evaluate_policies(
        problem,
        contenders(settings, problem, agent, chosen),
        settings.evaluation_seeds,
        deterministic=settings.resolved["evaluation"]["deterministic"],
        progress=progress,
        keep=keeper(settings),
        finished=finished_results(settings, problem, policy, chosen),
        on_result=lambda result: kept.write(result.name, policies[result.name], result),
        running=lambda name: Running(kept, name, policies[name]),
    )


def finished_results(
    settings: Settings[EnvConfig], problem: Problem, policy: Path, chosen: Sequence[str]
) -> dict[str, PolicyResult]:
    """Kept results of the chosen policies, by name."""
    kept = kept_results(settings, problem)
    found = {name: kept.read(name, policy_identity(settings, name, policy)) for name in chosen}
    return {name: result for name, result in found.items() if result is not None}


def judge_in_processes(
    settings: Settings[EnvConfig],
    policy: Path,
    chosen: Sequence[str],
    finished: Mapping[str, PolicyResult],
    jobs: int,
    progress: Progress | None,
) -> Evaluation:
    """The same in up to ``jobs`` spawned processes with one thread each, which read the agent from ``policy``."""
    from kd_env.evaluation.judging.protocol import merge_evaluations

    # Nobody may be left to be judged, and what an evaluation says of the problem is still wanted.
    left = [name for name in chosen if name not in finished] or list(chosen)
    tasks = [(settings, policy, part) for part in parts(settings, left, jobs)]
    found = side_by_side(_part, tasks, lambda event: None if progress is None else progress(*event))
    return merge_evaluations(found, chosen, finished)


def parts(settings: Settings[EnvConfig], chosen: Sequence[str], jobs: int) -> list[list[str]]:
    """Policies in up to ``jobs`` parts of nearly equal numbers, of those that are judged together as few cut as can be.

    Policies that learn on the same rows and act in the same view are distilled as one stack
    (:mod:`kd_env.evaluation.judging.stacks`).
    """
    specs, teachers = {spec.label: spec for spec in settings.rules or ()}, probe.teacher_names(settings)
    own = {settings.agent.label, *interventions(settings)}

    def kind(name: str) -> tuple[bool, str]:
        if name in own:
            return False, settings.env.action_view
        spec = specs[name.removesuffix(EXTRA)]
        decision = probe.beside(spec, settings.env).get("decision", "")
        return name.endswith(EXTRA), f"{decision}{probe.rule_view(spec, settings.env, teachers)}"

    ordered = sorted(chosen, key=kind)
    cuts = [-(-len(ordered) * place // jobs) for place in range(jobs + 1)]
    return [ordered[begin:end] for begin, end in pairwise(cuts) if begin < end]


def _part(settings: Settings[EnvConfig], policy: Path, chosen: Sequence[str], tell: Tell) -> Evaluation:
    import torch

    # Two processes with two threads each run several times slower than with one.
    torch.set_num_threads(1)
    from kd_env.envs import DistillVectorEnv
    from kd_env.envs.build import build_problem

    problem, agent = build_problem(settings.env), None
    if {settings.agent.label, *interventions(settings)} & {*chosen} and agent_kind(settings.agent.name) != "rule":
        agent = load_policy(policy, DistillVectorEnv(1, problem=problem))
    return judge(settings, problem, agent, policy, chosen, lambda *event: tell(event))
