"""Everything about a tutored distillation that no episode changes: text, teacher, student template, losses, spaces."""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.data import masking
from kd_env.data.tables import Buckets, Table, make_buckets
from kd_env.data.text import TokenFacts
from kd_env.decisions.tutor_token.actions import TokenActions, make_token_actions
from kd_env.decisions.tutor_token.options import TutorConfig, losses_of
from kd_env.decisions.tutor_token.state import Written
from kd_env.models import encoder
from kd_env.models.layermap import layer_pairs
from kd_env.models.masked_lm import MaskedLM
from kd_env.teachers.verdicts import Verdict


class Slots(NamedTuple):
    """The masked positions of one batch, on the host."""

    positions: np.ndarray  # [B, P] int64
    valid: np.ndarray  # [B, P] bool
    masked: np.ndarray  # [B, P] int64, what is written there
    dropped: int


class TutorAssets(NamedTuple):
    """The costly parts, shared by every environment of one problem."""

    tokenizer: Any
    tokens: TokenFacts
    train: Table
    ordinary: np.ndarray  # [R, S] bool, positions of train rows that may be masked
    left_out: int  # train texts with fewer ordinary tokens than slots
    slots: int
    feedback: Table  # evaluated rows; without a task with replacements written into them
    feedback_labels: Tensor  # [R, S] their plausibility; empty with a task
    loss_floor: float  # the least loss on them, or with a task the calibrated teacher's
    temperature: float  # of that teacher; 1 without a task
    calibration: Table | None  # with a task the rows that temperatures of teacher and students are fitted on
    teacher: MaskedLM  # reads the masked text
    classifier: encoder.Encoder | None  # with a task: the teacher of its labels
    student: encoder.Encoder
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    saw_feedback: str  # whether the teacher was trained on feedback texts: no or unknown
    verdict: Verdict | None  # with a task: what the selection rows say about its teacher


class Taught(NamedTuple):
    """What the teacher says about N edited batches."""

    output: ModelOutput  # [N, B, ...] what was asked for; logits [N, B, C] with labels of a task, else empty
    labels: Tensor  # [N, B, S] plausibility of every token, or [N, B] gold labels
    recognises: Tensor  # [N, B, P] the reward teacher_recognises


class Lesson(ABC):
    """One kind of lesson.

    Attributes:
        facts: sizes of the teacher whose layers the student's are compared with.
    """

    facts: EncoderFacts

    @abstractmethod
    def teach(self, problem: TutorProblem, text: Batch, written: Written, signals: frozenset[Signal]) -> Taught:
        """The second pass of the teacher, over the edited text ``[N, B, S]``. No gradients."""

    @abstractmethod
    def error(self, student: ModelOutput, taught: Taught, written: Written) -> Tensor:
        """The reward ``student_error`` of students as they are, ``[N, B, P]``."""

    @abstractmethod
    def evaluate(self, problem: TutorProblem, params: dict[str, Tensor]) -> np.ndarray:
        """Loss of N students on the evaluated rows, ``[N]`` float64."""


class TutorProblem:
    """One problem; immutable, and shared by any number of environments.

    Attributes:
        config: the validated options.
        teacher: the masked language model that reads the masked text.
        lesson: what students learn on the edited text, from that model or from the teacher of a task.
        loss_names: the L losses of the student; ``loss_weights`` alike.
        pairs: mapped (student layer, teacher layer); ``block_pairs`` without the embeddings.
        projection: ``(out, in)`` of the map from student to teacher width, None where there is none.
        loss_floor: ``e_T`` of the gap: the least feedback loss, or with a task that of its teacher.
        actions: the action view.
        observation_space: a flat ``Dict`` of 1-D boxes (:mod:`kd_env.decisions.tutor_token.features`).
    """

    observation_space: spaces.Space[Any]

    def __init__(self, assets: TutorAssets, config: TutorConfig, lesson: Lesson) -> None:
        self.assets, self.config = assets, config
        self.train, self.feedback, self.feedback_labels = assets.train, assets.feedback, assets.feedback_labels
        self.teacher, self.student = assets.teacher, assets.student
        self.device, self.dtype, self.precision = assets.device, assets.dtype, config.precision
        self.slots, self.loss_floor = assets.slots, assets.loss_floor
        self.num_candidates = config.num_candidates
        self.vocab_size = assets.teacher.facts.vocab_size
        if config.num_candidates > self.vocab_size:
            raise ValueError(
                f"num_candidates={config.num_candidates} is more than the {self.vocab_size} tokens of the vocabulary."
            )
        self.lesson = lesson
        student, teacher = assets.student.facts, self.lesson.facts
        self.loss_names = tuple(name for name in losses_of(config.task) if config.losses.get(name, 0.0) > 0)
        self.loss_weights = tuple(float(config.losses[name]) for name in self.loss_names)
        self.pairs = layer_pairs(config.layer_map, student.num_layers, teacher.num_layers)
        self.block_pairs = tuple(pair for pair in self.pairs if min(pair) > 0)
        if "attention" in self.loss_names:
            if student.num_heads != teacher.num_heads:
                raise ValueError(
                    f"The loss attention compares head with head, but the student has {student.num_heads} heads and "
                    f"the teacher {teacher.num_heads}; give the student {teacher.num_heads} heads, or leave attention "
                    "out of losses."
                )
            if not self.block_pairs:
                raise ValueError(f"layer_map={config.layer_map!r} maps no blocks, which the loss attention needs.")
        mapped = config.projection == "always" or student.hidden_size != teacher.hidden_size
        mapped = mapped and "hidden_states" in self.loss_names
        self.projection = (teacher.hidden_size, student.hidden_size) if mapped else None
        self.student_signals, self.teacher_signals = (self._signals(place) for place in (0, 1))
        self.buckets: Buckets = make_buckets(assets.train.lengths, config.batch_size)
        self.host_ids: np.ndarray = assets.train.input_ids.cpu().numpy()
        self.actions: TokenActions = make_token_actions(
            config.action_view,
            batch_size=config.batch_size,
            slots=self.slots if config.mode == "joint" else 1,
            vocab_size=self.vocab_size,
            num_candidates=config.num_candidates,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the text, the weights of teacher and language model, and the start of the student."""
        digest = hashlib.sha256(json.dumps([self.assets.fingerprint, self.train.content_hash()]).encode())
        classifier = self.assets.classifier
        parts = (self.teacher.module, self.student.module, *(() if classifier is None else (classifier.module,)))
        for module in parts:
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def draw_slots(self, rows: np.ndarray, rng: np.random.Generator) -> Slots:
        """Masked positions of train rows ``[B]``."""
        return draw_slots(
            self.config, self.assets.tokens, self.host_ids[rows], self.assets.ordinary[rows], self.slots, rng
        )

    def _signals(self, place: int) -> frozenset[Signal]:
        """What the student (0) or the teacher (1) has to give beside its last output."""
        found = {Signal("hidden_states", pair[place]) for pair in self.pairs if "hidden_states" in self.loss_names}
        blocks = {
            Signal("attention_scores", pair[place]) for pair in self.block_pairs if "attention" in self.loss_names
        }
        return frozenset(found | blocks)


def draw_slots(
    config: TutorConfig,
    tokens: TokenFacts,
    input_ids: np.ndarray,
    ordinary: np.ndarray,
    slots: int,
    rng: np.random.Generator,
) -> Slots:
    """Masked positions of rows ``[B, S]``, and what stands there: the mask (80%), a random token or the original."""
    if config.masking == "fixed":
        positions = masking.draw_slots(ordinary, slots, rng)
        valid, dropped = np.ones(positions.shape, bool), 0
    else:
        positions, valid, dropped = masking.bernoulli_slots(ordinary, config.mask_rate, slots, rng)
    ids = masking.corrupt(input_ids, positions, valid, tokens.mask_id, tokens.candidates, rng)
    masked = np.take_along_axis(ids, positions, axis=-1).astype(np.int64)
    return Slots(positions, valid, masked, dropped)


def warn_floor(problem: TutorProblem, loss_reset: float) -> None:
    """Say that the gap is counted from a floor."""
    warnings.warn(
        f"The student's loss at reset ({loss_reset:.4f}) is hardly above the least that counts "
        f"({problem.loss_floor:.4f}); the gap is counted as 5% of the loss at reset.",
        stacklevel=2,
    )
