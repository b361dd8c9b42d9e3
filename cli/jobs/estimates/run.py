"""The estimate of one run, for its own first line and for studies."""

from __future__ import annotations

import os
from typing import Any

from cli.jobs.estimates.counts import Counts, counts_of
from cli.jobs.estimates.estimate import Estimate, estimate
from cli.jobs.estimates.measure import measure
from cli.jobs.kinds.base import Job
from kd_env.mdp.problem import Problem


def count(job: Job[Any, Any], problem: Problem, done: int = 0) -> Counts:
    """Numbers of a run of which ``done`` training steps are made; of one that pauses, up to there."""
    from agents import agent_kind
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.stacks import evaluated_at_end

    c, env = job.settings.resolved, DistillVectorEnv(1, problem=problem)
    trained = agent_kind(job.settings.agent.name) != "rule" and c["control"] != "untrained"
    steps = job.total_steps(env) if trained else 0
    (policies, rules), seeds, pause = job.judged(problem), int(c["evaluation"]["seeds"]), c["pause"]
    at_end = frozenset(name for name, rule in rules.items() if evaluated_at_end(rule.problem or problem, rule))
    if pause["at"] is not None:
        policies, seeds, steps = (job.settings.agent.label,), pause["seeds"], pause["at"]
    return counts_of(job.settings, policies, env.episode_steps, steps, done, seeds=seeds, at_end=at_end)


def of_run(job: Job[Any, Any], problem: Problem, start_up: float, done: int = 0) -> Estimate:
    """The estimate of a run, after a probe of about two seconds.

    Args:
        job: of the run.
        problem: of its training.
        start_up: seconds in which the problem was built.
        done: training steps that are made.
    """
    counts = count(job, problem, done)
    return estimate(
        counts,
        measure(job, problem, counts),
        processes=job.judging_processes(problem),
        workers=0 if job.stacks(problem) else counts.num_envs,
        start_up=start_up,
        cores=os.cpu_count() or 1,
    )
