"""Students on the dev rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.data.loading import load_dev
from kd_env.data.splits import content_hash
from kd_env.data.tables import Table
from kd_env.data.tasks import Rows, Task
from kd_env.evaluation.judging.results import SplitScores
from kd_env.mdp.problem import Problem
from kd_env.mdp.rewards import gap_scale
from kd_env.models.checks import check_positions
from kd_env.models.encoder import Encoder
from kd_env.numerics.calibration import expected_calibration_error, fit_temperatures, reliability


@dataclass(frozen=True)
class Split:
    """Rows that students are judged on, with what the teacher says about them."""

    table: Table
    teacher_logits: NDArray[Any]  # [R, C]
    teacher_loss: float
    raw_teacher_loss: float  # the calibrated teacher's against gold labels, whatever the gap is
    reset_loss: Floats  # [N], from which the gap counts; the same for every policy, since the seeds are
    raw_reset_loss: Floats | None  # [N], against gold labels without a temperature; None where there is no other loss


def check_dev(task: Task, data_dir: str | None) -> dict[str, str]:
    """A hash of the content of each official dev split.

    Called before any work, so that a missing split is not found at the end of it.

    Raises:
        ValueError: a dev split that is missing or cannot be read.
    """
    return {split: content_hash(rows) for split, rows in load_dev(task, data_dir).items()}


def dev_texts(task: Task, data_dir: str | None) -> dict[str, Rows]:
    """Rows of each official dev split without their labels, which are all -1: for teachers that answer to texts.

    Raises:
        ValueError: a dev split that is missing or cannot be read.
    """
    splits = load_dev(task, data_dir)
    return {split: rows._replace(labels=np.full(len(rows.labels), -1)) for split, rows in splits.items()}


def dev_rows(task: Task, data_dir: str | None) -> int:
    """How many rows all official dev splits have together; nothing else is said of them."""
    return sum(len(rows.labels) for rows in load_dev(task, data_dir).values())


def check_dev_lengths(problem: Problem) -> None:
    """Check that every dev row fits the encoders, before an agent is trained that could not be judged afterwards.

    Raises:
        ValueError: a dev row that is longer than the positions of an encoder, or to which a teacher without an encoder
            has given no answer, with the remedy.
    """
    encoders, answers = {"student": problem.student}, problem.reference.answers
    if answers is None:
        encoders["teacher"] = problem.reference.encoder
    else:
        for split, rows in load_dev(problem.task, problem.config.data_dir).items():
            answers.logits(rows, split, np.arange(len(rows.labels)))
    for name, encoder in encoders.items():
        try:  # rows are cut to max_length: where that fits, no row needs to be read
            check_positions(encoder, problem.config.max_length, name)
        except ValueError:
            dev = load_dev(problem.task, problem.config.data_dir).items()
            for_teacher = name == "teacher"
            check_lengths(
                name, encoder, {split: problem.tokenize(rows, for_teacher=for_teacher) for split, rows in dev}
            )


def check_lengths(name: str, encoder: Encoder, tables: Mapping[str, Table]) -> None:
    """Refuse tables with rows that are longer than an encoder's positions.

    Raises:
        ValueError: with the split, its longest row and the positions.
    """
    for split, table in tables.items():
        try:
            check_positions(encoder, int(table.lengths.max()), name)
        except ValueError as error:
            raise ValueError(f"The {split} split: {error}") from error


def end_scores(
    logits: NDArray[Any],
    temperature: Floats,
    split: Split,
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
    safe, labels = safe_logits(logits), split.table.labels
    scale, floored = gap_scale(split.reset_loss, split.teacher_loss)
    broken = diverged | ~np.isfinite(logits).all(axis=(1, 2))
    loss = problem.loss(safe, split.table, split.teacher_logits, temperature)
    loss = np.where(broken, split.reset_loss + scale, loss)
    raw_loss, raw_gap = problem.objective.raw_loss(problem, safe, split.table), None
    if raw_loss is not None and split.raw_reset_loss is not None:
        raw_scale, _ = gap_scale(split.raw_reset_loss, split.raw_teacher_loss)
        raw_loss = np.where(broken, split.raw_reset_loss + raw_scale, raw_loss)
        raw_gap = (split.raw_reset_loss - raw_loss) / raw_scale
    errors, bins, guesses = None, None, problem.objective.predictions(problem, safe)
    if guesses is not None and not problem.task.regression:
        errors = np.array([expected_calibration_error(student_logits, labels) for student_logits in safe])
        bins = np.stack([reliability(student_logits, labels) for student_logits in safe])
    scores = [split_metrics(problem, student_logits, split.table) for student_logits in safe]
    return SplitScores(
        metrics={name: np.array([score[name] for score in scores]) for name in problem.task.metrics},
        loss=loss,
        gap_closed=(split.reset_loss - loss) / scale,
        floored=floored,
        raw_loss=raw_loss,
        raw_gap_closed=raw_gap,
        calibration_error=errors,
        predictions=guesses,
        reliability=bins,
        gap_size=scale,
    )


def split_metrics(problem: Problem, logits: NDArray[Any], table: Table) -> dict[str, float]:
    """The metrics of what a model says about a table, by name."""
    return problem.objective.scores(problem, logits, table)


def temperatures(problem: Problem, logits: NDArray[Any]) -> Floats:
    """Temperatures ``[N]`` from logits ``[N, R, C]`` on ``problem.calibration``; 1 where the gap is not calibrated."""
    return (
        fit_temperatures(safe_logits(logits), problem.calibration.labels)
        if problem.calibrates
        else np.ones(len(logits))
    )


def safe_logits(logits: NDArray[Any]) -> NDArray[Any]:
    """Logits of diverged students as 0: they count as diverged, whatever is computed from them."""
    return np.asarray(np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0))
