"""Episodes of policies on evaluation seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.envs import DistillVectorEnv
from kd_env.evaluation.judging.contenders import Contender, Keep, Progress, Standing
from kd_env.evaluation.judging.course import Course, Ended, Students, policy_result
from kd_env.evaluation.judging.dev import Split, temperatures
from kd_env.evaluation.judging.keeping.running import Resumed, Running, TellsDraws
from kd_env.evaluation.judging.results import PolicyResult
from kd_env.evaluation.judging.stacks import Stack, stacks
from kd_env.evaluation.judging.tables import JudgedTables, selection_table
from kd_env.evaluation.judging.windows import Window, side_by_side
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
    stack: Stack,
    problem: Problem,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    deterministic: bool,
    progress: Progress | None,
    keep: Keep | None,
    running: Running | None = None,
) -> list[PolicyResult]:
    """One episode of every seed under each policy of a stack, all students at the same time.

    Args:
        stack: the policies.
        problem: of the comparison.
        splits: that students are judged on.
        seeds: of the students.
        deterministic: passed to ``predict``.
        progress: told about every step.
        keep: told about every student that is finished.
        running: keeps the episode of a policy that is judged alone.
    """
    groups, names = _groups(stack.problem, seeds), list(stack.contenders)
    count = len(groups[0])
    env = DistillVectorEnv(count * len(names), problem=stack.problem, autoreset_mode="disabled")
    # One policy for all groups: made anew for each, a random one would do the same to every student.
    windows = [Window(contender, env, place, count) for place, contender in enumerate(stack.contenders.values())]
    running = running if isinstance(windows[0].policy, TellsDraws) else None
    resumed = None if running is None else running.read()
    episodes: list[list[Ended]] = [] if resumed is None else [[each] for each in resumed.ended]
    for group in groups[len(episodes) :]:
        judged = [
            _Judged(
                window,
                Course(stack.problem, env.decision, splits, count),
                group,
                None if progress is None else partial(progress, name),
                None if keep is None else partial(keep, name, window.env),
            )
            for name, window in zip(names, windows, strict=True)
        ]
        before = [ended for ended, *_ in episodes]
        episodes.append(_episodes(env, judged, deterministic, before, running, resumed))
        resumed = None
    if running is not None:
        running.remove()
    env.close()
    return [
        policy_result(
            name,
            [ended[place] for ended in episodes],
            stack.problem,
            splits,
            problem,
            **contender.said,
        )
        for place, (name, contender) in enumerate(stack.contenders.items())
    ]


def judge_on_selection(
    problem: Problem,
    name: str,
    contender: Contender,
    seeds: Sequence[int],
    *,
    deterministic: bool,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> PolicyResult:
    """Distil fresh students under a policy and judge them on the selection split alone.

    No dev row is read.

    Args:
        problem: of the training.
        name: of the policy.
        contender: the policy.
        seeds: of the students; where the policy's training is not at its end, others than those of any report.
        deterministic: passed to ``predict``.
        progress: told about every step.
        keep: told about every student that is finished.
    """
    splits = judged_splits(problem, selection_table(problem), seeds)
    (stack,) = stacks(problem, {name: contender}, len(seeds))
    return drive(stack, problem, splits, seeds, deterministic, progress, keep)[0]


class _Judged(NamedTuple):
    """One policy in a group of episodes."""

    window: Window
    course: Course
    seeds: Sequence[int]
    progress: Callable[[int, int], None] | None
    keep: Callable[[int, int, bool, Callable[[], Standing]], None] | None


def _episodes(
    env: DistillVectorEnv,
    judged: Sequence[_Judged],
    deterministic: bool,
    before: Sequence[Ended],
    keeper: Running | None,
    resumed: Resumed | None,
) -> list[Ended]:
    """One episode of every replica. A replica that ends early is read at once; what it does afterwards is ignored."""
    windows = [each.window for each in judged]
    observations, _ = env.reset(seed=[seed for each in judged for seed in each.seeds])
    starts, running = np.ones(env.num_envs, dtype=bool), np.ones(env.num_envs, dtype=bool)
    actions: list[Any] = [None] * len(judged)
    for window in windows:
        window.begin()
    if resumed is not None:
        env.load_state(resumed.environment)
        observations, starts = env.run.observation(), np.zeros_like(starts)
        _go_on(judged[0], resumed)
    while running.any():
        acting = [place for place, window in enumerate(windows) if running[window.rows].any()]
        for window in windows:
            window.show()
        for place in acting:  # the others, whose episodes are over, do once more what they did
            actions[place] = windows[place].predict(observations, starts, deterministic)
        observations, rewards, terminations, truncations, info = env.step(side_by_side(windows, actions))
        ended = terminations | truncations
        for place in acting:
            windows[place].show()
            _take(judged[place], windows[place].part(info), rewards, running, ended)
        running &= ~ended
        starts = ended
        if ended.any() and running.any():
            observations, _ = env.reset(options={"reset_mask": ended})
        for place in acting:
            if (progress := judged[place].progress) is not None:
                progress(judged[place].course.steps, env.episode_steps)
        if keeper is not None and running.all() and keeper.is_due():
            policy = windows[0].policy
            assert isinstance(policy, TellsDraws)
            keeper.write(before, env, judged[0].course, windows[0].memory, policy.generator_states())
    return [each.course.ended() for each in judged]


def _go_on(judged: _Judged, resumed: Resumed) -> None:
    judged.course.restore(resumed.course)
    judged.window.memory = resumed.memory
    policy = judged.window.policy
    assert isinstance(policy, TellsDraws)
    policy.restore_generators(resumed.generators)


def _take(
    judged: _Judged, info: Mapping[str, Any], rewards: Floats, running: NDArray[np.bool_], ended: NDArray[np.bool_]
) -> None:
    """One step of one policy's students, of all students' rewards, of which were running and which have ended."""
    window, course = judged.window, judged.course
    course.add(info, rewards[window.rows], running[window.rows])
    finished = (ended & running)[window.rows]
    if finished.any():
        course.finish(info, window.env, finished)
        if judged.keep is not None:
            for replica in np.flatnonzero(finished).tolist():
                diverged, standing = bool(info["diverged"][replica]), partial(course.standing, replica)
                judged.keep(replica, judged.seeds[replica], diverged, standing)
