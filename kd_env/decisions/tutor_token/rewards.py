"""Rewards of single tokens, averaged over the valid slots of the update; 0 in steps that do not complete a text."""

from __future__ import annotations

import numpy as np

from kd_env.mdp.rewards import REWARDS, RewardInputs, of_scores

TEACHER_RECOGNISES, STUDENT_ERROR = "teacher_recognises", "student_error"


@REWARDS.register("tutor")
@of_scores("tutor")
def tutor(x: RewardInputs) -> np.ndarray:
    """``R_T + R_S`` of Tutor-KD (Kim et al., EMNLP 2022), in [-1, 2]: recognised by the teacher, missed by the student.

    With labels of a task the first is the teacher's confidence in the gold label of the edited row, the second the
    distance of the student's label distribution from the teacher's, both the same for all slots of a row.
    """
    return x.scores["tutor"]


@REWARDS.register(TEACHER_RECOGNISES)
@of_scores(TEACHER_RECOGNISES)
def teacher_recognises(x: RewardInputs) -> np.ndarray:
    """``R_T`` alone: ``p_T(x | X') - p_T(a | X')`` in the edited text."""
    return x.scores[TEACHER_RECOGNISES]


@REWARDS.register(STUDENT_ERROR)
@of_scores(STUDENT_ERROR)
def student_error(x: RewardInputs) -> np.ndarray:
    """``R_S`` alone: ``|m - sigmoid(u)|`` of the student before the update that the tokens cause."""
    return x.scores[STUDENT_ERROR]
