"""The one documented, frozen set of options of every environment; unknown keys and bad ranges are refused here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_env.registry import unknown_name

Plain = Mapping[str, Any]

DEFAULT_TERMS = ("hard_label", "soft_label", "hidden_states", "relation")
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


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW of the student (decoupled weight decay; biases and layer norms are not decayed)."""

    learning_rate: float = 7e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    """Gradient norm at which gradients are clipped, over all trainable tensors of one student; None does not clip."""
    warmup: float = 0.1
    """Share of the budget over which the learning rate rises linearly; it then falls linearly and is never negative."""


@dataclass(frozen=True)
class StudentConfig:
    """Where the student comes from."""

    init: str = "fresh"
    """``fresh`` (from a config with the teacher's vocabulary), ``teacher`` (cut from its layers) or ``pretrained``."""
    name_or_path: str | None = None
    """Folder or hub name of a pre-trained encoder; only with ``init=pretrained``."""
    layers: str | tuple[int, ...] = "first"
    """With ``init=teacher`` or ``pretrained``: ``first``, ``last``, ``skip`` or explicit layer numbers from 1."""
    num_hidden_layers: int | None = None
    """Number of layers. None: 1 if ``fresh``, all if ``pretrained``; ``teacher`` needs it or explicit layers."""
    hidden_size: int = 32
    """Only ``fresh``."""
    num_attention_heads: int = 2
    """Only ``fresh``."""
    intermediate_size: int | None = None
    """Only ``fresh``; None is 4 x hidden_size."""
    train_embeddings: bool | None = None
    """Whether word embeddings are trained. None: only in a fresh student. Frozen ones are shared between replicas."""
    dropout: float = 0.0
    """Dropout of the student; stacked students refuse any but 0, since there is no generator per replica."""


@dataclass(frozen=True)
class EnvConfig:
    """Options of ``gymnasium.make("kd_env/...")``. Every field is a plain value or mapping."""

    # -- task and data
    task: str = "toy"
    """``toy``, ``toy_pair``, a GLUE task, or ``custom`` with ``columns``."""
    data_dir: str | None = None
    """Folder with ``<task>/<split>.parquet`` (csv, tsv, jsonl too); None reads GLUE from the hub."""
    columns: Plain | None = None
    """For ``task=custom``: ``text`` (one or two column names), ``label``, ``kind`` (classification, regression), and
    optionally ``labels`` (their order), ``label_range`` and ``metrics``."""
    split_seed: int = 0
    """Seed of the cut into train, feedback and selection, of label noise and of the evaluated feedback rows."""
    feedback_rows: int | None = None
    """Rows of the feedback split; None: min(512, 10% of the official train split)."""
    selection_rows: int | None = None
    """Rows of the selection split; None: as ``feedback_rows``."""
    evaluation_rows: int = 128
    """Fixed number of feedback rows that are evaluated for reward and observation."""
    evaluate_every: int = 1
    """Steps between two evaluations; 0 evaluates at reset and at the end of an episode only (sparse reward)."""
    max_train_rows: int | None = None
    """Upper limit of train rows after the cut."""
    max_length: int = 128
    """Tokens a row is cut to."""
    label_noise: float = 0.0
    """Share of train labels replaced by a wrong one, after the cut; feedback, selection and dev stay clean."""
    train_on: str = "train"
    """``train``, or ``train+feedback`` for rules that are shown beside agents when the feedback labels are cleaner."""
    # -- teacher
    teacher: str | None = None
    """Folder or hub name of a fine-tuned encoder; None: the packaged teacher of the embedded task."""
    teacher_source: str = "cached"
    """``cached`` (computed once) or ``online`` (computed for every batch)."""
    cache_dir: str | None = None
    """Folder of the disk cache of teacher outputs; None keeps them in memory."""
    cache_dtype: str = "float32"
    """``float32`` or ``float16``."""
    # -- student and its training
    student: str | Plain | StudentConfig = field(default_factory=StudentConfig)
    """A folder or hub name, or the fields of :class:`StudentConfig`."""
    layer_map: str | Sequence[Sequence[int]] = "uniform"
    """``uniform``, ``last``, ``skip`` or explicit pairs (student layer, teacher layer); 0 is the embedding output."""
    terms: Sequence[str | Plain] = DEFAULT_TERMS
    """Knowledge terms by name, or mappings with ``name`` and the term's options."""
    term_scale: str = "running"
    """``running`` divides each term by the running mean of its loss; ``none`` leaves it as it is."""
    weight_normalization: str = "none"
    """``none``, ``mean`` (weights divided by their mean) or ``sum``."""
    updates_per_step: int = 2
    """Student updates in one step, the phase of KS."""
    budget: int = 80
    """Student updates in an episode."""
    batch_size: int = 16
    optimizer: Plain | OptimizerConfig = field(default_factory=OptimizerConfig)
    learning_rate: float | None = None
    """Short for ``optimizer={"learning_rate": ...}``."""
    precision: str = "fp32"
    """``fp32``, ``bf16`` (autocast of the forward passes) or ``fp64`` (for checks)."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    # -- decision process
    features: Sequence[str] = DEFAULT_FEATURES
    reward: str = "gap_closed"
    gap: str = "labels"
    """``labels`` (loss against gold labels) or ``divergence`` (KL from teacher to student, without labels)."""
    action_view: str = "native"
    """``native``, ``discrete`` or ``box``."""
    gate: bool = True
    """Box view only: one more component that skips or scales the update."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; None: episodes end with the budget only."""
    render_mode: str | None = None
    """None or ``ansi``."""
    show_progress: bool = False
    """Progress bars on long preparation (teacher outputs)."""

    @classmethod
    def from_kwargs(cls, **options: Any) -> EnvConfig:
        """Validated configuration from plain keywords.

        Raises:
            ValueError: an unknown key (with near matches) or a value outside its range (with the range).
        """
        _refuse_unknown("environment option", options, cls)
        values = dict(options)
        student = values.get("student")
        if isinstance(student, str):
            values["student"] = StudentConfig(init="pretrained", name_or_path=student)
        elif isinstance(student, Mapping):
            values["student"] = _build("student option", student, StudentConfig)
        optimizer = values.get("optimizer")
        if isinstance(optimizer, Mapping):
            values["optimizer"] = _build("optimizer option", optimizer, OptimizerConfig)
        if values.get("learning_rate") is not None:
            base = values.get("optimizer", OptimizerConfig())
            values["optimizer"] = dataclasses.replace(base, learning_rate=values["learning_rate"])
        values.pop("learning_rate", None)
        for name in ("terms", "features"):
            if name in values:
                if isinstance(values[name], str):
                    raise ValueError(
                        f"{name} must be a list, got the string {values[name]!r}; write [{values[name]!r}]."
                    )
                values[name] = tuple(values[name])
        if "layer_map" in values and not isinstance(values["layer_map"], str):
            values["layer_map"] = tuple(tuple(int(layer) for layer in pair) for pair in values["layer_map"])
        config = cls(**values)
        config.validate()
        return config

    @property
    def student_config(self) -> StudentConfig:
        """The student's options, always as :class:`StudentConfig`."""
        assert isinstance(self.student, StudentConfig)
        return self.student

    @property
    def optimizer_config(self) -> OptimizerConfig:
        """The optimiser's options, always as :class:`OptimizerConfig`."""
        assert isinstance(self.optimizer, OptimizerConfig)
        return self.optimizer

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_kwargs` takes back."""
        return dataclasses.asdict(self)

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value outside its range."""
        _one_of("teacher_source", self.teacher_source, ("cached", "online"))
        _one_of("cache_dtype", self.cache_dtype, ("float32", "float16"))
        _one_of("term_scale", self.term_scale, ("running", "none"))
        _one_of("weight_normalization", self.weight_normalization, ("none", "mean", "sum"))
        _one_of("precision", self.precision, ("fp32", "bf16", "fp64"))
        _one_of("gap", self.gap, ("labels", "divergence"))
        _one_of("train_on", self.train_on, ("train", "train+feedback"))
        _one_of("action_view", self.action_view, ("native", "discrete", "box"))
        if self.render_mode is not None:
            _one_of("render_mode", self.render_mode, ("ansi",))
        for name in ("batch_size", "budget", "updates_per_step", "evaluation_rows"):
            _at_least(name, getattr(self, name), 1)
        for name in ("feedback_rows", "selection_rows", "max_train_rows", "max_episode_steps"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("evaluate_every", self.evaluate_every, 0)
        _at_least("max_length", self.max_length, 3)
        _within("label_noise", self.label_noise, 0.0, 1.0)
        if self.updates_per_step > self.budget:
            raise ValueError(
                f"updates_per_step={self.updates_per_step} is longer than budget={self.budget}; a step (phase) must "
                "fit into the budget: raise budget or lower updates_per_step."
            )
        optimizer, student = self.optimizer_config, self.student_config
        if not optimizer.learning_rate > 0:
            raise ValueError(f"learning_rate={optimizer.learning_rate!r} must be above 0.")
        _within("optimizer.warmup", optimizer.warmup, 0.0, 1.0)
        _within("optimizer.weight_decay", optimizer.weight_decay, 0.0, float("inf"))
        if len(tuple(optimizer.betas)) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
            raise ValueError(f"optimizer.betas={optimizer.betas!r} must be two numbers in [0, 1).")
        if optimizer.max_grad_norm is not None and not optimizer.max_grad_norm > 0:
            raise ValueError(f"optimizer.max_grad_norm={optimizer.max_grad_norm!r} must be above 0, or None.")
        _one_of("student.init", student.init, ("fresh", "teacher", "pretrained"))
        if student.init == "pretrained" and not student.name_or_path:
            raise ValueError("student.init='pretrained' needs student.name_or_path (a folder or a hub name).")
        if student.init != "pretrained" and student.name_or_path:
            raise ValueError(f"student.name_or_path is only for init='pretrained', but init={student.init!r}.")
        _within("student.dropout", student.dropout, 0.0, 0.9)
        if not self.terms:
            raise ValueError("terms is empty; name at least one knowledge term, for example ['hard_label'].")
        if not self.features:
            raise ValueError("features is empty; name at least one, for example ['progress'].")


def _build(kind: str, options: Plain, target: type[Any]) -> Any:
    _refuse_unknown(kind, options, target)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return target(**values)


def _refuse_unknown(kind: str, options: Plain, target: type[Any]) -> None:
    valid = [f.name for f in dataclasses.fields(target)]
    for key in options:
        if key not in valid:
            raise ValueError(unknown_name(kind, key, valid))


def _one_of(name: str, value: object, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(unknown_name(f"value of {name}:", value, valid))


def _at_least(name: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {low}.")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie in [{low}, {high}].")
