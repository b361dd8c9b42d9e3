"""The evaluation that every tutor goes through: fresh students, the same seeds, texts of the dev split at the end.

Like :mod:`kd_env.evaluation.protocol`, this alone reads dev texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.rewards import gap_scale
from kd_env.text import cut_texts, load_texts, tokenize_texts
from kd_env.tutor import dynamics
from kd_env.tutor.env import TutorVectorEnv
from kd_env.tutor.problem import TutorProblem, evaluated_rows

Floats = NDArray[np.float64]
TutorFactory = Callable[[TutorVectorEnv], Any]
"""Makes a policy (anything with ``predict``) for the vector environment that it will drive."""


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
    """``L_pp`` on dev texts with samples of the teacher in them; at reset for a student that diverged."""
    dev_gap_closed: Floats
    diverged: NDArray[np.bool_]


def evaluate_tutors(
    problem: TutorProblem,
    tutors: Mapping[str, TutorFactory],
    seeds: Sequence[int],
    *,
    dev_rows: int = 512,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, TutorResult]:
    """Distil one fresh student for every seed under every tutor, all on the same seeds.

    Args:
        problem: the problem; its action view is that of every tutor.
        tutors: factories by name.
        seeds: of the students; apart from those of the tutors' training.
        dev_rows: dev texts that students are judged on, the same for all.
        progress: called with the tutor's name, the steps done and those of an episode.
    """
    judged = with_dev_texts(problem, dev_rows)
    return {name: _one(problem, judged, factory, seeds, name, progress) for name, factory in tutors.items()}


def with_dev_texts(problem: TutorProblem, rows: int) -> TutorProblem:
    """The problem whose evaluated rows are dev texts.

    Raises:
        ValueError: the source has no dev texts of enough tokens.
    """
    config, assets = problem.config, problem.assets
    texts = load_texts(config.text, data_dir=config.data_dir, column=config.column, dev=True)
    cut = cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)
    least = assets.slots if config.masking == "fixed" else 1
    held = tokenize_texts(cut.dev[:rows], assets.tokenizer, assets.tokens, config.max_length, at_least=least)
    table, labels, floor = evaluated_rows(config, assets.teacher, assets.tokens, held, assets.slots, assets.device)
    return TutorProblem(assets._replace(feedback=table, feedback_labels=labels, loss_floor=floor), config)


def _one(
    problem: TutorProblem,
    judged: TutorProblem,
    factory: TutorFactory,
    seeds: Sequence[int],
    name: str,
    progress: Callable[[str, int, int], None] | None,
) -> TutorResult:
    env = TutorVectorEnv(len(seeds), problem=problem, autoreset_mode="disabled", max_episode_steps=None)
    tutor = factory(env)
    observation, _ = env.reset(seed=list(seeds))
    before = dynamics.evaluate(judged, env.run.started().params)
    sums = {key: np.zeros(len(seeds)) for key in ("teacher_recognises", "student_error", "plausibility")}
    sums["teacher_probability"], counts = np.zeros(len(seeds)), np.zeros(len(seeds))
    ended = np.zeros(len(seeds), dtype=bool)
    for step in range(1, env.episode_steps + 1):
        valid = observation["valid"].sum(-1)
        actions, _ = tutor.predict(observation)
        observation, _, terminated, _, infos = env.step(actions)
        counted = infos["updated"] & ~ended
        for key, total in sums.items():
            total += np.where(counted, infos[key].sum((1, 2)), 0.0)
        counts += np.where(counted, valid, 0)
        ended |= infos["diverged"]
        if progress is not None:
            progress(name, step, env.episode_steps)
        if step < env.episode_steps and terminated.any():  # diverged: what these do from here on does not count
            observation, _ = env.reset(options={"reset_mask": terminated})
    after = dynamics.evaluate(judged, env.run.started().params)
    loss = np.where(ended | ~np.isfinite(after), before, after)
    means = {key: total / np.maximum(counts, 1) for key, total in sums.items()}
    return TutorResult(
        reward=means["teacher_recognises"] + means["student_error"],
        **means,
        dev_loss=loss,
        dev_gap_closed=(before - loss) / gap_scale(before, judged.loss_floor)[0],
        diverged=ended,
    )
