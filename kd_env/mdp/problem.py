"""Everything about a distillation that no episode changes: data, teacher, student template, terms, decision process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from kd_env.config.environment import EnvConfig
from kd_env.core.types import ModelOutput, Signal
from kd_env.data.tables import Table, tokenize
from kd_env.data.tasks import Rows
from kd_env.mdp import parts, rewards
from kd_env.mdp.assets import Assets, Reader, label_width, present_entries
from kd_env.mdp.objectives.batches import Edit, StudentBatch, StudentUpdate, TeacherPass
from kd_env.mdp.observations.space import make_layout
from kd_env.mdp.state import DistillState, Evaluation, TeacherState
from kd_env.numerics.calibration import check_calibration_rows, fit_temperature
from kd_env.numerics.ranks import ALONE, Ranks, join
from kd_env.teachers import outputs, sources
from kd_env.teachers.facts import TeacherFacts, teacher_facts
from kd_env.teachers.teacher_set import entry_name


class Decision(Protocol):
    """What is decided, as far as the decision process reads it (:class:`kd_env.decisions.base.Decision`)."""

    @property
    def weights_per_row(self) -> int:
        """Weights that an action gives to each row of the next batch; 0 where it addresses none."""

    def nothing_given(self, count: int, rows: int) -> dict[str, np.ndarray]:
        """Zeros for what effects give to knowledge terms, by name: ``[count]``, or of rows ``[count, rows]``."""

    def row_weights(self, weights: np.ndarray) -> np.ndarray:
        """The weights of rows, ``[N, n, 1 or B]``, among those of the table ``[N, T, K, 1 or B]``."""

    def teacher_weights(self, weights: np.ndarray) -> np.ndarray | None:
        """The weights of teachers, ``[N, T, 1 or B]``, in the table; None where all teachers count equally."""

    def prepare(self, problem: Problem, state: DistillState) -> DistillState:
        """The state with what the decision keeps of the batches that were drawn for the next step."""

    def proceed(self, problem: Problem, state: DistillState) -> DistillState:
        """The state of replicas whose batch stays, since their students were not ready to be updated."""

    def edit(self, problem: Problem, state: DistillState) -> Edit | None:
        """What is written into the batch of the present update; None where rows stay as they are."""

    @property
    def hears_updates(self) -> bool:
        """Whether anything is kept of an update."""

    def updated(self, problem: Problem, state: DistillState, update: StudentUpdate) -> DistillState:
        """The state with what the decision keeps of an update."""

    def scores(self, before: DistillState, after: DistillState) -> Mapping[str, np.ndarray]:
        """Numbers ``[N]`` of a step that rewards may read, by name."""


class Objective(Protocol):
    """What students learn and by what they are judged (:mod:`kd_env.mdp.objectives`)."""

    def batch(self, problem: Problem, state: DistillState, rows: np.ndarray) -> StudentBatch:
        """What N students learn from in an update on train rows ``[N, B]``."""

    def teach(
        self, problem: Problem, teacher: TeacherState | None, batch: StudentBatch, student: ModelOutput
    ) -> TeacherPass:
        """What the T teachers say about it."""

    def recognises(self, problem: Problem, batch: StudentBatch, teachers: TeacherPass) -> Tensor:
        """How easy the edited batch is for the teacher, ``[N, B, P]``."""

    def student_error(
        self, problem: Problem, batch: StudentBatch, student: ModelOutput, teachers: TeacherPass | None
    ) -> Tensor:
        """How difficult it is for the students, ``[N, B, P]``; None: the teachers are asked where they are needed."""

    def evaluate(
        self, problem: Problem, params: dict[str, Tensor], teacher: TeacherState | None, rows: np.ndarray | None = None
    ) -> Evaluation:
        """What students score on the evaluated feedback rows, or each on ``rows [N, R]`` of them."""

    def loss(
        self, problem: Problem, outputs: np.ndarray, table: Table, teacher_logits: np.ndarray, temperature: np.ndarray
    ) -> np.ndarray:
        """``e`` of what students ``[...]`` say about a table."""

    def raw_loss(self, problem: Problem, outputs: np.ndarray, table: Table) -> np.ndarray | None:
        """Their loss without a temperature, whatever ``gap`` is; None where there is no other."""

    def reference_loss(
        self, problem: Problem, teacher_logits: np.ndarray, table: Table, temperature: float = 1.0
    ) -> float:
        """``e_T``: what the reference teacher, which says ``teacher_logits [R, C]``, has on a table."""

    def reset_loss(
        self, problem: Problem, loss: np.ndarray, table: Table, teacher_logits: np.ndarray | None = None
    ) -> np.ndarray:
        """``e_reset``, from which the gap counts, where fresh students have ``loss [N]`` on a table."""

    def scores(self, problem: Problem, outputs: np.ndarray, table: Table) -> dict[str, float]:
        """The metrics of one student."""

    def predictions(self, problem: Problem, outputs: np.ndarray) -> np.ndarray | None:
        """Classes or scores ``[..., R]`` that students choose; None where rows have none."""


class Process(NamedTuple):
    """The parts of the decision process that have names, resolved."""

    reward: rewards.RewardFn
    decision: Decision
    objective: Objective
    features: Mapping[str, Any]


class Problem:
    """One distillation problem; immutable, and shared by any number of environments.

    Attributes:
        config: the validated options.
        present: ``[T, K]`` bool, which entries of the loss table exist.
        teacher_loss: ``e_T`` on the evaluated feedback rows (after the reference teacher's own temperature; 0 with
            ``gap=divergence``).
        calibrates: whether ``e`` of students is read after a temperature, too: ``gap=calibrated`` and no regression.
        temperature: of the reference teacher in reports, fitted on :attr:`calibration`.
        teachers: the T teachers; ``reference`` is the only one or the best one on the selection split.
        entry_names: names of the existing entries of the table, teacher by teacher.
        features: observation features by name; ``layout`` says where each stands.
        decision: what the agent decides.
        objective: what students learn.
        ranks: the processes that share the rows of its batches and evaluations; one alone without ``data_parallel``.
    """

    def __init__(self, assets: Assets, config: EnvConfig, process: Process) -> None:
        self.assets = assets
        self.config = config
        self.task = assets.task
        self.splits = assets.splits
        self.train, self.feedback, self.selection = assets.train, assets.feedback, assets.selection
        self.student, self.teachers = assets.student, assets.teachers
        self.reference = assets.reference_teacher
        self.ranks: Ranks = join() if config.data_parallel else ALONE
        self.device, self.dtype, self.precision = assets.device, assets.dtype, config.precision
        names = tuple(term.name for term in self.reference.terms)
        self.term_names, self.teacher_names = names, tuple(teacher.name for teacher in assets.teachers)
        self.fingerprint = assets.splits.fingerprint
        self.label_width = label_width(assets.task)
        terms = [term for teacher in assets.teachers for term in teacher.terms]
        parts.check_parts(config, self.ranks, terms, tuple(process.features))
        signals = {signal for term in terms for signal in term.student_signals}
        if config.teacher_source == "student":
            signals |= {signal for term in terms for signal in term.teacher_signals}
        self.student_signals = frozenset(signal for signal in signals if signal.kind != "logits")
        self.teacher_signals = frozenset(s for term in terms for s in term.teacher_signals if s.kind != "logits")
        reads_teacher, count = [term.uses_teacher for term in self.reference.terms], len(assets.teachers)
        self.present = present_entries(count, reads_teacher)
        self.entry_names = tuple(
            entry_name(term.name, teacher.name, count if term.uses_teacher else 1)
            for row, teacher in enumerate(assets.teachers)
            for column, term in enumerate(teacher.terms)
            if self.present[row, column]
        )
        self.buckets = assets.train.order(config.batch_size)
        self.calibrates = config.gap == "calibrated" and config.objective != "text" and not assets.task.regression
        if self.calibrates:
            check_calibration_rows(self.feedback.labels)
        self.temperature = self._temperature()
        self.reward, self.decision, self.features = process.reward, process.decision, process.features
        self.objective = process.objective
        self.teacher_loss = self._teacher_loss()
        if any(feature.needs_cls for feature in self.features.values()):
            self.teacher_signals |= {Signal("cls", self.reference.source.facts.num_layers)}
            self.student_signals |= {Signal("cls", self.student.facts.num_layers)}  # of the pass that features share
        self.wants_cosines = "gradient_cosines" in self.features
        self.layout = make_layout({name: (f.shape(self), f.low, f.high) for name, f in self.features.items()})

    @property
    def reader(self) -> Reader:
        """Who reads masked text; only where tokens are masked."""
        assert self.assets.reader is not None
        return self.assets.reader

    @property
    def arithmetic(self) -> float:
        """Size of an update: tokens of a mean batch times layers times squared hidden size, of what is trained."""
        facts = self.student.facts
        tokens = self.config.batch_size * float(self.train.lengths.mean())
        teacher = self.reference.source.facts
        learns = teacher.num_layers * teacher.hidden_size**2 if self.config.teacher_learns else 0
        return tokens * (facts.num_layers * facts.hidden_size**2 + learns)

    @cached_property
    def teacher_facts(self) -> TeacherFacts:
        """Loss, entropy, confidence and agreement of every teacher on every train row, each ``[T, R]``."""
        logits = np.stack([teacher.train_logits for teacher in self.teachers])
        return teacher_facts(logits, self.train.labels, self.label_width)

    def tokenize(self, rows: Rows, *, for_teacher: bool = False) -> Table:
        """Rows of this task as a table on this problem's device, in the student's or the reference teacher's tokens."""
        tokenizer = self.reference.tokenizer if for_teacher else self.assets.tokenizer
        return tokenize(rows, tokenizer, self.config.max_length, self.device, self.dtype)

    def teacher_logits(self, table: Table) -> np.ndarray:
        """Uncalibrated logits of the reference teacher on rows in its tokens, ``[R, C]``; zeros if it learns."""
        if self.config.teacher_learns:
            return np.zeros((len(table), self.task.num_labels), np.float32)
        signals = outputs.teacher_outputs(
            self.reference.encoder,
            table,
            (),
            precision=self.config.precision,
            cache_dir=self.config.cache_dir,
            identity=self.reference.identity,
            dtype="float64" if self.dtype == torch.float64 else "float32",
        )
        return np.asarray(signals[sources.LOGITS])

    def loss(self, logits: np.ndarray, table: Table, teacher_logits: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """``e`` of logits ``[..., R, C]``: against gold labels, or KL from the teacher (``gap=divergence``).

        With ``objective=text`` L_pp of scores ``[..., R, S]`` of tokens.

        Args:
            logits: of students.
            table: R rows.
            teacher_logits: ``[R, C]``, of the reference teacher there.
            temperature: ``[...]`` of the students; read with ``gap=calibrated`` alone.
        """
        return self.objective.loss(self, logits, table, teacher_logits, temperature)

    def reference_loss(self, teacher_logits: np.ndarray, table: Table) -> float:
        """``e_T`` on a table: the calibrated teacher's loss; 0 with ``gap=divergence`` or if the teacher learns.

        With ``objective=text`` the least that any student can have.
        """
        if self.config.objective == "text":
            return self.objective.reference_loss(self, teacher_logits, table)
        return 0.0 if self.config.gap == "divergence" else self.reference_label_loss(teacher_logits, table)

    def reference_label_loss(self, teacher_logits: np.ndarray, table: Table) -> float:
        """The calibrated reference teacher's loss against the labels of a table; 0 if the teacher learns."""
        if self.config.teacher_learns:
            return 0.0
        if self.config.objective == "text":
            return self.reference_loss(teacher_logits, table)
        return self.objective.reference_loss(self, teacher_logits, table, self.temperature)

    def summary(self) -> dict[str, Any]:
        """Facts for results: rows of the splits, provenance of the teacher, reference losses."""
        reader = self.assets.reader
        masked = {} if reader is None else {"slots": reader.slots, "left_out": reader.left_out}
        return {
            "task": f"{'text ' if self.config.objective == 'text' else ''}{self.task.name}",
            **masked,
            "rows": {"train": len(self.train), "feedback": len(self.feedback), "selection": len(self.selection)},
            "dropped_rows": int(self.splits.dropped),
            "split_fingerprint": self.fingerprint,
            "teacher": self.reference.folder,
            "teacher_verdicts": {t.name: t.verdict.facts() for t in self.teachers if t.verdict is not None},
            "label_orders": {t.name: list(t.order) for t in self.teachers if t.order},
            "saw_feedback": "no" if all(t.saw_feedback == "no" for t in self.teachers) else "unknown",
            "temperature": self.temperature,
            "teacher_loss": self.teacher_loss,
            **({} if self.precision == "fp32" else {"precision": self.precision}),
            **({"teacher_updates": self.config.teacher_updates} if self.config.teacher_learns else {}),
            **({"teachers": {t.name: t.folder for t in self.teachers}} if len(self.teachers) > 1 else {}),
        }

    @property
    def calibration(self) -> Table:
        """Rows on which reports fit temperatures: those of feedback that rewards are made of.

        The selection split instead where their labels are shuffled, or where students train on them: neither tells
        how sure a student may be.
        """
        use_feedback = self.config.feedback_labels == "gold" and self.config.train_on == "train"
        return self.feedback if use_feedback else self.selection

    def _temperature(self) -> float:
        """The reference teacher's temperature in reports."""
        if not self.calibrates or self.config.teacher_learns:
            return self.reference.temperature
        if self.calibration is self.selection:
            return self.reference.temperature
        return fit_temperature(self.reference.feedback_logits, self.feedback.labels)

    def _teacher_loss(self) -> float:
        if not self.calibrates or self.config.teacher_learns:  # texts are never calibrated
            return self.reference_loss(self.reference.feedback_logits, self.feedback)
        # Alike for teacher and student: on the evaluated rows, with their labels as rewards see them.
        temperature = fit_temperature(self.reference.feedback_logits, self.feedback.labels)
        return self.objective.reference_loss(self, self.reference.feedback_logits, self.feedback, temperature)
