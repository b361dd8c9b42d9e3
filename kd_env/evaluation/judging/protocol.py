"""The evaluation that every policy goes through: fresh students, the same seeds, the official dev split at the end.

Only this package reads dev rows. A policy is anything with ``predict``; the caller says whether it learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kd_env.data.loading import Task, load_dev
from kd_env.data.tables import Table
from kd_env.decisions.sample_weighting.measures import RightRows, wrong_rows
from kd_env.envs import DistillVectorEnv
from kd_env.evaluation.judging.results import SELECTION, Evaluation, Floats, PolicyResult, SplitScores, TaughtBeside
from kd_env.mdp.problem import Problem
from kd_env.mdp.rewards import gap_scale
from kd_env.models.encoder import Encoder
from kd_env.numerics import losses, metrics
from kd_env.numerics.calibration import expected_calibration_error, fit_temperatures
from kd_env.teachers.loading import check_positions

TEACHER_TRACES = ("teacher_loss", "teacher_influence_ratio", "teacher_influence_cosine")
"""What ``info`` says of a teacher that learns."""

Progress = Callable[[str, int, int], None]
"""Called with the policy's name, the steps done and the steps of a full episode."""
Keep = Callable[[str, DistillVectorEnv, int, int, bool], None]
"""Called at the end of each student's episode, while it is still there: with the policy's name, the environment, the
replica, its seed and whether it diverged."""


class Policy(Protocol):
    """What an evaluation asks of a policy; SB3's algorithms have it too."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for observations ``[N, O]``, and the memory for the next call."""
        ...


PolicyFactory = Callable[[DistillVectorEnv], Policy]


@dataclass(frozen=True)
class Contender:
    """One policy of an evaluation."""

    factory: PolicyFactory
    """Makes the policy for the vector environment that it will drive."""
    action_view: str | None = None
    """View it acts in; None is the problem's."""
    learned: bool = False
    """Whether it was trained. A rule that was not may become the comparator."""
    problem: Problem | None = None
    """Another problem of the same task that trains on feedback rows too. Such a policy has seen more labels, so it is
    shown and never the comparator."""


@dataclass(frozen=True)
class _Split:
    """Rows that students are judged on, with what the teacher says about them."""

    table: Table
    teacher_logits: NDArray[Any]  # [R, C]
    teacher_loss: float
    raw_teacher_loss: float  # the calibrated teacher's against gold labels, whatever the gap is
    reset_loss: Floats  # [N], of the fresh students; the same for every policy, since the seeds are
    raw_reset_loss: Floats  # [N], against gold labels without a temperature


def evaluate_policies(
    problem: Problem,
    policies: Mapping[str, Contender],
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Evaluation:
    """Distil fresh students under each policy and judge them on the selection split and every official dev split.

    Args:
        problem: the problem; its dev rows are loaded here and nowhere else.
        policies: contenders by name.
        seeds: seeds of the students, the same for every policy. They become the replicas of one vector environment;
            students with dropout are distilled one after the other.
        deterministic: passed to ``predict``.
        progress: told about every step.
        keep: told about every student that is finished.

    Raises:
        ValueError: no policy, no seed or a repeated one, a contender that solves another task, or dev rows that are
            longer than the encoders' positions.
    """
    if not policies:
        raise ValueError("There is no policy to evaluate; name at least one rule or agent.")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"Evaluation seeds must be at least one and all different, got {list(seeds)}.")
    for name, contender in policies.items():
        if contender.problem is not None and contender.problem.task != problem.task:
            raise ValueError(f"The policy {name!r} solves {contender.problem.task.name!r}, not {problem.task.name!r}.")
    dev = load_dev(problem.task, problem.config.data_dir)
    tables = {SELECTION: problem.selection, **{split: problem.tokenize(rows) for split, rows in dev.items()}}
    taught = {split: problem.tokenize(rows, for_teacher=True) for split, rows in dev.items()}
    _check_lengths("student", problem.student, tables)
    _check_lengths("teacher", problem.reference.encoder, taught)
    teacher_logits = {split: problem.teacher_logits(table) for split, table in taught.items()}
    teacher_logits[SELECTION] = problem.reference.selection_logits
    splits = _splits(problem, tables, teacher_logits, seeds)
    results = {}
    for name, contender in policies.items():
        results[name] = _drive(name, contender, problem, splits, seeds, deterministic, progress, keep)
    return Evaluation(
        facts=_facts(problem),
        seeds=tuple(seeds),
        term_names=problem.entry_names,
        metric_names=problem.task.metrics,
        dev_splits=tuple(dev),
        regression=problem.task.regression,
        policies=results,
        comparator=choose_comparator(results.values()),
        teacher={}
        if problem.config.teacher_learns
        else {
            split: {**_metrics(problem, teacher_logits[split], table), "loss": splits[split].teacher_loss}
            for split, table in tables.items()
        },
        labels={split: table.labels for split, table in tables.items()},
    )


def merge_evaluations(parts: Sequence[Evaluation], order: Sequence[str]) -> Evaluation:
    """Evaluations of other policies of one problem on the same seeds as one, with the policies in ``order``.

    Raises:
        ValueError: parts of different problems or seeds.
    """
    first = parts[0]
    for part in parts[1:]:
        if (part.facts, part.seeds) != (first.facts, first.seeds):
            raise ValueError("Only evaluations of one problem on the same seeds can be merged.")
    found = {name: result for part in parts for name, result in part.policies.items()}
    policies = {name: found[name] for name in order}
    return replace(first, policies=policies, comparator=choose_comparator(policies.values()))


def check_dev(task: Task, data_dir: str | None) -> dict[str, int]:
    """Rows of each official dev split. Called before any work, so that a missing split is not found at the end of it.

    Raises:
        ValueError: a dev split that is missing or cannot be read.
    """
    return {split: len(rows.labels) for split, rows in load_dev(task, data_dir).items()}


def check_dev_lengths(problem: Problem) -> None:
    """Check that every dev row fits the encoders, before an agent is trained that could not be judged afterwards.

    Raises:
        ValueError: a dev row that is longer than the positions of an encoder, with the remedy.
    """
    for name, encoder in (("student", problem.student), ("teacher", problem.reference.encoder)):
        try:  # rows are cut to max_length: where that fits, no row needs to be read
            check_positions(encoder, problem.config.max_length, name)
        except ValueError:
            dev = load_dev(problem.task, problem.config.data_dir).items()
            own = name == "teacher"
            _check_lengths(name, encoder, {split: problem.tokenize(rows, for_teacher=own) for split, rows in dev})


def _check_lengths(name: str, encoder: Encoder, tables: Mapping[str, Table]) -> None:
    for split, table in tables.items():
        try:
            check_positions(encoder, int(table.lengths.max()), name)
        except ValueError as error:
            raise ValueError(f"The {split} split: {error}") from error


def choose_comparator(results: Iterable[PolicyResult]) -> str | None:
    """The rule with the lowest mean loss on the selection split (equivalently the largest gap closed, on equal seeds).

    Rules that trained on more labels do not count.
    """
    rules = [r for r in results if not r.learned and not r.extra_labels]
    return min(rules, key=lambda r: float(r.splits[SELECTION].loss.mean())).name if rules else None


def end_scores(
    logits: NDArray[Any],
    temperature: Floats,
    split: _Split,
    diverged: NDArray[np.bool_],
    problem: Problem,
) -> SplitScores:
    """Scores of N students from their logits ``[N, R, C]``; diverged students count as the worst end there is.

    Args:
        logits: on the rows of the split.
        temperature: ``[N]``, see :func:`temperatures`.
        split: the rows.
        diverged: ``[N]``.
        problem: what is asked of the students.
    """
    safe, labels = _safe(logits), split.table.labels
    scale, floored = gap_scale(split.reset_loss, split.teacher_loss)
    raw_scale, _ = gap_scale(split.raw_reset_loss, split.raw_teacher_loss)
    broken = diverged | ~np.isfinite(logits).all(axis=(1, 2))
    loss = problem.loss(safe, split.table, split.teacher_logits, temperature)
    loss = np.where(broken, split.reset_loss + scale, loss)
    raw_loss = losses.gold_loss(safe, labels, problem.label_width)
    raw_loss = np.where(broken, split.raw_reset_loss + raw_scale, raw_loss)
    errors = None
    if not problem.task.regression:
        errors = np.array([expected_calibration_error(own, labels) for own in safe])
    guesses = losses.predictions(safe, problem.task.regression)
    scores = [metrics.compute(problem.task.metrics, row, labels) for row in guesses]
    return SplitScores(
        metrics={name: np.array([score[name] for score in scores]) for name in problem.task.metrics},
        loss=loss,
        gap_closed=(split.reset_loss - loss) / scale,
        floored=floored,
        raw_loss=raw_loss,
        raw_gap_closed=(split.raw_reset_loss - raw_loss) / raw_scale,
        calibration_error=errors,
        predictions=guesses,
    )


def temperatures(problem: Problem, logits: NDArray[Any]) -> Floats:
    """Temperatures ``[N]`` from logits ``[N, R, C]`` on ``problem.calibration``; 1 where the gap is not calibrated."""
    return fit_temperatures(_safe(logits), problem.calibration.labels) if problem.calibrates else np.ones(len(logits))


def _safe(logits: NDArray[Any]) -> NDArray[Any]:
    """Logits of diverged students as 0: they count as diverged, whatever is computed from them."""
    return np.asarray(np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0))


def _splits(
    problem: Problem, tables: Mapping[str, Table], teacher_logits: Mapping[str, NDArray[Any]], seeds: Sequence[int]
) -> dict[str, _Split]:
    at_reset: dict[str, list[Floats]] = {name: [] for name in tables}
    raw: dict[str, list[Floats]] = {name: [] for name in tables}
    groups = _groups(problem, seeds)
    env = DistillVectorEnv(len(groups[0]), problem=problem, autoreset_mode="disabled")
    for group in groups:
        env.reset(seed=list(group))
        fitted = temperatures(problem, env.predict(problem.calibration))
        for name, table in tables.items():
            logits = env.predict(table)
            at_reset[name].append(problem.loss(logits, table, teacher_logits[name], fitted))
            raw[name].append(losses.gold_loss(logits, table.labels, problem.label_width))
    env.close()
    return {
        name: _Split(
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


def _metrics(problem: Problem, logits: NDArray[Any], table: Table) -> dict[str, float]:
    guesses = losses.predictions(logits, problem.task.regression)
    return metrics.compute(problem.task.metrics, guesses, table.labels)


def _facts(problem: Problem) -> dict[str, Any]:
    config = problem.config
    control = {} if config.feedback_labels == "gold" else {"feedback_labels": config.feedback_labels}
    gap = "labels" if config.gap == "calibrated" and not problem.calibrates else config.gap
    return {**problem.summary(), "gap": gap, "label_noise": config.label_noise, **control}


def _follows(problem: Problem) -> bool:
    """Whether single rows choose between teachers."""
    return problem.config.decision == "teacher_weighting" and problem.config.weighting == "sample"


class _Episode(NamedTuple):
    """What one episode of N students gave."""

    logits: dict[str, Floats]  # by split [N, R, C]
    calibration: Floats  # the same on the rows that temperatures are fitted on
    returns: Floats  # [N]
    diverged: NDArray[np.bool_]  # [N]
    weights: Floats  # [steps, N, K]
    scales: Floats  # [steps, N]
    followed: Floats  # [N], NaN where no rows are weighed
    teachers: dict[str, Floats]  # by split logits [N, R, C] of teachers that learn, else empty
    traces: dict[str, Floats]  # what info says of such teachers, each [steps, N]
    right_rows_auc: Floats | None  # [N]


def _drive(
    name: str,
    contender: Contender,
    problem: Problem,
    splits: Mapping[str, _Split],
    seeds: Sequence[int],
    deterministic: bool,
    progress: Progress | None,
    keep: Keep | None,
) -> PolicyResult:
    """One episode of every seed."""
    base = contender.problem or problem
    view = contender.action_view or base.config.action_view
    own = base if view == base.config.action_view else base.with_options(action_view=view)
    groups = _groups(own, seeds)
    env = DistillVectorEnv(len(groups[0]), problem=own, autoreset_mode="disabled")
    # One policy for all groups: made anew for each, a random one would do the same to every student.
    policy = contender.factory(env)
    told = None if progress is None else partial(progress, name)
    kept = None if keep is None else partial(keep, name, env)
    parts = [_episode(env, policy, splits, group, deterministic, told, kept) for group in groups]
    env.close()
    diverged = np.concatenate([part.diverged for part in parts])
    told_apart = [part.right_rows_auc for part in parts if part.right_rows_auc is not None]
    logits = {split: np.concatenate([part.logits[split] for part in parts]) for split in splits}
    fitted = temperatures(own, np.concatenate([part.calibration for part in parts]))
    return PolicyResult(
        name=name,
        learned=contender.learned,
        extra_labels=contender.problem is not None,
        action_view=view,
        splits={s: end_scores(logits[s], fitted, part, diverged, problem) for s, part in splits.items()},
        temperature=fitted,
        returns=np.concatenate([part.returns for part in parts]),
        diverged=diverged,
        weights=_side_by_side([part.weights for part in parts]),
        update_scale=_side_by_side([part.scales for part in parts]),
        followed=np.concatenate([part.followed for part in parts]) if _follows(own) else None,
        taught=_taught_beside(own, splits, parts) if own.config.teacher_learns else None,
        right_rows_auc=np.concatenate(told_apart) if told_apart else None,
    )


def _taught_beside(problem: Problem, splits: Mapping[str, _Split], parts: Sequence[_Episode]) -> TaughtBeside:
    found: dict[str, dict[str, Floats]] = {}
    for split, part in splits.items():
        logits = np.nan_to_num(np.concatenate([each.teachers[split] for each in parts]))
        scores = [_metrics(problem, one, part.table) for one in logits]
        found[split] = {name: np.array([score[name] for score in scores]) for name in problem.task.metrics}
    names = parts[0].traces
    return TaughtBeside(found, {name: _side_by_side([each.traces[name] for each in parts]) for name in names})


def _episode(
    env: DistillVectorEnv,
    policy: Policy,
    splits: Mapping[str, _Split],
    seeds: Sequence[int],
    deterministic: bool,
    progress: Callable[[int, int], None] | None,
    keep: Callable[[int, int, bool], None] | None,
) -> _Episode:
    """One episode of every replica. One that ends early is read at once; what it does afterwards is ignored."""
    count = len(seeds)
    observations, _ = env.reset(seed=list(seeds))
    memory: Any = None
    starts, running = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    returns, diverged = np.zeros(count), np.zeros(count, dtype=bool)
    labels = env.problem.task.num_labels
    logits = {split: np.zeros((count, len(part.table), labels)) for split, part in splits.items()}
    calibration = np.zeros((count, len(env.problem.calibration), labels))
    weights, scales, followed = [], [], []
    learns = env.problem.config.teacher_learns
    teachers = {split: np.zeros_like(part) for split, part in logits.items()} if learns else {}
    traces: dict[str, list[Floats]] = {name: [] for name in TEACHER_TRACES} if learns else {}
    wrong = wrong_rows(env.problem)
    right_rows = None if wrong is None else RightRows(wrong, count)
    while running.any():
        actions, memory = policy.predict(observations, state=memory, episode_start=starts, deterministic=deterministic)
        observations, rewards, terminations, truncations, info = env.step(actions)
        ended = terminations | truncations
        returns += np.where(running, rewards, 0.0)
        moved = running & ~info["skipped"]
        weights.append(_applied(info["weights"], running[:, None], moved[:, None]))
        scales.append(_applied(info["update_scale"], running, moved))
        if _follows(env.problem):
            followed.append(np.where(running, follows_best(env.problem, info["rows"], info["row_weights"]), np.nan))
        for name, trace in traces.items():
            trace.append(np.where(running, info[name], np.nan))
        if right_rows is not None:
            right_rows.add(info["rows"], info["row_weights"][:, 0], moved)
        finished = ended & running
        if finished.any():
            diverged[finished] = info["diverged"][finished]
            for split, part in splits.items():
                logits[split][finished] = env.predict(part.table)[finished]
            if env.problem.calibrates:
                calibration[finished] = env.predict(env.problem.calibration)[finished]
            for split, said in teachers.items():
                said[finished] = env.predict_teacher(splits[split].table)[finished]
            if keep is not None:
                for replica in np.flatnonzero(finished).tolist():
                    keep(replica, seeds[replica], bool(diverged[replica]))
        running &= ~ended
        starts = ended
        if ended.any() and running.any():
            observations, _ = env.reset(options={"reset_mask": ended})
        if progress is not None:
            progress(len(weights), env.episode_steps)
    share = np.nanmean(np.stack(followed), axis=0) if followed else np.full(count, np.nan)
    told = {name: np.stack(trace) for name, trace in traces.items()}
    apart = None if right_rows is None else right_rows.auc()
    chosen, scale = np.stack(weights), np.stack(scales)
    return _Episode(logits, calibration, returns, diverged, chosen, scale, share, teachers, told, apart)


def follows_best(problem: Problem, rows: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Share of the rows ``[N, B]`` whose best teacher (lowest loss) has the largest of the weights ``[N, T, B]``."""
    best = problem.teacher_facts.loss[:, rows].argmin(axis=0)  # [N, B]
    largest = weights == weights.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(largest, best[:, None], axis=1)[:, 0]
    return np.asarray((chosen / largest.sum(axis=1)).mean(axis=-1))


def _side_by_side(parts: Sequence[Floats]) -> Floats:
    """``[steps, n, ...]`` of several groups as ``[steps, N, ...]``; shorter ones are filled with NaN."""
    steps = max(len(part) for part in parts)
    return np.concatenate(
        [
            np.pad(part, ((0, steps - len(part)), *((0, 0),) * (part.ndim - 1)), constant_values=np.nan)
            for part in parts
        ],
        axis=1,
    )


def _applied(values: NDArray[Any], running: NDArray[np.bool_], moved: NDArray[np.bool_]) -> Floats:
    return np.where(running, np.where(moved, values, 0.0), np.nan).astype(np.float64)
