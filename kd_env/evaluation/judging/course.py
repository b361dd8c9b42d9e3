"""What an episode of N students comes to: collected step by step, and read from each student at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.data.tables import Table
from kd_env.decisions.base import Decision
from kd_env.evaluation.judging.contenders import TEACHER_TRACES, Standing
from kd_env.evaluation.judging.dev import Split, end_scores, safe_logits, split_metrics, temperatures
from kd_env.evaluation.judging.results import SELECTION, Measured, PolicyResult, TaughtBeside
from kd_env.mdp.problem import Problem
from kd_env.numerics.traces import Trace


class Students(Protocol):
    """Who is asked about rows: a run or an environment."""

    def predict(self, table: Table) -> np.ndarray:
        """What the present students say about a table, ``[N, R, ...]``."""

    def predict_teacher(self, table: Table) -> np.ndarray:
        """What teachers that learn beside them say."""


class Ended(NamedTuple):
    """What one episode of N students gave."""

    logits: dict[str, Floats]  # by split [N, R, C], or scores of tokens [N, R, S]
    calibration: Floats  # logits [N, R, C] on the rows that temperatures are fitted on; [N, 0] where there is none
    returns: Floats  # [N]
    diverged: NDArray[np.bool_]  # [N]
    weights: Floats  # [steps, N, K]
    scales: Floats  # [steps, N]
    teachers: dict[str, Floats]  # by split logits [N, R, C] of teachers that learn, else empty
    teacher_traces: dict[str, Floats]  # what info says of such teachers, each [steps, N]
    measures: tuple[Measured, ...]
    traces: dict[str, Floats]  # of measures, each [updates, N]
    losses: Floats  # [steps, N, K] of the terms, as info says them; NaN in steps without an update and after the end


class Course:
    """Collects an episode.

    Args:
        problem: of the students.
        decision: of the problem.
        splits: that they are judged on.
        count: N.
    """

    def __init__(self, problem: Problem, decision: Decision, splits: Mapping[str, Split], count: int) -> None:
        self._problem, self._decision, self._splits = problem, decision, splits
        self._returns, self._diverged = np.zeros(count), np.zeros(count, dtype=bool)
        self._logits: dict[str, Floats] = {}
        self._teachers: dict[str, Floats] = {}
        self._calibration = np.zeros((count, 0))
        self._weights, self._scales, self._losses = Trace(), Trace(), Trace()
        names = TEACHER_TRACES if problem.config.teacher_learns else ()
        self._traces = {name: Trace() for name in names}
        self._measures = decision.measures(problem, count)

    @property
    def steps(self) -> int:
        """Steps so far."""
        return len(self._weights)

    def add(self, info: Mapping[str, NDArray[Any]], rewards: Floats, running: NDArray[np.bool_]) -> None:
        """Take one step; replicas that are not ``running`` have ended before."""
        self._returns += np.where(running, rewards, 0.0)
        moved = running & ~info["skipped"]
        terms = slice(None) if self._decision.sets_weights else slice(0)
        self._weights.append(_applied(info["weights"][:, terms], running[:, None], moved[:, None]))
        self._losses.append(np.where(moved[:, None], info["raw_losses"][:, terms], np.nan).astype(np.float64))
        self._scales.append(_applied(info["update_scale"], running, moved))
        for measure in self._measures:
            measure.add(info, running)
        for name, trace in self._traces.items():
            trace.append(np.where(running, info[name], np.nan))

    def finish(self, info: Mapping[str, NDArray[Any]], students: Students, finished: NDArray[np.bool_]) -> None:
        """Read the students ``[N]`` that have just ended."""
        self._diverged[finished] = info["diverged"][finished]
        for split, judged in self._splits.items():
            self._logits[split] = _put(self._logits.get(split), students.predict(judged.table), finished)
            if self._problem.config.teacher_learns:
                said = students.predict_teacher(judged.table)
                self._teachers[split] = _put(self._teachers.get(split), said, finished)
        if self._problem.calibrates:
            before = self._calibration if self._calibration.ndim > 2 else None
            self._calibration = _put(before, students.predict(self._problem.calibration), finished)

    def standing(self, replica: int) -> Standing:
        """How a student that has ended did on the selection split, in a task of classes or scores."""
        problem, split = self._problem, self._splits[SELECTION]
        logits = safe_logits(self._logits[SELECTION][replica])
        temperature = temperatures(problem, self._calibration[[replica]])
        [loss] = problem.loss(logits[None], split.table, split.teacher_logits, temperature)
        return Standing(split_metrics(problem, logits, split.table)[problem.task.metrics[0]], -float(loss))

    def state(self) -> dict[str, Any]:
        """What was collected while no student has ended: arrays by name, which :meth:`restore` takes back."""
        return {
            "returns": self._returns,
            "weights": self._weights.array(),
            "scales": self._scales.array(),
            "losses": self._losses.array(),
            "traces": {name: trace.array() for name, trace in self._traces.items()},
            "measures": {str(place): measure.state() for place, measure in enumerate(self._measures)},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what another course of the same episode had collected."""
        self._returns = state["returns"]
        self._weights, self._scales = Trace(state["weights"]), Trace(state["scales"])
        self._losses = Trace(state["losses"])
        self._traces = {name: Trace(values) for name, values in state["traces"].items()}
        for place, measure in enumerate(self._measures):
            measure.restore(state["measures"][str(place)])

    def ended(self) -> Ended:
        """Everything, when all have ended."""
        return Ended(
            self._logits,
            self._calibration,
            self._returns,
            self._diverged,
            self._weights.array(),
            self._scales.array(),
            self._teachers,
            {name: trace.array() for name, trace in self._traces.items()},
            tuple(Measured(m.name, m.title, m.bounds, m.values()) for m in self._measures),
            {m.trace: m.over_time() for m in self._measures if m.trace},
            self._losses.array(),
        )


def policy_result(
    name: str,
    episodes: Sequence[Ended],
    problem: Problem,
    splits: Mapping[str, Split],
    judged_in: Problem,
    **said: Any,
) -> PolicyResult:
    """What a policy did to the students of several episodes.

    Args:
        name: of the policy.
        episodes: of its students, side by side.
        problem: that it acted in.
        splits: of all students.
        judged_in: the problem of the comparison.
        **said: what a result says of its policy as the contender does (:attr:`Contender.said`).
    """
    diverged = np.concatenate([episode.diverged for episode in episodes])
    logits = {split: np.concatenate([episode.logits[split] for episode in episodes]) for split in splits}
    fitted = temperatures(problem, np.concatenate([episode.calibration for episode in episodes]))
    titles = episodes[0].traces
    return PolicyResult(
        name=name,
        **said,
        action_view=problem.config.action_view,
        splits={s: end_scores(logits[s], fitted, split, diverged, judged_in) for s, split in splits.items()},
        temperature=fitted,
        returns=np.concatenate([episode.returns for episode in episodes]),
        diverged=diverged,
        weights=_side_by_side([episode.weights for episode in episodes]),
        update_scale=_side_by_side([episode.scales for episode in episodes]),
        taught=_teachers_beside(problem, splits, episodes) if problem.config.teacher_learns else None,
        measures=_joined([episode.measures for episode in episodes]),
        traces={title: _side_by_side([episode.traces[title] for episode in episodes]) for title in titles},
        term_losses=_side_by_side([episode.losses for episode in episodes]),
    )


def _teachers_beside(problem: Problem, splits: Mapping[str, Split], episodes: Sequence[Ended]) -> TaughtBeside:
    split_scores: dict[str, dict[str, Floats]] = {}
    for split, judged_split in splits.items():
        logits = np.nan_to_num(np.concatenate([episode.teachers[split] for episode in episodes]))
        scores = [split_metrics(problem, student_logits, judged_split.table) for student_logits in logits]
        split_scores[split] = {name: np.array([score[name] for score in scores]) for name in problem.task.metrics}
    names = episodes[0].teacher_traces
    over_time = {name: _side_by_side([episode.teacher_traces[name] for episode in episodes]) for name in names}
    return TaughtBeside(split_scores, over_time)


def _put(values: Floats | None, new: NDArray[Any], chosen: NDArray[np.bool_]) -> Floats:
    """``values`` (zeros where there are none yet) with the chosen rows of ``new``."""
    target = np.zeros(new.shape) if values is None else values
    target[chosen] = new[chosen]
    return target


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
