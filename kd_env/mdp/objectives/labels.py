"""Labels of a task: students are classifiers (or give scores), and are judged by the labels of feedback rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kd_env.core import metrics, trees
from kd_env.core.types import Batch, ModelOutput
from kd_env.data.tables import Table
from kd_env.mdp import passes
from kd_env.mdp.objectives.batches import StudentBatch, TeacherPass
from kd_env.mdp.objectives.own_rows import predict_own_rows
from kd_env.mdp.objectives.reading import with_edit
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Evaluation, TeacherState
from kd_env.models.encoder import Encoder
from kd_env.numerics import losses
from kd_env.numerics.calibration import fit_temperatures
from kd_env.teachers.sources import autocast, cast


class LabelsObjective:
    """What students learn from the rows of a task.

    Objectives of other distributions derive from it: one of another loss ``e`` overrides :meth:`error` alone, and
    rewards, gaps and reports count it for students and teacher alike.
    """

    def error(self, problem: Problem, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """``e`` against gold labels: cross-entropy in nats, or the squared error over the squared range of the scores.

        Args:
            problem: the problem; ``label_width`` is the range of scores, None for classes.
            outputs: float logits ``[..., R, C]`` after their temperature, or scores ``[..., R, 1]``; finite.
            labels: int64 ``[R]`` or ``[..., R]`` gold classes, or scores.

        Returns:
            Means over the rows, ``[...]`` float64, the lower the better.
        """
        return losses.gold_loss(outputs, labels, problem.label_width)

    def batch(self, problem: Problem, state: DistillState, rows: np.ndarray) -> StudentBatch:
        """Rows ``[N, B]``, with what the decision wrote into them."""
        batch, edit = problem.train.gather(rows), problem.decision.edit(problem, state)
        return StudentBatch(rows, batch if edit is None else with_edit(batch, edit), edit)

    def teach(
        self, problem: Problem, teacher: TeacherState | None, batch: StudentBatch, student: ModelOutput
    ) -> TeacherPass:
        """What the teachers say about the batch: of rows as they are what was kept, of edited ones anew."""
        if batch.edit is None:
            return TeacherPass(passes.teacher_signals(problem, teacher, batch.rows, batch.batch, student))
        with torch.no_grad():
            return TeacherPass((_outputs(problem, batch.batch),))

    def recognises(self, problem: Problem, batch: StudentBatch, teachers: TeacherPass) -> Tensor:
        """``p_T(y | X')`` ``[N, B, P]`` in [0, 1]: what is left of the teacher's confidence in the gold label.

        The same for every slot of a row.
        """
        confidence = label_confidence(teachers.outputs[0].logits, batch.batch.labels)
        return confidence[..., None].expand(_places(batch).shape)

    def student_error(
        self, problem: Problem, batch: StudentBatch, student: ModelOutput, teachers: TeacherPass | None
    ) -> Tensor:
        """Distance of the label distributions ``[N, B, P]`` in [0, 1]; the same for every slot of a row."""
        teachers = teachers or self.teach(problem, None, batch, student)
        distance = label_distance(student.logits, teachers.outputs[0].logits)
        return distance[..., None].expand(_places(batch).shape)

    def evaluate(
        self, problem: Problem, params: dict[str, Tensor], teacher: TeacherState | None, rows: np.ndarray | None = None
    ) -> Evaluation:
        """Feedback loss, headline metric, entropy and agreement with the teacher, on feedback rows or ``rows [N, R]``.

        The agreement with a teacher that learns is 0 where no feature asks for it: it costs a pass of the teacher.
        """
        logits = _predict(problem, params, rows)
        labels, teacher_logits = problem.feedback.labels, problem.reference.feedback_logits
        if rows is not None:
            labels, teacher_logits = labels[rows], teacher_logits[rows]
        finite = np.isfinite(logits).all(axis=(1, 2))
        safe = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)
        count = len(logits)
        raw = self.error(problem, safe, labels)
        temperature = np.ones(count)
        if problem.task.regression:
            entropy, agreement = np.zeros(count), np.zeros(count)
        else:
            entropy = losses.entropy(safe).mean(-1)
            classes = safe.argmax(-1)
            self_taught = problem.config.teacher_source == "student"  # the control must not hear of the teacher
            teacher_classes = classes if self_taught else _teacher_classes(problem, teacher, teacher_logits, rows)
            agreement = (classes == teacher_classes).mean(-1)
        [headline] = problem.task.metrics[:1]
        guesses = losses.predictions(safe, problem.task.regression)
        scored = zip(guesses, np.broadcast_to(labels, guesses.shape), strict=True)
        metric = np.array([metrics.compute([headline], guess, label)[headline] for guess, label in scored])
        if problem.calibrates:
            temperature = fit_temperatures(safe, labels)
        loss = self._loss(problem, safe, labels, teacher_logits, temperature)
        return Evaluation(np.where(finite, loss, np.nan), raw, temperature, metric, entropy, agreement)

    def loss(
        self, problem: Problem, outputs: np.ndarray, table: Table, teacher_logits: np.ndarray, temperature: np.ndarray
    ) -> np.ndarray:
        """Against gold labels of logits ``[..., R, C]``, or with ``gap=divergence`` the KL from the teacher."""
        return self._loss(problem, outputs, table.labels, teacher_logits, temperature)

    def raw_loss(self, problem: Problem, outputs: np.ndarray, table: Table) -> np.ndarray:
        """Against gold labels."""
        return self.error(problem, outputs, table.labels)

    def reference_loss(
        self, problem: Problem, teacher_logits: np.ndarray, table: Table, temperature: float = 1.0
    ) -> float:
        """``e_T``: the teacher's, with its temperature."""
        return float(self.error(problem, teacher_logits / temperature, table.labels))

    def reset_loss(
        self, problem: Problem, loss: np.ndarray, table: Table, teacher_logits: np.ndarray | None = None
    ) -> np.ndarray:
        """``e_reset``, from which the gap counts: the fresh students' ``loss [N]``, in regression the best constant's.

        A constant has learned nothing from any row; what begins elsewhere would gain by getting there. It is the mean
        over the train rows of what students are compared with.

        Args:
            problem: the problem.
            loss: of the fresh students on the table.
            table: R rows.
            teacher_logits: ``[R, C]``, read with ``gap=divergence``; None compares with gold labels whatever the gap.
        """
        if not problem.task.regression:
            return loss
        if teacher_logits is None or problem.config.gap != "divergence":
            teacher_logits, mean = None, problem.train.labels.mean(dtype=np.float64)
        else:
            mean = problem.reference.train_logits.mean(dtype=np.float64)
        target = table.labels if teacher_logits is None else teacher_logits[..., 0]
        return np.full(len(loss), self.error(problem, np.full((len(table), 1), mean), target))

    def _loss(
        self,
        problem: Problem,
        outputs: np.ndarray,
        labels: np.ndarray,
        teacher_logits: np.ndarray,
        temperature: np.ndarray,
    ) -> np.ndarray:
        """``e`` of logits ``[..., R, C]``, with labels and the teacher's logits of the same rows."""
        if problem.config.gap == "divergence":
            return losses.divergence_loss(outputs, teacher_logits, problem.label_width)
        scaled = outputs / temperature[..., None, None] if problem.calibrates else outputs
        return self.error(problem, scaled, labels)

    def scores(self, problem: Problem, outputs: np.ndarray, table: Table) -> dict[str, float]:
        """The task's metrics of logits ``[R, C]``."""
        guesses = losses.predictions(outputs, problem.task.regression)
        return metrics.compute(problem.task.metrics, guesses, table.labels)

    def predictions(self, problem: Problem, outputs: np.ndarray) -> np.ndarray:
        """Classes or scores ``[..., R]``."""
        return losses.predictions(outputs, problem.task.regression)


def label_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """``p_T(y | X')`` ``[..., B]`` in [0, 1]: what is left of the teacher's confidence in the gold label.

    Args:
        logits: ``[..., B, C]`` of the teacher on the edited text.
        labels: ``[..., B]`` int64 gold labels of the text before the edit.
    """
    return torch.softmax(logits, -1).gather(-1, labels[..., None])[..., 0]


def label_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the L1 distance of the label distributions (total variation), ``[..., B]`` in [0, 1].

    The student's divergence from the teacher as a reward; unlike the KL it is bounded, so that no single text outweighs
    all others.

    Args:
        student: ``[..., B, C]`` logits on the edited text, before the update that it causes.
        teacher: ``[..., B, C]`` logits on the same text.
    """
    return 0.5 * (torch.softmax(student, -1) - torch.softmax(teacher, -1)).abs().sum(-1)


def _places(batch: StudentBatch) -> Tensor:
    assert batch.edit is not None
    return batch.edit.places


def _outputs(problem: Problem, batch: Batch) -> ModelOutput:
    """What the one teacher says about edited rows ``[N, B, S]``, of which nothing can be kept."""
    count, rows = batch.input_ids.shape[:2]
    flat: Batch = trees.map_leaves(lambda t: t.flatten(0, 1), batch)
    with autocast(problem.device, problem.precision):
        output = problem.reference.encoder.forward({}, flat, problem.teacher_signals)
    split: ModelOutput = trees.map_leaves(lambda t: t.unflatten(0, (count, rows)), cast(output, problem.dtype))
    return split


def _teacher_classes(
    problem: Problem, teacher: TeacherState | None, frozen_logits: np.ndarray, rows: np.ndarray | None
) -> np.ndarray:
    """What the teachers choose on the feedback rows, ``[R]`` or ``[N, R]``; -1 where nobody asks."""
    if teacher is None:
        return np.asarray(frozen_logits.argmax(-1))
    if "agreement" not in problem.features:
        return np.full(frozen_logits.shape[:-1], -1)
    return np.asarray(_predict(problem, teacher.params, rows, problem.reference.encoder).argmax(-1))


def _predict(
    problem: Problem, params: dict[str, Tensor], rows: np.ndarray | None, encoder: Encoder | None = None
) -> np.ndarray:
    """Logits on the feedback rows, or on each model's own ``rows [N, R]`` of them."""
    if rows is None:
        return passes.predict(problem, params, problem.feedback, encoder=encoder)
    return predict_own_rows(problem, params, problem.feedback, rows, encoder)
