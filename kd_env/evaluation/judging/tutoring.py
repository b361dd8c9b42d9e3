"""The evaluation that every tutor goes through: the same seeds, dev texts or rows at the end.

Two protocols. ``frozen``: fresh students under a tutor that has learned, :func:`evaluate_tutors`. ``joint`` (Tutor-KD
as published): the student beside which the tutor learns, in one episode, :class:`JointEnv`; for a tutor that learns
nothing that is the same as ``frozen``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kd_env.decisions.tutor_token.problem import TutorProblem
from kd_env.envs.tutor_env import TutorVectorEnv
from kd_env.envs.tutor_run import TutorRun
from kd_env.evaluation.judging.tutor_dev import Judged, judged_problems, official_metrics
from kd_env.mdp.rewards import gap_scale

Floats = NDArray[np.float64]
TutorFactory = Callable[[TutorVectorEnv], Any]
"""Makes a policy (``predict(observation, state, episode_start)``) for the vector environment that it will drive."""
DECISION_OPTIONS = (
    *("mode", "teacher_every", "observation", "action_view", "num_candidates", "reward", "evaluate_every"),
    "render_mode",
)
"""Options in which tutors that are compared may differ: they change what is decided and seen, but no update."""


class Contender(NamedTuple):
    """A tutor that acts in a problem of its own: in another action view, or on another observation."""

    make: TutorFactory
    problem: TutorProblem
    """Made by ``with_tutor_options`` from the problem of the comparison."""


@dataclass(frozen=True)
class TutorScores:
    """N students on one split, every field ``[N]``; at reset for a student that diverged."""

    loss: Floats
    gap_closed: Floats
    floored: NDArray[np.bool_]
    """Where the floor of the gap is active: read the loss there."""
    metrics: dict[str, Floats]
    """The official metrics of the task; empty without one."""


@dataclass(frozen=True)
class TutorResult:
    """What one tutor did to the students of every seed, each field ``[N]``; means are over the slots of all updates."""

    reward: Floats
    """``teacher_recognises`` + ``student_error``, whatever the environment's reward is."""
    teacher_recognises: Floats
    student_error: Floats
    student_error_first: Floats
    """Of the first tenth of the updates (at least one)."""
    student_error_last: Floats
    """Of the last tenth: how far the tutor still finds what the student, as it has become, gets wrong."""
    plausibility: Floats
    teacher_probability: Floats
    """``p_T(a | X^M)``: how likely the teacher found the chosen tokens."""
    dev_loss: Floats
    """``L_pp`` on dev texts with samples of the teacher in them, or with labels of a task the cross-entropy with those
    of dev rows; at reset for a student that diverged."""
    dev_gap_closed: Floats
    diverged: NDArray[np.bool_]
    metrics: dict[str, Floats]
    """The official metrics of the task on its dev rows, at reset for a student that diverged; empty without a task."""
    dev_floored: NDArray[np.bool_]
    selection: TutorScores
    """On the selection split."""
    over_time: dict[str, Floats]
    """``teacher_recognises`` and ``student_error`` of every update, means over its slots, ``[updates, N]``; NaN after
    the end of a student."""


def evaluate_tutors(
    problem: TutorProblem,
    tutors: Mapping[str, TutorFactory | Contender],
    seeds: Sequence[int],
    *,
    dev_rows: int = 512,
    judged: Judged | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_end: Callable[[str, TutorVectorEnv, TutorResult, list[int]], None] | None = None,
    finished: Mapping[str, TutorResult] | None = None,
    on_result: Callable[[str, TutorResult], None] | None = None,
) -> dict[str, TutorResult]:
    """Distil one fresh student for every seed under every tutor, all on the same seeds.

    Args:
        problem: the problem of every tutor that brings none of its own.
        tutors: factories or contenders by name.
        seeds: of the students; apart from those of the tutors' training.
        dev_rows: dev and selection texts that students are judged on, the same for all; with a task all rows are.
        judged: these rows, where they are there already.
        progress: called with the tutor's name, the steps done and those of an episode.
        on_end: called as students are judged, with the tutor's name, the environment that holds them, their result and
            their seeds: all of a tutor at once, or one after another where they have dropout.
        finished: results of tutors that are judged already, on the same seeds.
        on_result: told about every other result as it is there.

    Raises:
        ValueError: a contender whose students would not be the same ones, or learn otherwise than by their tokens.
    """
    for name, tutor in tutors.items():
        if isinstance(tutor, Contender):
            _check_comparable(name, tutor.problem, problem)
    judged, found = judged or judged_problems(problem, dev_rows), dict[str, TutorResult]()
    for name, tutor in tutors.items():
        if finished and name in finished:
            found[name] = finished[name]
            continue
        own = tutor if isinstance(tutor, Contender) else Contender(tutor, problem)
        # Students with dropout cannot be stacked.
        apart = problem.config.student_config.dropout > 0
        groups, parts = [[seed] for seed in seeds] if apart else [list(seeds)], []
        env = TutorVectorEnv(len(groups[0]), problem=own.problem, autoreset_mode="disabled")
        # One policy for all groups: made anew for each, a random one would do the same to every student.
        policy = own.make(env)
        for together in groups:
            parts.append(_one(judged, env, policy, together, name, progress))
            if on_end is not None:
                on_end(name, env, parts[-1], together)
        found[name] = joined(parts)
        if on_result is not None:
            on_result(name, found[name])
    return found


def joined(parts: Sequence[TutorResult]) -> TutorResult:
    """The results of several groups of students as one."""

    def beside(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Mapping):
            return {key: beside([value[key] for value in values]) for key in values[0]}
        if isinstance(values[0], TutorScores):
            names = [field.name for field in dataclasses.fields(TutorScores)]
            return TutorScores(**{name: beside([getattr(value, name) for value in values]) for name in names})
        return np.concatenate(values, axis=-1)

    names = [field.name for field in dataclasses.fields(TutorResult)]
    return TutorResult(**{name: beside([getattr(part, name) for part in parts]) for name in names})


def _check_comparable(name: str, own: TutorProblem, problem: TutorProblem) -> None:
    if own.assets is not problem.assets:
        raise ValueError(
            f"The problem of {name!r} has other text or models; make it with with_tutor_options(problem, ...)."
        )
    theirs = problem.config.to_dict()
    for key, value in own.config.to_dict().items():
        if key not in DECISION_OPTIONS and value != theirs[key]:
            raise ValueError(
                f"{name!r} would teach its students with {key}={value!r} and the others with {theirs[key]!r}, which "
                f"compares more than tutors; they may differ in {', '.join(DECISION_OPTIONS)}."
            )


def _one(
    judged: Judged,
    env: TutorVectorEnv,
    tutor: Any,
    seeds: Sequence[int],
    name: str,
    progress: Callable[[str, int, int], None] | None,
) -> TutorResult:
    observation, _ = env.reset(seed=list(seeds))
    tally = Tally(judged, env.run)
    begins, memory = np.ones(len(seeds), dtype=bool), None
    for step in range(1, env.episode_steps + 1):
        valid = tally.valid()
        actions, memory = tutor.predict(observation, memory, begins)
        observation, _, terminated, _, infos = env.step(actions)
        begins = terminated
        tally.add(infos, valid)
        if progress is not None:
            progress(name, step, env.episode_steps)
        if step < env.episode_steps and terminated.any():  # diverged: what these do from here on does not count
            observation, _ = env.reset(options={"reset_mask": terminated})
    return tally.result()


TRACED = ("teacher_recognises", "student_error")
"""Rewards that are kept of every update."""
_SUMMED = ("teacher_recognises", "student_error", "plausibility", "teacher_probability")


class Tally:
    """What the updates of the N students of a run come to; begun after the reset of all."""

    def __init__(self, judged: Judged, run: TutorRun) -> None:
        self._judged, self._run = judged, run
        start = run.started()
        self._begun = [_measured(split, start.params) for split in judged]
        self._over_time: dict[str, list[Floats]] = {name: [] for name in TRACED}
        count, config = len(start.seeds), run.problem.config
        limit = config.max_episode_steps
        most = start.budget if limit is None else limit // (1 if config.mode == "joint" else run.problem.slots)
        self._planned = np.minimum(start.budget, most)
        self._tenth = np.maximum(self._planned // 10, 1)
        self._sums = {key: np.zeros(count) for key in (*_SUMMED, "first", "last")}
        self._counts = {key: np.zeros(count) for key in ("all", "first", "last")}
        self.ended = np.zeros(count, dtype=bool)
        """Diverged; nothing counts from there on."""

    def valid(self) -> np.ndarray:
        """Valid slots of the text that is to be filled, ``[N]``: read before the step."""
        return np.asarray(self._run.started().valid.sum((1, 2)))

    def add(self, infos: Mapping[str, NDArray[np.generic]], valid: np.ndarray) -> None:
        """Count a step, before the episodes that it ended are reset."""
        state = self._run.started()
        counted = infos["updated"] & ~self.ended
        first, last = state.updates <= self._tenth, state.updates > self._planned - self._tenth
        for name, part in (("all", counted), ("first", counted & first), ("last", counted & last)):
            self._counts[name] += np.where(part, valid, 0)
            if name != "all":
                self._sums[name] += np.where(part, infos["student_error"].sum((1, 2)), 0.0)
        for key in _SUMMED:
            self._sums[key] += np.where(counted, infos[key].sum((1, 2)), 0.0)
        if infos["updated"].any():
            for key, trace in self._over_time.items():
                trace.append(np.where(counted, infos[key].sum((1, 2)) / np.maximum(valid, 1), np.nan))
        self.ended = self.ended | infos["diverged"]

    def result(self) -> TutorResult:
        """The students as they are now."""
        params: dict[str, Tensor] = self._run.started().params
        ended = self.ended
        dev, selection = (
            _scores(split, before, _measured(split, params), ended)
            for split, before in zip(self._judged, self._begun, strict=True)
        )
        counts = {name: np.maximum(count, 1) for name, count in self._counts.items()}
        means = {key: self._sums[key] / counts["all"] for key in _SUMMED}
        # A student that diverged before its last tenth has none: its mean stands there, since 0 would be the best end.
        last = np.where(self._counts["last"] > 0, self._sums["last"] / counts["last"], means["student_error"])
        return TutorResult(
            reward=means["teacher_recognises"] + means["student_error"],
            **means,
            student_error_first=self._sums["first"] / counts["first"],
            student_error_last=last,
            dev_loss=dev.loss,
            dev_gap_closed=dev.gap_closed,
            diverged=ended,
            metrics=dev.metrics,
            dev_floored=dev.floored,
            selection=selection,
            over_time={name: np.array(trace) for name, trace in self._over_time.items()},
        )


_Measured = tuple[Floats, dict[str, Floats]]
"""Losses and official metrics of N students."""


def _measured(judged: TutorProblem, params: dict[str, Tensor]) -> _Measured:
    return judged.lesson.evaluate(judged, params), official_metrics(judged, params)


def _scores(judged: TutorProblem, before: _Measured, after: _Measured, ended: NDArray[np.bool_]) -> TutorScores:
    loss = np.where(ended | ~np.isfinite(after[0]), before[0], after[0])
    scale, floored = gap_scale(before[0], judged.loss_floor)
    return TutorScores(
        loss=loss,
        gap_closed=(before[0] - loss) / scale,
        floored=floored,
        metrics={key: np.where(ended, before[1][key], value) for key, value in after[1].items()},
    )
