"""Who stands in an evaluation, and evaluations in several processes: each judges some of the policies.

Large students gain nothing from stacking on a CPU, and two threads in one process gain less than two processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from cli.jobs.students import keeper
from cli.settings import probe
from cli.settings.kinds.base import PolicySpec, Settings
from cli.settings.kinds.labels import with_feedback
from kd_env.config.environment import EnvConfig
from kd_env.core.processes import Tell, side_by_side

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Contender, Policy
    from kd_env.evaluation.judging.results import Evaluation
    from kd_env.mdp.problem import Problem

EXTRA = " (train+feedback)"
Progress = Callable[[str, int, int], None]


def names(settings: Settings[EnvConfig]) -> list[str]:
    """The run's agent, the rules, and with wrong labels in train the rules that see feedback labels too."""
    rules = [rule.label for rule in settings.rules or () if rule.label != settings.agent.label]
    return [settings.agent.label, *rules, *(name + EXTRA for name in rules if settings.env.label_noise > 0)]


def contenders(settings: Settings[EnvConfig], agent: Any, chosen: Sequence[str]) -> dict[str, Contender]:
    """The chosen of :func:`names`; ``agent`` is None where the run's agent is a rule."""
    from kd_env.envs.build import build_problem
    from kd_env.evaluation.judging.contenders import Contender

    rules = {rule.label: rule for rule in settings.rules or ()}
    # The feedback labels are clean: what they give without any agent has to stand beside what the agent gives.
    wider = build_problem(with_feedback(settings.env)) if any(name.endswith(EXTRA) for name in chosen) else None
    found: dict[str, Contender] = {}
    for name in chosen:
        if name == settings.agent.label:
            view = settings.env.action_view
            learned = Contender(lambda env: agent, view, learned=True)
            found[name] = _rule(settings, settings.agent, view) if agent is None else learned
        else:
            spec = rules[name.removesuffix(EXTRA)]
            view = probe.rule_view(spec, settings.env, probe.teacher_names(settings))
            found[name] = _rule(settings, spec, view, wider if name.endswith(EXTRA) else None)
    return found


def load_policy(folder: Path, env: VectorEnv[Any, Any, Any]) -> Any:
    """The agent in a folder, to act as in ``env``, where it learns no more.

    Raises:
        ValueError: no saved agent, or one that does not fit the spaces (or rows) of the environment.
    """
    from agents import agent_kind, load_agent
    from agents.common.base import check_same_spaces
    from agents.common.storage import read_header

    if agent_kind(read_header(folder)["agent"]) != "sb3":
        return load_agent(folder, env)  # one whose policy is shared by rows learns here how many there are
    # With an env it would take up its replay buffer, which fits only as many replicas as it was trained in.
    agent: Any = load_agent(folder)
    check_same_spaces(agent.spaces, env)
    return agent


def _rule(settings: Settings[EnvConfig], spec: PolicySpec, view: str, problem: Problem | None = None) -> Contender:
    from agents import make_rule
    from agents.rules.catalog import rule_class
    from kd_env.evaluation.judging.contenders import Contender

    def factory(env: DistillVectorEnv) -> Policy:
        return make_rule(spec.name, env, seed=settings.evaluation_seeds[0], **spec.options)

    return Contender(factory, view, problem=problem, chooses=rule_class(spec.name).chooses)


def number_of_jobs(settings: Settings[EnvConfig], problem: Problem, count: int) -> int:
    """Processes that share the work: ``evaluation.jobs``, or with ``auto`` one a core where stacking gains nothing."""
    from kd_env.envs import choose_vectorization

    jobs = settings.resolved["evaluation"]["jobs"]
    if jobs != "auto":
        return min(int(jobs), count)
    chosen = choose_vectorization("auto", device=problem.device, arithmetic=problem.arithmetic, num_envs=2)
    return min(os.cpu_count() or 1, count) if chosen == "processes" else 1


def judge(
    settings: Settings[EnvConfig], problem: Problem, agent: Any, chosen: Sequence[str], progress: Progress | None
) -> Evaluation:
    """The evaluation of the chosen policies in this process."""
    from kd_env.evaluation.judging.protocol import evaluate_policies

    return evaluate_policies(
        problem,
        contenders(settings, agent, chosen),
        settings.evaluation_seeds,
        deterministic=settings.resolved["evaluation"]["deterministic"],
        progress=progress,
        keep=keeper(settings),
    )


def judge_in_processes(
    settings: Settings[EnvConfig], policy: Path, chosen: Sequence[str], jobs: int, progress: Progress | None
) -> Evaluation:
    """The same in ``jobs`` spawned processes with one thread each, which read the agent from the folder ``policy``."""
    from kd_env.evaluation.judging.protocol import merge_evaluations

    tasks = [(settings, policy, chosen[place::jobs]) for place in range(jobs)]
    found = side_by_side(_part, tasks, lambda event: None if progress is None else progress(*event))
    return merge_evaluations(found, chosen)


def _part(settings: Settings[EnvConfig], policy: Path, chosen: Sequence[str], tell: Tell) -> Evaluation:
    import torch

    # Two processes with two threads each run several times slower than with one.
    torch.set_num_threads(1)
    from agents import agent_kind
    from kd_env.envs import DistillVectorEnv
    from kd_env.envs.build import build_problem

    problem, agent = build_problem(settings.env), None
    if settings.agent.label in chosen and agent_kind(settings.agent.name) != "rule":
        agent = load_policy(policy, DistillVectorEnv(1, problem=problem))
    return judge(settings, problem, agent, chosen, lambda *event: tell(event))
