"""A teacher source: the teacher without its mistakes.

Where its first choice is not the label of a train row, the two logits change places (the "probability shift" of Wen et
al., "Preparing Lessons: Improve Knowledge Distillation with Better Supervision", 2019).
"""

from __future__ import annotations

import numpy as np
import torch

from kd_env.core.types import Batch, ModelOutput
from kd_env.teachers.catalog import SourceParts
from kd_env.teachers.sources import CachedTeacher


class Corrected(CachedTeacher):
    """What was computed once, with the logits of mistakes corrected."""

    def signals(self, rows: np.ndarray, batch: Batch, student: ModelOutput) -> ModelOutput:
        """Signals of train rows ``[...]``; ``logits`` are ``[..., C]``, and ``batch.labels`` ``[...]``."""
        output = super().signals(rows, batch, student)
        logits, right = output.logits, batch.labels[..., None]
        if logits.shape[-1] == 1:
            raise ValueError("teacher_source='corrected' is for tasks of classes; scores have no first choice.")
        first = logits.argmax(-1, keepdim=True)
        highest, of_label = logits.gather(-1, first), logits.gather(-1, right)
        return output._replace(logits=torch.scatter(logits.scatter(-1, first, of_label), -1, right, highest))


def corrected(parts: SourceParts) -> Corrected:
    """The source of one teacher."""
    if parts.foreign:
        raise ValueError("teacher_source='corrected' needs a teacher with the student's tokenizer.")
    return Corrected(parts.facts, parts.kept(), parts.table, parts.dtype)
