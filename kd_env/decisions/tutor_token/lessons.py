"""What students learn on edited text, and what the tutor is rewarded for: by text alone, or by labels of a task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from kd_env.core import trees
from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.decisions.tutor_token import reading, rewards
from kd_env.decisions.tutor_token.problem import Lesson, Taught, TutorProblem
from kd_env.decisions.tutor_token.state import Written
from kd_env.knowledge import plausibility
from kd_env.mdp import passes as updates
from kd_env.models.encoder import Encoder
from kd_env.numerics import losses
from kd_env.numerics.calibration import fit_temperatures
from kd_env.teachers.sources import autocast, cast


class TextLesson(Lesson):
    """Pre-training distillation (the paper): which tokens are plausible, says a masked language model."""

    def __init__(self, facts: EncoderFacts) -> None:
        self.facts = facts

    def teach(self, problem: TutorProblem, text: Batch, written: Written, signals: frozenset[Signal]) -> Taught:
        """See :class:`Lesson`."""
        hidden, output = reading.run_teacher(problem, text, signals)
        features = problem.teacher.features(reading.at_slots(hidden, written.places))
        after = (features, problem.teacher.decode(features).logsumexp(-1))
        recognises = plausibility.teacher_recognises(
            reading.log_probability(problem, *after, written.original),
            reading.log_probability(problem, *after, written.chosen),
        )
        width = text.input_ids.shape[-1]
        labels = plausibility.token_labels(written.plausibility, written.places, written.valid, width)
        return Taught(output, labels, recognises)

    def error(self, student: ModelOutput, taught: Taught, written: Written) -> Tensor:
        """``|m - sigmoid(u)|``."""
        scores = student.logits.squeeze(-1).gather(-1, written.places)
        return plausibility.student_error(scores, written.plausibility)

    def evaluate(self, problem: TutorProblem, params: dict[str, Tensor]) -> np.ndarray:
        """``L_pp`` on rows whose replacements never change."""
        table, count = problem.feedback, next(iter(params.values())).shape[0]
        total = torch.zeros(count, dtype=torch.float64, device=problem.device)
        loss_of = vmap(plausibility.plausibility_loss, in_dims=(0, None, None))
        with torch.no_grad():
            for rows in table.chunks(max(32, 256 // count)):
                batch = table.gather(rows)
                output = updates.student_forward(problem, params, batch, frozenset(), shared_batch=True)
                scores = output.logits.squeeze(-1)
                labels = problem.feedback_labels[torch.as_tensor(rows, device=problem.device)][:, : scores.shape[-1]]
                total += loss_of(scores, labels, batch.attention_mask).double() * batch.attention_mask.sum()
        return np.asarray((total / float(table.lengths.sum())).cpu().numpy())


class TaskLesson(Lesson):
    """Distillation on the rows of a task: a fine-tuned teacher labels the edited text.

    Args:
        classifier: the teacher of the task; who reads the masked text is ``problem.teacher``, as in every lesson.
    """

    def __init__(self, classifier: Encoder) -> None:
        self.classifier, self.facts = classifier, classifier.facts

    def teach(self, problem: TutorProblem, text: Batch, written: Written, signals: frozenset[Signal]) -> Taught:
        """See :class:`Lesson`."""
        count, rows = text.input_ids.shape[:2]
        flat: Batch = trees.map_leaves(lambda t: t.flatten(0, 1), text)
        with autocast(problem.device, problem.precision):
            said = self.classifier.forward({}, flat, signals)
        output: ModelOutput = trees.map_leaves(lambda t: t.unflatten(0, (count, rows)), cast(said, problem.dtype))
        confidence = rewards.label_confidence(output.logits, text.labels)
        return Taught(output, text.labels, confidence[..., None].expand(written.places.shape))

    def error(self, student: ModelOutput, taught: Taught, written: Written) -> Tensor:
        """Distance of the label distributions; the same for every slot of a row."""
        distance = rewards.label_distance(student.logits, taught.output.logits)
        return distance[..., None].expand(written.places.shape)

    def evaluate(self, problem: TutorProblem, params: dict[str, Tensor]) -> np.ndarray:
        """Cross-entropy with the gold labels of rows as they are, after a temperature fitted on feedback rows."""
        rows, logits = problem.assets.calibration, updates.predict(problem, params, problem.feedback)
        assert rows is not None
        sample = logits if rows is problem.feedback else updates.predict(problem, params, rows)
        finite = np.isfinite(logits).all(axis=(1, 2)) & np.isfinite(sample).all(axis=(1, 2))
        temperature = fit_temperatures(np.where(finite[:, None, None], sample, 0.0), rows.labels)
        safe = np.where(finite[:, None, None], logits, 0.0) / temperature[:, None, None]
        return np.where(finite, losses.gold_loss(safe, problem.feedback.labels, None), np.nan)
