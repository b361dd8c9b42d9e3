"""A knowledge term: the student copies by how much the teacher prefers its first choice to the other classes."""

from __future__ import annotations

from torch import Tensor

from kd_env.core.types import Signal
from kd_env.knowledge import Term, TermInputs, TermSpec


def margin(spec: TermSpec, *, least: float = 0.0) -> Term:
    """Squared difference of the margins; teacher's margins below ``least`` do not count."""
    if spec.regression or spec.text:
        raise ValueError("The knowledge term 'margin' compares classes, of which this task has none; leave it out.")

    def loss(inputs: TermInputs) -> Tensor:  # [B]
        student, teacher = inputs.student.logits, inputs.taught.logits  # [B, C]
        first = teacher.argmax(-1, keepdim=True)
        others = student.shape[-1] - 1
        of_teacher, of_student = (
            each.gather(-1, first)[:, 0] - (each.sum(-1) - each.gather(-1, first)[:, 0]) / others
            for each in (teacher, student)
        )
        return (of_student - of_teacher) ** 2 * (of_teacher >= least)

    logits = frozenset({Signal("logits")})
    return Term("margin", loss, student_signals=logits, teacher_signals=logits, projections={})
