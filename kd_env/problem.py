"""Everything about a distillation that no episode changes: data, teacher, student template, terms, decision process."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_env import actions, losses, models, observations, rewards, splits, teachers
from kd_env.config import EnvConfig
from kd_env.evaluation import metrics
from kd_env.glue import Rows, Task
from kd_env.knowledge import Term
from kd_env.layermap import layer_table
from kd_env.tables import Table, make_buckets, tokenize
from kd_env.types import Signal

PROCESS_OPTIONS = frozenset(
    {
        "features",
        "reward",
        "gap",
        "action_view",
        "gate",
        "updates_per_step",
        "budget",
        "batch_size",
        "evaluate_every",
        "optimizer",
        "learning_rate",
        "term_scale",
        "weight_normalization",
        "max_episode_steps",
        "render_mode",
    }
)
"""Options that do not touch data, teacher outputs or student, and that :meth:`Problem.with_options` may change."""


class Assets(NamedTuple):
    """The costly parts, shared by every environment of one problem."""

    task: Task
    tokenizer: Any
    splits: splits.Splits
    train: Table
    feedback: Table  # the fixed rows that are evaluated for reward and observation
    selection: Table
    teacher_name: str
    teacher_encoder: models.Encoder
    teacher_identity: str
    student: models.Encoder
    terms: tuple[Term, ...]
    pairs: tuple[tuple[int, int], ...]
    projections: dict[str, tuple[int, int]]  # parameter name -> (out, in)
    teacher: teachers.TeacherSource
    teacher_train_logits: np.ndarray  # [R, C]
    teacher_feedback_logits: np.ndarray
    teacher_selection_logits: np.ndarray
    temperature: float
    saw_feedback: str
    device: torch.device
    dtype: torch.dtype


class Problem:
    """One distillation problem; immutable, and shared by any number of environments.

    Attributes:
        config: the validated options.
        present: ``[T, K]`` bool, which entries of the loss table exist.
        teacher_loss: ``e_T`` on the evaluated feedback rows (temperature-calibrated; 0 with ``gap=divergence``).
        features: observation features by name; ``layout`` says where each stands.
        actions: the action model.
    """

    def __init__(self, assets: Assets, config: EnvConfig) -> None:
        self.assets = assets
        self.config = config
        self.task = assets.task
        self.splits = assets.splits
        self.train, self.feedback, self.selection = assets.train, assets.feedback, assets.selection
        self.student, self.teacher, self.terms = assets.student, assets.teacher, assets.terms
        self.teacher_train_logits = assets.teacher_train_logits
        self.temperature, self.saw_feedback = assets.temperature, assets.saw_feedback
        self.device, self.dtype = assets.device, assets.dtype
        self.term_names = tuple(term.name for term in assets.terms)
        self.fingerprint = assets.splits.fingerprint
        self.label_width = label_width(assets.task)
        wanted = {signal for term in assets.terms for signal in term.student_signals}
        if config.teacher_source == "student":
            wanted |= {signal for term in assets.terms for signal in term.teacher_signals}
        self.student_signals = frozenset(signal for signal in wanted if signal.kind != "logits")
        self.present = np.ones((1, len(assets.terms)), dtype=bool)
        self.buckets = make_buckets(assets.train.lengths, config.batch_size)
        self.teacher_loss = self._teacher_loss()
        self.reward = rewards.REWARDS[config.reward]
        self.actions = actions.KnowledgeSelectionActions(self.term_names, config.action_view, config.gate)
        self.features = observations.resolve(config.features, assets.task.regression, len(assets.terms))
        if any(feature.next_batch for feature in self.features.values()):
            self._require_cls()
        self.wants_cosines = "gradient_cosines" in self.features
        self.layout = observations.make_layout(self.features, self)
        self.observation_space = observations.make_space(self.layout)

    def with_options(self, **options: Any) -> Problem:
        """The same data, teacher and student with another decision process.

        Raises:
            ValueError: an option that needs a new problem (``PROCESS_OPTIONS`` lists those that do not), or a bad
            value.
        """
        for name in options:
            if name not in PROCESS_OPTIONS:
                raise ValueError(
                    f"The option {name!r} needs another problem: build one with build_problem. Changeable here: "
                    f"{', '.join(sorted(PROCESS_OPTIONS))}."
                )
        if isinstance(options.get("optimizer"), Mapping):  # the options that are not named stay as they are
            options["optimizer"] = {**dataclasses.asdict(self.config.optimizer_config), **options["optimizer"]}
        return Problem(self.assets, EnvConfig.from_kwargs(**{**_shallow(self.config), **options}))

    def tokenize(self, rows: Rows) -> Table:
        """Rows of this task as a table on this problem's device."""
        return tokenize(rows, self.assets.tokenizer, self.config.max_length, self.device, self.dtype)

    def teacher_logits(self, table: Table) -> np.ndarray:
        """Uncalibrated logits of the reference teacher on any rows of the task, ``[R, C]``."""
        outputs = teachers.teacher_outputs(
            self.assets.teacher_encoder,
            table,
            (),
            precision=self.config.precision,
            cache_dir=self.config.cache_dir,
            identity=self.assets.teacher_identity,
            dtype="float64" if self.dtype == torch.float64 else "float32",
        )
        return np.asarray(outputs[teachers.LOGITS])

    def loss(self, logits: np.ndarray, table: Table, teacher_logits: np.ndarray) -> np.ndarray:
        """``e`` of logits ``[..., R, C]``: against gold labels, or KL from the teacher (``gap=divergence``)."""
        if self.config.gap == "divergence":
            return losses.divergence_loss(logits, teacher_logits, self.label_width)
        return losses.gold_loss(logits, table.labels, self.label_width)

    def reference_loss(self, teacher_logits: np.ndarray, table: Table) -> float:
        """``e_T`` on a table: the calibrated teacher's loss, or 0 with ``gap=divergence``."""
        if self.config.gap == "divergence":
            return 0.0
        return float(losses.gold_loss(teacher_logits / self.temperature, table.labels, self.label_width))

    def metric(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Headline metric of logits ``[R, C]``; NaN predictions count as 0."""
        headline = self.task.metrics[0]
        guesses = losses.predictions(np.nan_to_num(logits), self.task.regression)
        return metrics.compute([headline], guesses, labels)[headline]

    def layer_table(self) -> str:
        """The layer map as a printable table."""
        return layer_table(self.assets.pairs)

    def summary(self) -> dict[str, Any]:
        """Facts for results: rows of the splits, provenance of the teacher, reference losses."""
        return {
            "task": self.task.name,
            "rows": {"train": len(self.train), "feedback": len(self.feedback), "selection": len(self.selection)},
            "dropped_rows": int(self.splits.dropped),
            "split_fingerprint": self.fingerprint,
            "teacher": self.assets.teacher_name,
            "saw_feedback": self.saw_feedback,
            "temperature": self.temperature,
            "teacher_loss": self.teacher_loss,
        }

    def _teacher_loss(self) -> float:
        return self.reference_loss(self.assets.teacher_feedback_logits, self.feedback)

    def _require_cls(self) -> None:
        layer = self.teacher.facts.num_layers
        if not self.teacher.provides(Signal("cls", layer)):
            raise ValueError(
                "The features teacher_cls and student_cls need the teacher's last [CLS], which this problem was not "
                "built with; name the feature when the problem is built."
            )


def label_width(task: Task) -> float | None:
    """Width of the label range of a regression task; None for classification."""
    if not task.regression:
        return None
    assert task.label_range is not None
    return float(task.label_range[1] - task.label_range[0])


def warn_floor(problem: Problem, loss_reset: float) -> None:
    """The warning at construction where the floor of D is active."""
    warnings.warn(
        f"The teacher's loss {problem.teacher_loss:.4f} is less than 5% below a fresh student's {loss_reset:.4f}: "
        "the floor of the gap is active, and reports show the loss instead of the gap closed.",
        UserWarning,
        stacklevel=3,
    )


def _shallow(config: EnvConfig) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values.pop("learning_rate")
    return values
