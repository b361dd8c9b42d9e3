"""The evaluation that every tutor goes through: fresh students, the same seeds, dev texts or rows at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.evaluation.tutor_dev import official_metrics, with_dev_rows
from kd_env.rewards import gap_scale
from kd_env.tutor.env import TutorVectorEnv
from kd_env.tutor.problem import TutorProblem

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
    """Made by ``with_options`` from the problem of the comparison."""


@dataclass(frozen=True)
class TutorResult:
    """What one tutor did to the students of every seed, each field ``[N]``; means are over the slots of all updates."""

    reward: Floats
    """``teacher_recognises`` + ``student_error``, whatever the environment's reward is."""
    teacher_recognises: Floats
    student_error: Floats
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


def evaluate_tutors(
    problem: TutorProblem,
    tutors: Mapping[str, TutorFactory | Contender],
    seeds: Sequence[int],
    *,
    dev_rows: int = 512,
    progress: Callable[[str, int, int], None] | None = None,
    on_end: Callable[[str, TutorVectorEnv, TutorResult], None] | None = None,
) -> dict[str, TutorResult]:
    """Distil one fresh student for every seed under every tutor, all on the same seeds.

    Args:
        problem: the problem of every tutor that brings none of its own.
        tutors: factories or contenders by name.
        seeds: of the students; apart from those of the tutors' training.
        dev_rows: dev texts that students are judged on, the same for all; with a task all of its dev rows are.
        progress: called with the tutor's name, the steps done and those of an episode.
        on_end: called as each tutor is judged, with its name, the environment that holds its students, and the result.

    Raises:
        ValueError: a contender whose students would not be the same ones, or learn otherwise than by their tokens.
    """
    for name, tutor in tutors.items():
        if isinstance(tutor, Contender):
            _check_comparable(name, tutor.problem, problem)
    judged, found = with_dev_rows(problem, dev_rows), {}
    for name, tutor in tutors.items():
        own = tutor if isinstance(tutor, Contender) else Contender(tutor, problem)
        env = TutorVectorEnv(len(seeds), problem=own.problem, autoreset_mode="disabled")
        found[name] = _one(judged, env, own.make(env), seeds, name, progress)
        if on_end is not None:
            on_end(name, env, found[name])
    return found


def _check_comparable(name: str, own: TutorProblem, problem: TutorProblem) -> None:
    if own.assets is not problem.assets:
        raise ValueError(f"The problem of {name!r} has other text or models; make it with problem.with_options(...).")
    theirs = problem.config.to_dict()
    for key, value in own.config.to_dict().items():
        if key not in DECISION_OPTIONS and value != theirs[key]:
            raise ValueError(
                f"{name!r} would teach its students with {key}={value!r} and the others with {theirs[key]!r}, which "
                f"compares more than tutors; they may differ in {', '.join(DECISION_OPTIONS)}."
            )


def _one(
    judged: TutorProblem,
    env: TutorVectorEnv,
    tutor: Any,
    seeds: Sequence[int],
    name: str,
    progress: Callable[[str, int, int], None] | None,
) -> TutorResult:
    observation, _ = env.reset(seed=list(seeds))
    start = env.run.started().params
    before, begun = judged.lesson.evaluate(judged, start), official_metrics(judged, start)
    sums = {key: np.zeros(len(seeds)) for key in ("teacher_recognises", "student_error", "plausibility")}
    sums["teacher_probability"], counts = np.zeros(len(seeds)), np.zeros(len(seeds))
    ended, begins, memory = np.zeros(len(seeds), dtype=bool), np.ones(len(seeds), dtype=bool), None
    for step in range(1, env.episode_steps + 1):
        valid = env.run.started().valid.sum((1, 2))
        actions, memory = tutor.predict(observation, memory, begins)
        observation, _, terminated, _, infos = env.step(actions)
        begins = terminated
        counted = infos["updated"] & ~ended
        for key, total in sums.items():
            total += np.where(counted, infos[key].sum((1, 2)), 0.0)
        counts += np.where(counted, valid, 0)
        ended |= infos["diverged"]
        if progress is not None:
            progress(name, step, env.episode_steps)
        if step < env.episode_steps and terminated.any():  # diverged: what these do from here on does not count
            observation, _ = env.reset(options={"reset_mask": terminated})
    after = judged.lesson.evaluate(judged, env.run.started().params)
    ending = official_metrics(judged, env.run.started().params)
    loss = np.where(ended | ~np.isfinite(after), before, after)
    means = {key: total / np.maximum(counts, 1) for key, total in sums.items()}
    return TutorResult(
        reward=means["teacher_recognises"] + means["student_error"],
        **means,
        dev_loss=loss,
        dev_gap_closed=(before - loss) / gap_scale(before, judged.loss_floor)[0],
        diverged=ended,
        metrics={key: np.where(ended, begun[key], value) for key, value in ending.items()},
    )
