"""Episodes of policies on evaluation seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from kd_env.envs import DistillVectorEnv
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import Contender, Keep, Policy, Progress
from kd_env.evaluation.judging.course import Course, Ended, Students, policy_result
from kd_env.evaluation.judging.dev import Split, temperatures
from kd_env.evaluation.judging.results import PolicyResult
from kd_env.evaluation.judging.tables import JudgedTables
from kd_env.mdp.problem import Problem


def judged_splits(problem: Problem, judged: JudgedTables, seeds: Sequence[int]) -> dict[str, Split]:
    """Each split with what fresh students of the seeds, ``[N]``, lose on it at reset: what the gap counts from."""
    groups = _groups(problem, seeds)
    env = DistillVectorEnv(len(groups[0]), problem=problem, autoreset_mode="disabled")
    parts = []
    for group in groups:
        env.reset(seed=list(group))
        parts.append(splits_at_reset(problem, judged, env))
    env.close()
    return {name: _of_all([part[name] for part in parts]) for name in judged.tables}


def splits_at_reset(problem: Problem, judged: JudgedTables, students: Students) -> dict[str, Split]:
    """Each split with what present students, which are fresh, lose on it."""
    fitted = temperatures(problem, students.predict(problem.calibration)) if problem.calibrates else None
    splits = {}
    for name, table in judged.tables.items():
        outputs, teacher = students.predict(table), judged.teacher_logits[name]
        temperature = np.ones(len(outputs)) if fitted is None else fitted
        raw = problem.objective.raw_loss(problem, outputs, table)
        splits[name] = Split(
            table,
            teacher,
            problem.reference_loss(teacher, table),
            problem.reference_label_loss(teacher, table),
            problem.objective.reset_loss(problem, problem.loss(outputs, table, teacher, temperature), table, teacher),
            None if raw is None else problem.objective.reset_loss(problem, raw, table),
        )
    return splits


def _of_all(parts: Sequence[Split]) -> Split:
    """The splits of several groups of students as that of all."""
    first = parts[0]
    raw = [part.raw_reset_loss for part in parts if part.raw_reset_loss is not None]
    return Split(
        first.table,
        first.teacher_logits,
        first.teacher_loss,
        first.raw_teacher_loss,
        np.concatenate([part.reset_loss for part in parts]),
        np.concatenate(raw) if raw else None,
    )


def _groups(problem: Problem, seeds: Sequence[int]) -> list[Sequence[int]]:
    """Seeds of students that are distilled at the same time; stacked students have no dropout."""
    return [[seed] for seed in seeds] if problem.config.dropout else [seeds]


def drive(
    name: str,
    contender: Contender,
    problem: Problem,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    deterministic: bool,
    progress: Progress | None,
    keep: Keep | None,
) -> PolicyResult:
    """One episode of every seed."""
    base = contender.problem or problem
    view = contender.action_view or base.config.action_view
    view_problem = base if view == base.config.action_view else with_options(base, action_view=view)
    groups = _groups(view_problem, seeds)
    env = DistillVectorEnv(len(groups[0]), problem=view_problem, autoreset_mode="disabled")
    # One policy for all groups: made anew for each, a random one would do the same to every student.
    policy = contender.factory(env)
    report_progress = None if progress is None else partial(progress, name)
    keep_student = None if keep is None else partial(keep, name, env)
    episodes = [_episode(env, policy, splits, group, deterministic, report_progress, keep_student) for group in groups]
    env.close()
    return policy_result(
        name,
        episodes,
        view_problem,
        splits,
        problem,
        learned=contender.learned,
        extra_labels=contender.extra_labels,
        chooses=contender.chooses,
    )


def _episode(
    env: DistillVectorEnv,
    policy: Policy,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    deterministic: bool,
    progress: Callable[[int, int], None] | None,
    keep: Callable[[int, int, bool], None] | None,
) -> Ended:
    """One episode of every replica. A replica that ends early is read at once; what it does afterwards is ignored."""
    count = len(seeds)
    observations, _ = env.reset(seed=list(seeds))
    memory: Any = None
    starts, running = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    course = Course(env.problem, env.decision, splits, count)
    while running.any():
        actions, memory = policy.predict(observations, state=memory, episode_start=starts, deterministic=deterministic)
        observations, rewards, terminations, truncations, info = env.step(actions)
        ended = terminations | truncations
        course.add(info, rewards, running)
        finished = ended & running
        if finished.any():
            course.finish(info, env, finished)
            if keep is not None:
                for replica in np.flatnonzero(finished).tolist():
                    keep(replica, seeds[replica], bool(info["diverged"][replica]))
        running &= ~ended
        starts = ended
        if ended.any() and running.any():
            observations, _ = env.reset(options={"reset_mask": ended})
        if progress is not None:
            progress(course.steps, env.episode_steps)
    return course.ended()
