"""What student and teachers say about the batch that is next, for the features that read it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env.core import trees
from kd_env.core.types import ModelOutput, Signal
from kd_env.mdp.parts import by_rows, in_parts, part
from kd_env.mdp.passes import next_pass, teacher_signals
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, TeacherState


class NextBatch(NamedTuple):
    """What student and teachers say about the first batch of the next step, on the host."""

    student_logits: np.ndarray  # [N, B, C]
    student_cls: np.ndarray | None  # [N, B, H_S], where it was asked for
    teacher_cls: tuple[np.ndarray, ...]  # T times [N, B, H_T]; empty where not asked for


def next_batch(problem: Problem, state: DistillState, rows: np.ndarray, *, with_cls: bool) -> NextBatch:
    """What N students say about rows ``[N, B]`` (:func:`next_pass`), and the teachers' last [CLS] where asked for."""
    last = Signal("cls", problem.student.facts.num_layers)
    output = trees.map_leaves(Tensor.detach, next_pass(problem, state.params, rows).output)
    with torch.no_grad():
        teacher_cls: tuple[np.ndarray, ...] = ()
        if with_cls:
            teacher_outputs = _whole_signals(problem, state.teacher, rows, output)
            depths = [teacher.source.facts.num_layers for teacher in problem.teachers]
            teacher_cls = tuple(
                signals.cls[depth].cpu().numpy() for signals, depth in zip(teacher_outputs, depths, strict=True)
            )
    cls = output.cls[last.layer].cpu().numpy() if with_cls else None
    return NextBatch(output.logits.cpu().numpy(), cls, teacher_cls)


def _whole_signals(
    problem: Problem, teacher: TeacherState | None, rows: np.ndarray, student: ModelOutput
) -> tuple[ModelOutput, ...]:
    """:func:`teacher_signals` of rows ``[N, B]``; where they are computed in parts, logits and [CLS] alone."""
    batch = problem.train.gather(rows)
    if not in_parts(problem):
        return teacher_signals(problem, teacher, rows, batch, student)

    def signals(piece: slice) -> tuple[ModelOutput, ...]:
        outputs = teacher_signals(problem, teacher, rows[:, piece], part(batch, piece), part(student, piece))
        return tuple(ModelOutput(output.logits, output.cls, {}, {}, {}, {}, {}) for output in outputs)

    return by_rows(problem, rows.shape[1], signals)
