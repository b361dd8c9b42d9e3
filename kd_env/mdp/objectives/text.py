"""Masked text: students learn which tokens are plausible, and are judged by samples in feedback texts.

Source: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor
Network", EMNLP 2022. Tokens are masked, others are written in their place (by the decision, or samples of the reader),
and every teacher says how plausible each is: ``m = min(1, p_T(a | X^M) / p_T(x | X^M))``.
"""

from __future__ import annotations

from math import log

import numpy as np
import torch
from torch import Tensor

from kd_env.core import metrics
from kd_env.core.trees import upload
from kd_env.core.types import Batch, ModelOutput
from kd_env.data.tables import Table
from kd_env.knowledge import plausibility
from kd_env.mdp import passes
from kd_env.mdp.episodes import sub_seed
from kd_env.mdp.objectives import reading
from kd_env.mdp.objectives.batches import Edit, StudentBatch, TeacherPass, at_slots, edited
from kd_env.mdp.objectives.own_rows import read_own_rows
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Evaluation, TeacherState
from kd_env.models.masked_lm import MaskedLM
from kd_env.numerics import losses

MASKS, SAMPLES = 3, 4
"""Random streams of an episode: NumPy generators of (seed of the purpose, update), which no other stream is."""


class TextObjective:
    """What students learn from masked text."""

    def batch(self, problem: Problem, state: DistillState, rows: np.ndarray) -> StudentBatch:
        """Rows ``[N, B]``, with what the decision wrote into them, or else with samples of the reader."""
        batch, edit = problem.train.gather(rows), problem.decision.edit(problem, state)
        if edit is None:
            edit = sampled_edit(problem, state, rows, batch)
        return StudentBatch(rows, reading.with_edit(batch, edit), edit)

    def teach(
        self, problem: Problem, teacher: TeacherState | None, batch: StudentBatch, student: ModelOutput
    ) -> TeacherPass:
        """What the teachers say about the edited text; their ``logits`` are the plausibility of its tokens."""
        edit = _edit(batch)
        outputs, hidden = [], []
        with torch.no_grad():
            for place in range(len(problem.teachers)):
                states, output = reading.run_language_model(
                    problem, _model(problem, place), batch.batch, problem.teacher_signals
                )
                labels = plausibility.token_labels(
                    _plausibility(problem, place, batch), edit.places, edit.valid, batch.batch.input_ids.shape[-1]
                )
                outputs.append(output._replace(logits=labels))
                hidden.append(at_slots(states, edit.places))
        return TeacherPass(tuple(outputs), tuple(hidden))

    def recognises(self, problem: Problem, batch: StudentBatch, teachers: TeacherPass) -> Tensor:
        """``R_T = p_T(x | X') - p_T(a | X')`` ``[N, B, P]`` in [-1, 1]."""
        edit, model = _edit(batch), problem.reader.model
        with torch.no_grad():
            features = model.features(teachers.hidden[0])
            partition = model.decode(features).logsumexp(-1)
            return plausibility.teacher_recognises(
                *(reading.log_probability(model, features, partition, each) for each in (edit.original, edit.chosen))
            )

    def student_error(
        self, problem: Problem, batch: StudentBatch, student: ModelOutput, teachers: TeacherPass | None
    ) -> Tensor:
        """``R_S = |m - sigmoid(u)|`` ``[N, B, P]`` in [0, 1]."""
        edit = _edit(batch)
        scores = student.logits.squeeze(-1).gather(-1, edit.places)
        return plausibility.student_error(scores, plausibility.plausibility(edit.log_original, edit.log_chosen))

    def evaluate(
        self, problem: Problem, params: dict[str, Tensor], teacher: TeacherState | None, rows: np.ndarray | None = None
    ) -> Evaluation:
        """``L_pp`` on rows whose replacements never change, and the share of their tokens that students tell right.

        A token is told right where the student's probability lies on the same side of 1/2 as its plausibility.
        """
        table, count = problem.feedback, next(iter(params.values())).shape[0]
        totals = torch.zeros(3, count, dtype=torch.float64, device=problem.device)
        if rows is None:
            parts, tokens = passes.read_table(problem, params, table), table.lengths.sum()
        else:
            parts, tokens = read_own_rows(problem, params, table, rows), table.lengths[rows].sum(-1)
        for students, _, batch, logits in parts:
            scores, mask = logits.squeeze(-1), batch.attention_mask
            right = ((scores > 0) == (batch.labels > 0.5)) & mask
            tokens_lost = plausibility.token_losses(scores, batch.labels.expand_as(scores), mask)
            totals[0, students] += tokens_lost.sum((1, 2))
            totals[1, students] += right.sum((1, 2))
            entropies = plausibility.entropy(torch.sigmoid(scores)) / log(2.0)
            totals[2, students] += entropies.masked_fill(~mask, 0.0).sum((1, 2))
        problem.ranks.sum_([totals])
        loss, right, entropy = totals.cpu().numpy() / tokens
        return Evaluation(loss, loss, np.ones(count), right, entropy, right)

    def loss(
        self, problem: Problem, outputs: np.ndarray, table: Table, teacher_logits: np.ndarray, temperature: np.ndarray
    ) -> np.ndarray:
        """``L_pp`` of scores ``[..., R, S]``, in float64."""
        return losses.token_cross_entropy(outputs, table.labels, table.lengths)

    def raw_loss(self, problem: Problem, outputs: np.ndarray, table: Table) -> None:
        """There is no other."""
        return None

    def reference_loss(
        self, problem: Problem, teacher_logits: np.ndarray, table: Table, temperature: float = 1.0
    ) -> float:
        """The least that any student can have, in float64."""
        mask = torch.arange(table.labels.shape[1]) < torch.as_tensor(table.lengths)[:, None]
        return float(plausibility.plausibility_floor(torch.as_tensor(table.labels), mask))

    def reset_loss(
        self, problem: Problem, loss: np.ndarray, table: Table, teacher_logits: np.ndarray | None = None
    ) -> np.ndarray:
        """The fresh students'."""
        return loss

    def scores(self, problem: Problem, outputs: np.ndarray, table: Table) -> dict[str, float]:
        """The share of real tokens that scores ``[R, S]`` put on the side of 1/2 on which their plausibility lies."""
        real = np.arange(table.labels.shape[1]) < table.lengths[:, None]
        return metrics.compute(problem.task.metrics, (outputs > 0)[real], (table.labels > 0.5)[real])

    def predictions(self, problem: Problem, outputs: np.ndarray) -> None:
        """Rows have none."""
        return None


def sampled_edit(problem: Problem, state: DistillState, rows: np.ndarray, batch: Batch) -> Edit:
    """Masks of rows ``[N, B]`` filled with samples of the reader, a function of the episode's seed and of the update.

    Like ELECTRA's corruption (Clark et al., ICLR 2020), with a generator that is frozen.
    """
    drawn = [
        reading.train_slots(problem, rows[replica], np.random.default_rng([sub_seed(int(seed), MASKS), int(update)]))
        for replica, (seed, update) in enumerate(zip(state.seeds, state.updates, strict=True))
    ]
    places, valid, masked = (upload(np.stack(parts), problem.device) for parts in list(zip(*drawn, strict=True))[:3])
    view = reading.read(problem, edited(batch, places, valid, masked), places)
    with torch.no_grad():
        probabilities = torch.softmax(problem.reader.model.decode(view.features), -1)
    tokens = torch.empty_like(places)
    for replica, (seed, update) in enumerate(zip(state.seeds, state.updates, strict=True)):
        generator = torch.Generator(problem.device).manual_seed(sub_seed(sub_seed(int(seed), SAMPLES), int(update)))
        flat = probabilities[replica].flatten(0, 1)
        tokens[replica] = torch.multinomial(flat, 1, generator=generator).view(tokens.shape[1:])
    return reading.written(problem, batch, places, valid, masked, view, tokens)


def row_edit(problem: Problem, state: DistillState, rows: np.ndarray) -> np.ndarray:
    """Means over the slots of rows ``[N, B]`` in the next update, ``[N, B, 2]``: plausibility and student's error."""
    batch = problem.objective.batch(problem, state, rows)
    edit = _edit(batch)
    with torch.no_grad():
        student = passes.logits_of(problem, state.params, batch.batch)
        errors = problem.objective.student_error(problem, batch, student, None)
        values = torch.stack([plausibility.plausibility(edit.log_original, edit.log_chosen), errors], -1)
        count = edit.valid.sum(-1).clamp(min=1)[..., None]
        means = (values * edit.valid[..., None]).sum(-2) / count
    return np.asarray(means.double().cpu().numpy())


def _plausibility(problem: Problem, place: int, batch: StudentBatch) -> Tensor:
    """What a teacher thinks of the chosen tokens in the masked text, ``[N, B, P]``."""
    edit, model = _edit(batch), _model(problem, place)
    if model is problem.reader.model:  # it has read that text already
        return plausibility.plausibility(edit.log_original, edit.log_chosen)
    text = edited(batch.batch, edit.places, edit.valid, edit.masked)
    hidden, _ = reading.run_language_model(problem, model, text, frozenset())
    features = model.features(at_slots(hidden, edit.places))
    # The partition is in both logarithms, and only their difference counts.
    return plausibility.plausibility(
        model.token_logits(features, edit.original), model.token_logits(features, edit.chosen)
    )


def _model(problem: Problem, place: int) -> MaskedLM:
    model = problem.teachers[place].language_model
    assert model is not None
    return model


def _edit(batch: StudentBatch) -> Edit:
    assert batch.edit is not None
    return batch.edit
