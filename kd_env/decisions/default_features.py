"""Observation features that an environment has unless others are named, by what is decided in it."""

from __future__ import annotations

DEFAULT_FEATURES = (
    "progress",
    "remaining_budget",
    "learning_rate",
    "term_losses",
    "term_losses_normalized",
    "gap",
    "student_entropy",
    "teacher_entropy",
    "agreement",
    "feedback_metric",
    "previous_action",
)
TEACHER_FEATURES = {
    "batch": (
        "progress",
        "remaining_budget",
        "learning_rate",
        "gap",
        "teacher_losses",
        "teacher_entropies",
        "teacher_confidences",
        "teacher_student_agreement",
        "teacher_agreement",
        "student_on_batch",
        "previous_action",
    ),
    "sample": (
        "progress",
        "remaining_budget",
        "gap",
        "row_teacher_losses",
        "row_teacher_entropies",
        "row_teacher_confidences",
        "row_teacher_student_agreement",
        "row_teacher_agreement",
        "row_student",
    ),
}
"""Default features of teacher_weighting, by what one weight holds for."""
SAMPLE_FEATURES = (
    "progress",
    "remaining_budget",
    "gap",
    "student_on_batch",
    "teacher_losses",
    "row_student",
    "row_margin",
    "row_confidence",
    "row_teacher_losses",
    "row_teacher_entropies",
    "row_teacher_confidences",
    "row_teacher_student_agreement",
    "row_length",
    "row_seen",
)
"""Default features of sample_weighting."""
