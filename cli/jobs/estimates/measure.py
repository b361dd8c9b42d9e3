"""What the steps of a job cost here: a few real ones, in environments of their own, with seeds of their own."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cli.jobs.estimates.counts import Counts, turns
from cli.jobs.estimates.probed import Enough, ProbedEnv
from cli.jobs.estimates.untouched import untouched
from cli.jobs.kinds.base import Job
from kd_env.mdp.problem import Problem

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv

SEED = 2**30
"""Of agents and students that are only probed."""
_TRAINING, _AGENT, _JUDGED = 0.8, 0.4, 0.6
"""Seconds of real steps of the training, of the agent alone, and of real steps of the evaluation."""
_FEW = 2
"""Students that are stepped where stacking gains nothing: each costs the same."""


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a job, and memory in bytes."""

    step: float = 0.0
    """Of all replicas of the training."""
    reset: float = 0.0
    """Of their new episodes."""
    agent: float = 0.0
    """Of the agent, beside a step."""
    judged_step: float = 0.0
    """Of all students of a policy in the evaluation."""
    unread_step: float = 0.0
    """Of them where they are not read on the feedback rows at every step."""
    judged_reset: float = 0.0
    """Of their new episodes."""
    judging: float = 0.0
    """Of what they say on all rows that they are judged on."""
    choosing: Mapping[str, float] = field(default_factory=dict)
    """Of a rule's choice for all students, by its name."""
    memory: int = 0
    """Of one process at its largest."""


def measure(job: Job[Any, Any], problem: Problem, counts: Counts) -> Costs:
    """Probe a job for about two seconds, or for one step of the training and one of the evaluation.

    The random state of the process, the problem and its environments stay as they were.
    """
    training: dict[str, Any] = _training(job, problem, counts) if counts.rounds else {}
    with untouched(1 if job.judging_processes(problem) > 1 else None):
        judged, lacking = _evaluation(job, problem, counts)
    return Costs(**training, **judged, memory=memory() + lacking)


def memory() -> int:
    """The most memory that this process has had so far, in bytes; of the GPU where students are there."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _training(job: Job[Any, Any], problem: Problem, counts: Counts) -> dict[str, float]:
    from agents import make_agent
    from kd_env.envs import DistillVectorEnv

    stacked = job.stacks(problem)
    with untouched(None if stacked else 1):
        real = DistillVectorEnv(counts.num_envs if stacked else 1, problem=problem)
        env = ProbedEnv(real, counts.episode_steps, counts.evaluate_every, _TRAINING, _AGENT)
        marks: list[tuple[int, float]] = []

        def after_update(_: dict[str, float]) -> bool:
            marks.append((env.steps, env.seconds()))
            return env.real or len(marks) < 3

        agent: Any = make_agent(job.settings.agent.name, env, seed=SEED, **job.agent_options(env))
        with contextlib.suppress(Enough):
            agent.learn(job.total_steps(env), after_update)
        total = env.seconds()
        env.close()
    # Processes of one student each share the cores.
    waves = 1.0 if stacked else turns(counts.num_envs, os.cpu_count() or 1)
    return {
        "step": waves * _mean(env.step_seconds),
        "reset": waves * env.reset_seconds,
        "agent": _slope(marks) if len(marks) > 1 else total / max(env.steps, 1),
    }


def _evaluation(job: Job[Any, Any], problem: Problem, counts: Counts) -> tuple[dict[str, Any], int]:
    """Costs of the evaluation, and the memory of students that were not there."""
    from kd_env.envs import DistillVectorEnv, choose_vectorization
    from kd_env.envs.process import with_options
    from kd_env.evaluation.judging.stacks import read_at_end

    if not counts.policies:
        return {"choosing": {}}, 0
    alone = bool(problem.config.dropout)
    gains = choose_vectorization("auto", device=problem.device, arithmetic=problem.arithmetic, num_envs=2) == "stacked"
    count = 1 if alone else counts.seeds if gains else min(counts.seeds, _FEW)
    times = counts.seeds / count
    unread = 0.0
    if counts.at_end:
        without = DistillVectorEnv(count, problem=read_at_end(problem), autoreset_mode="disabled")
        unread = _mean(_timed(without, counts.episode_steps, 1).step_seconds)
    env = DistillVectorEnv(count, problem=problem, autoreset_mode="disabled")
    timed = _timed(env, counts.episode_steps, counts.evaluate_every)
    begin = time.perf_counter()
    env.predict(problem.feedback)
    read = (time.perf_counter() - begin) / len(problem.feedback)
    choosing = {}
    envs = {(problem.config.decision, problem.config.action_view): env}
    for name, rule in job.judged(problem)[1].items():
        base = rule.problem or problem
        view = (base.config.decision, rule.action_view or base.config.action_view)
        if view not in envs:
            base = base if view[1] == base.config.action_view else with_options(base, action_view=view[1])
            envs[view] = DistillVectorEnv(count, problem=base, autoreset_mode="disabled")
        viewed = envs[view]
        observation, _ = viewed.reset(seed=SEED)
        policy = rule.factory(viewed)
        begin = time.perf_counter()
        policy.predict(observation, state=None, episode_start=[True] * count, deterministic=True)
        choosing[name] = times * (time.perf_counter() - begin)
    params = env.run.started().params.values()
    # Parameters, their gradient and two moments.
    lacking = 0 if alone else int(4 * sum(p.numel() * p.element_size() for p in params) * (times - 1))
    found = {
        "judged_step": times * _mean(timed.step_seconds),
        "unread_step": times * unread,
        "judged_reset": times * timed.reset_seconds,
        "judging": times * read * _judged_rows(problem),
        "choosing": choosing,
    }
    for each in envs.values():
        each.close()
    return found, lacking


def _timed(env: DistillVectorEnv, episode_steps: int, every: int) -> ProbedEnv:
    """The environment after some real steps, at most an episode."""
    env.action_space.seed(SEED)
    timed = ProbedEnv(env, episode_steps, every, _JUDGED, 0.0)
    timed.reset(seed=SEED)
    while timed.real and len(timed.step_seconds) < episode_steps:
        timed.step(env.action_space.sample())
    return timed


def _judged_rows(problem: Problem) -> int:
    """Rows that every student is asked about at its end."""
    from kd_env.evaluation.judging.dev import dev_rows
    from kd_env.evaluation.judging.tables import TEXT_ROWS

    if problem.config.objective == "text":
        return 2 * TEXT_ROWS
    calibration = len(problem.calibration) if problem.calibrates else 0
    return calibration + len(problem.selection) + dev_rows(problem.task, problem.config.data_dir)


def _mean(seconds: list[float]) -> float:
    """Without the first of several, in which much is done for the first time."""
    later = seconds[1:] if len(seconds) > 2 else seconds
    return sum(later) / max(len(later), 1)


def _slope(marks: list[tuple[int, float]]) -> float:
    """Seconds of the agent a step, between the first report of several and the last: it may begin with random steps."""
    (first, begin), (last, end) = marks[0], marks[-1]
    return (end - begin) / max(last - first, 1)
