"""Episodes of policies on evaluation seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.data.tables import Table
from kd_env.envs import DistillVectorEnv
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import TEACHER_TRACES, Contender, Keep, Policy, Progress
from kd_env.evaluation.judging.dev import Split, end_scores, split_metrics, temperatures
from kd_env.evaluation.judging.results import Measured, PolicyResult, TaughtBeside
from kd_env.mdp.problem import Problem
from kd_env.numerics import losses


def judged_splits(
    problem: Problem, tables: Mapping[str, Table], teacher_logits: Mapping[str, NDArray[Any]], seeds: Sequence[int]
) -> dict[str, Split]:
    """Each split with what fresh students of the seeds, ``[N]``, lose on it at reset: what the gap counts from."""
    at_reset: dict[str, list[Floats]] = {name: [] for name in tables}
    raw: dict[str, list[Floats]] = {name: [] for name in tables}
    groups = _groups(problem, seeds)
    env = DistillVectorEnv(len(groups[0]), problem=problem, autoreset_mode="disabled")
    for group in groups:
        env.reset(seed=list(group))
        fitted = temperatures(problem, env.predict(problem.calibration))
        for name, table in tables.items():
            logits = env.predict(table)
            loss = problem.loss(logits, table, teacher_logits[name], fitted)
            at_reset[name].append(problem.reset_loss(loss, table, teacher_logits[name]))
            raw_loss = losses.gold_loss(logits, table.labels, problem.label_width)
            raw[name].append(problem.reset_loss(raw_loss, table))
    env.close()
    return {
        name: Split(
            table,
            teacher_logits[name],
            problem.reference_loss(teacher_logits[name], table),
            problem.reference_label_loss(teacher_logits[name], table),
            np.concatenate(at_reset[name]),
            np.concatenate(raw[name]),
        )
        for name, table in tables.items()
    }


def _groups(problem: Problem, seeds: Sequence[int]) -> list[Sequence[int]]:
    """Seeds of students that are distilled at the same time; stacked students have no dropout."""
    return [[seed] for seed in seeds] if problem.config.dropout else [seeds]


class _Episode(NamedTuple):
    """What one episode of N students gave."""

    logits: dict[str, Floats]  # by split [N, R, C]
    calibration: Floats  # logits [N, R, C] on the rows that temperatures are fitted on
    returns: Floats  # [N]
    diverged: NDArray[np.bool_]  # [N]
    weights: Floats  # [steps, N, K]
    scales: Floats  # [steps, N]
    teachers: dict[str, Floats]  # by split logits [N, R, C] of teachers that learn, else empty
    traces: dict[str, Floats]  # what info says of such teachers, each [steps, N]
    measures: tuple[Measured, ...]


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
    diverged = np.concatenate([episode.diverged for episode in episodes])
    logits = {split: np.concatenate([episode.logits[split] for episode in episodes]) for split in splits}
    fitted = temperatures(view_problem, np.concatenate([episode.calibration for episode in episodes]))
    return PolicyResult(
        name=name,
        learned=contender.learned,
        extra_labels=contender.problem is not None,
        chooses=contender.chooses,
        action_view=view,
        splits={s: end_scores(logits[s], fitted, split, diverged, problem) for s, split in splits.items()},
        temperature=fitted,
        returns=np.concatenate([episode.returns for episode in episodes]),
        diverged=diverged,
        weights=_side_by_side([episode.weights for episode in episodes]),
        update_scale=_side_by_side([episode.scales for episode in episodes]),
        taught=_teachers_beside(view_problem, splits, episodes) if view_problem.config.teacher_learns else None,
        measures=_joined([episode.measures for episode in episodes]),
    )


def _teachers_beside(problem: Problem, splits: Mapping[str, Split], episodes: Sequence[_Episode]) -> TaughtBeside:
    split_scores: dict[str, dict[str, Floats]] = {}
    for split, judged_split in splits.items():
        logits = np.nan_to_num(np.concatenate([episode.teachers[split] for episode in episodes]))
        scores = [split_metrics(problem, student_logits, judged_split.table) for student_logits in logits]
        split_scores[split] = {name: np.array([score[name] for score in scores]) for name in problem.task.metrics}
    names = episodes[0].traces
    over_time = {name: _side_by_side([episode.traces[name] for episode in episodes]) for name in names}
    return TaughtBeside(split_scores, over_time)


def _episode(
    env: DistillVectorEnv,
    policy: Policy,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    deterministic: bool,
    progress: Callable[[int, int], None] | None,
    keep: Callable[[int, int, bool], None] | None,
) -> _Episode:
    """One episode of every replica. A replica that ends early is read at once; what it does afterwards is ignored."""
    count = len(seeds)
    observations, _ = env.reset(seed=list(seeds))
    memory: Any = None
    starts, running = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    returns, diverged = np.zeros(count), np.zeros(count, dtype=bool)
    labels = env.problem.task.num_labels
    logits = {split: np.zeros((count, len(judged_split.table), labels)) for split, judged_split in splits.items()}
    calibration = np.zeros((count, len(env.problem.calibration), labels))
    weights, scales = [], []
    learns = env.problem.config.teacher_learns
    teachers = {split: np.zeros_like(student_logits) for split, student_logits in logits.items()} if learns else {}
    traces: dict[str, list[Floats]] = {name: [] for name in TEACHER_TRACES} if learns else {}
    measures = env.decision.measures(env.problem, count)
    while running.any():
        actions, memory = policy.predict(observations, state=memory, episode_start=starts, deterministic=deterministic)
        observations, rewards, terminations, truncations, info = env.step(actions)
        ended = terminations | truncations
        returns += np.where(running, rewards, 0.0)
        moved = running & ~info["skipped"]
        weights.append(_applied(info["weights"], running[:, None], moved[:, None]))
        scales.append(_applied(info["update_scale"], running, moved))
        for measure in measures:
            measure.add(info, running)
        for name, trace in traces.items():
            trace.append(np.where(running, info[name], np.nan))
        finished = ended & running
        if finished.any():
            diverged[finished] = info["diverged"][finished]
            for split, judged_split in splits.items():
                logits[split][finished] = env.predict(judged_split.table)[finished]
            if env.problem.calibrates:
                calibration[finished] = env.predict(env.problem.calibration)[finished]
            for split, teacher_logits in teachers.items():
                teacher_logits[finished] = env.predict_teacher(splits[split].table)[finished]
            if keep is not None:
                for replica in np.flatnonzero(finished).tolist():
                    keep(replica, seeds[replica], bool(diverged[replica]))
        running &= ~ended
        starts = ended
        if ended.any() and running.any():
            observations, _ = env.reset(options={"reset_mask": ended})
        if progress is not None:
            progress(len(weights), env.episode_steps)
    teacher_traces = {name: np.stack(trace) for name, trace in traces.items()}
    measured = tuple(Measured(m.name, m.title, m.bounds, m.values()) for m in measures)
    chosen, scale = np.stack(weights), np.stack(scales)
    return _Episode(logits, calibration, returns, diverged, chosen, scale, teachers, teacher_traces, measured)


def _joined(groups: Sequence[tuple[Measured, ...]]) -> tuple[Measured, ...]:
    """The measures of several groups of students as those of all."""
    return tuple(
        replace(measures[0], values=np.concatenate([measured.values for measured in measures]))
        for measures in zip(*groups, strict=True)
    )


def _side_by_side(groups: Sequence[Floats]) -> Floats:
    """``[steps, n, ...]`` of several groups as ``[steps, N, ...]``; shorter ones are filled with NaN."""
    steps = max(len(values) for values in groups)
    return np.concatenate(
        [
            np.pad(values, ((0, steps - len(values)), *((0, 0),) * (values.ndim - 1)), constant_values=np.nan)
            for values in groups
        ],
        axis=1,
    )


def _applied(values: NDArray[Any], running: NDArray[np.bool_], moved: NDArray[np.bool_]) -> Floats:
    return np.where(running, np.where(moved, values, 0.0), np.nan).astype(np.float64)
