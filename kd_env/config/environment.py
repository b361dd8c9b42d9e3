"""One table documents all options of every environment; users read it as one, so that it may exceed 300 lines.

Unknown keys and values outside their ranges are refused here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from kd_env.config.influence import InfluenceConfig, check_influence
from kd_env.config.learning_teacher import CHECKS, LearningTeacherConfig
from kd_env.config.optimizer import OptimizerConfig, check_optimizer
from kd_env.config.student import StudentConfig, check_student
from kd_env.core import checks
from kd_env.core.plain import Plain, nested_options, plain_value, refuse_unknown

RENDER_MODES = ("ansi", "rgb_array")
DEFAULT_TERMS = ("hard_label", "soft_label", "hidden_states", "relation")


@dataclass(frozen=True)
class EnvConfig:
    """Options of ``gymnasium.make("kd_env/...")``. Every field is a plain value or mapping."""

    # -- task and data
    task: str = "toy"
    """``toy``, ``toy_pair``, a GLUE task, or ``custom`` with ``columns``."""
    data_dir: str | None = None
    """Folder with ``<task>/<split>.parquet`` (csv, tsv, jsonl, or the hub's ``<split>-00000-of-00001.parquet``); None
    reads GLUE from the hub. Embedded tasks have none."""
    columns: Plain | None = None
    """For ``task=custom``: ``text`` (one or two column names), ``label``, ``kind`` (classification, regression), and
    optionally ``labels`` (names of the classes as the files write them, in order), ``label_range`` and ``metrics``
    (:mod:`kd_env.core.metrics`; the first is the headline)."""
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
    feedback_labels: str = "gold"
    """``gold``, or ``shuffled``: a control in which the evaluated feedback rows have each other's labels, so that
    reward, features and influence see no truth; selection, dev and train keep theirs."""
    max_train_rows: int | None = None
    """Upper limit of train rows after the cut."""
    max_length: int = 128
    """Tokens a row is cut to."""
    label_noise: float = 0.0
    """Share of train labels replaced by a wrong one, after the cut; feedback, selection and dev stay clean."""
    train_on: str = "train"
    """``train``, or ``train+feedback`` for rules that are shown beside agents when the feedback labels are cleaner."""
    # -- objective
    objective: str = "labels"
    """What students learn: ``labels`` of the task, or masked ``text`` (Tutor-KD's pre-training distillation): which
    tokens are plausible, says a masked language model. Students are then judged by L_pp on feedback texts."""
    text: str | Sequence[str] | None = None
    """With ``objective=text``: ``toy``, ``toy_pair``, a GLUE task (its sentences), a folder of ``.txt`` files or the
    name of a ``datasets`` data set; or several of them, whose texts are put together. None: the sentences of
    ``task``."""
    column: str | None = None
    """For a ``datasets`` data set of texts: its column."""
    masking: str = "fixed"
    """Where text is masked. ``fixed``: every row has ``slots`` masked positions, drawn without replacement.
    ``bernoulli``: each ordinary token is masked by itself with ``mask_rate`` (Tutor-KD); slots beyond ``slots`` are
    dropped and counted, and slots that a row does not fill are not valid."""
    mask_rate: float = 0.15
    slots: int | str | None = None
    """P; None: ``max(1, round(mask_rate * mean number of ordinary tokens))``. With ``masking=fixed`` rows with fewer
    ordinary tokens are left out. ``all``, with ``masking=bernoulli``: so many that the longest train row has more
    masked tokens at most once in 10^9 draws."""
    language_model: str | None = None
    """With ``decision=tutor_token`` and labels: folder or hub name of the masked language model that reads the masked
    rows, whose candidates and hidden states the tutor sees; of the teacher's vocabulary. None: the packaged one."""
    student_head: str = "linear"
    """What turns the student's last hidden states into the scalar u of every token, with ``objective=text``:
    ``linear``, or ``mlm`` (dense, GELU, LayerNorm, linear, without dropout: Tutor-KD's released code)."""
    # -- teacher
    teacher: str | None = None
    """Folder or hub name of a fine-tuned encoder, with ``objective=text`` of a masked language model; None: the
    packaged one of the embedded task."""
    teachers: Sequence[str | Plain] | None = None
    """Several teachers: folders or hub names, or mappings ``{"name": ..., "path": ...}``; a folder that holds a
    co-fine-tuned set stands for its members. None: ``teacher``, or where teachers are weighed the packaged set of the
    embedded task."""
    teacher_check: str = "refuse"
    """What is done about a teacher that is no better than a constant on the selection rows, or whose outputs are in
    another order or on another scale than the labels: ``refuse``, ``warn`` or ``none``."""
    teacher_source: str = "cached"
    """``cached`` (computed once), ``online`` (computed for every batch), or ``student``: a control in which every
    signal of the teacher is the student's own at that moment, so that there is nothing to be learned from it."""
    teacher_updates: str = "none"
    """Whether the teacher learns beside the student: ``none`` (it is frozen), ``prokt`` (on every row alike) or
    ``weighted`` (the action weighs the rows of its update, ``sample_weighting`` only). One that learns is part of the
    state, and needs ``teacher_source=online``. There is no fixed gap then: ``D`` is the student's loss at reset."""
    learning_teacher: Plain | LearningTeacherConfig = field(default_factory=LearningTeacherConfig)
    """How a teacher that learns is made and trained."""
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
    """Knowledge terms by name, or mappings with ``name``, the term's options and a ``weight`` of its loss, 1 by
    default."""
    term_scale: str = "running"
    """``running`` divides each term by the running mean of its loss; ``none`` leaves it as it is."""
    weight_normalization: str = "none"
    """``none``, ``mean`` (weights divided by their mean) or ``sum``."""
    updates_per_step: int = 2
    """Student updates in one step, the phase of KS."""
    budget: int = 80
    """Student updates in an episode."""
    epochs: float | None = None
    """Passes over the train rows in an episode, in place of ``budget``, which is then
    ``ceil(epochs * rows / batch_size)``: known where the rows are. None: ``budget`` as it is."""
    batch_size: int = 16
    optimizer: Plain | OptimizerConfig = field(default_factory=OptimizerConfig)
    learning_rate: float | None = None
    """Short for ``optimizer={"learning_rate": ...}``, whose default depends on the student."""
    precision: str = "fp32"
    """``fp32``, ``bf16`` (autocast of the forward passes) or ``fp64`` (for checks)."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    # -- decision process
    decision: str = "knowledge_selection"
    """What the agent decides: ``knowledge_selection`` (how the knowledge terms count), ``teacher_weighting`` (how the
    teachers count) or ``sample_weighting`` (how the rows of a batch count). The registered ids set it."""
    weighting: str = "batch"
    """What one weight holds for: ``batch`` (a whole step) or ``sample`` (one row of it). ``teacher_weighting`` takes
    both, ``sample_weighting`` only ``sample``, its default."""
    weighs: Sequence[str] = ("soft_label",)
    """``teacher_weighting`` only. Names of the terms that the action weighs; the others keep weight 1."""
    score: str = "student_loss"
    """``sample_weighting`` only. What ranks rows in its discrete and box view, by name
    (:mod:`kd_env.decisions.sample_weighting.scores`)."""
    recipe: str = "modified"
    """``tutor_token`` only. ``paper`` gives what is left out the values published for Tutor-KD
    (:mod:`kd_env.decisions.tutor_token.options`)."""
    mode: str = "joint"
    """``tutor_token`` only. ``joint``: one action fills every slot (the paper). ``sequential``: one slot of all rows a
    step; later choices see earlier ones, and the student is updated when the last is filled."""
    teacher_every: int = 1
    """``tutor_token`` with ``mode=sequential``: slots that are filled between two passes of the teacher over the text
    so far. 1 shows every choice to the next one; P costs one pass, as ``joint`` does."""
    num_candidates: int = 10
    """``tutor_token`` only. The teacher's most likely tokens of a slot that are listed."""
    observation: str = "dict"
    """``tutor_token`` only. ``dict``: everything, arrays by name. ``flat``: the numbers among it as one 1-D box, for
    agents that know no other (the teacher's hidden states and probabilities, valid slots and progress; no ids)."""
    features: Sequence[str] = ()
    """Observation features by name; unless others are named, those of the decision that have a meaning for the task."""
    influence: Plain | InfluenceConfig = field(default_factory=InfluenceConfig)
    """How the influence of rows is found, where a feature, a score or a rule asks for it."""
    reward: str = "gap_closed"
    """By name (:mod:`kd_env.mdp.rewards`). Values lie in [-2, 2], those of RL-KD, which are losses in nats, in [-100,
    100]; ``info["reward_clipped"]`` says where one was cut to that."""
    gap: str = "calibrated"
    """What loss e the gap, the rewards and the reports are about: ``calibrated`` (cross-entropy against gold labels
    after one temperature for each student, as for the teacher, fitted on the evaluated feedback rows in [0.05, 20]; in
    regression, which has none, ``labels``), ``labels`` (without the student's temperature: a student then gains by
    the size of its logits alone) or ``divergence`` (KL from teacher to student, without labels)."""
    action_view: str = "native"
    """``native``, ``discrete`` or ``box``; of teachers also ``simplex`` (native) and ``subset``, of rows ``subset``."""
    gate: bool = True
    """Box view of terms and teachers only: one more component that skips or scales the update."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; None: episodes end with the budget only."""
    render_mode: str | None = None
    """None, ``ansi`` (a line about the last step) or ``rgb_array`` (the course of the episode as a picture)."""
    show_progress: bool = False
    """Progress bars on long preparation (teacher outputs)."""

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, OptimizerConfig) and isinstance(self.student, StudentConfig):
            object.__setattr__(self, "optimizer", self.optimizer.of_student(self.student.init))

    @classmethod
    def from_kwargs(cls, **options: Any) -> EnvConfig:
        """Validated configuration from plain keywords, without what the decision has to say of them.

        Environments are made with :func:`kd_env.decisions.options.env_config`, which adds its defaults and checks.

        Raises:
            ValueError: an unknown key (with near matches) or a value outside its range (with the range).
        """
        refuse_unknown("environment option", options, cls)
        values = {name: plain_value(value) for name, value in options.items()}
        student = values.get("student", StudentConfig())
        if isinstance(student, str):
            student = StudentConfig(init="pretrained", name_or_path=student)
        allowed = "a folder, a hub name or a mapping of options"
        values["student"] = nested_options("student", student, StudentConfig, allowed)
        optimizer = values.get("optimizer", OptimizerConfig())
        optimizer = nested_options("optimizer", optimizer, OptimizerConfig, "a mapping of options")
        values["learning_teacher"] = nested_options(
            "learning_teacher",
            values.get("learning_teacher", LearningTeacherConfig()),
            LearningTeacherConfig,
            "a mapping of options",
        )
        influence = values.get("influence", InfluenceConfig())
        values["influence"] = nested_options("influence", influence, InfluenceConfig, "a mapping of options")
        rate = values.pop("learning_rate", None)
        values["optimizer"] = optimizer if rate is None else dataclasses.replace(optimizer, learning_rate=rate)
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

    @property
    def learning_teacher_config(self) -> LearningTeacherConfig:
        """The options of a teacher that learns, always as :class:`LearningTeacherConfig`."""
        assert isinstance(self.learning_teacher, LearningTeacherConfig)
        return self.learning_teacher

    @property
    def teacher_learns(self) -> bool:
        """Whether the teacher is trained beside the student."""
        return self.teacher_updates != "none"

    @property
    def dropout(self) -> str:
        """The first option that asks for dropout in training, as ``name=value``; empty where none does."""
        rates = {"student.dropout": self.student_config.dropout}
        if self.teacher_learns:
            rates["learning_teacher.dropout"] = self.learning_teacher_config.dropout
        return next((f"{name}={value}" for name, value in rates.items() if value > 0), "")

    @property
    def influence_config(self) -> InfluenceConfig:
        """The options of the influence, always as :class:`InfluenceConfig`."""
        assert isinstance(self.influence, InfluenceConfig)
        return self.influence

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_kwargs` takes back."""
        return dataclasses.asdict(self)

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value of a wrong type or outside its range."""
        checks.check_fields("", self, _ENVIRONMENT)
        if self.slots == "all" and self.masking != "bernoulli":
            raise ValueError(
                f"slots='all' makes room for as many masked tokens as a row may have, and masking={self.masking!r} "
                "masks the same number in every row; give it, or set masking='bernoulli'."
            )
        check_optimizer(self.optimizer_config)
        check_influence(self.influence_config, self.evaluation_rows, self.optimizer_config.max_grad_norm)
        if self.epochs is None:
            self._check_phase()
        if self.teacher is not None and self.teachers is not None:
            raise ValueError(f"teacher={self.teacher!r} and teachers={self.teachers!r} are both given; leave one out.")
        check_teacher_updates(self)
        check_student(self.student_config)

    def with_rows(self, count: int) -> EnvConfig:
        """These options with the ``budget`` that ``epochs`` is for ``count`` train rows.

        Raises:
            ValueError: a step that is longer than that.
        """
        if self.epochs is None:
            return self
        budget = ceil(self.epochs * count / self.batch_size)
        checks.whole(1)(f"budget of epochs={self.epochs}", budget)
        config = dataclasses.replace(self, budget=budget)
        config._check_phase()
        return config

    def _check_phase(self) -> None:
        if self.updates_per_step > self.budget:
            raise ValueError(
                f"updates_per_step={self.updates_per_step} is longer than budget={self.budget}; a step (phase) must "
                "fit into the budget: raise budget (or epochs) or lower updates_per_step."
            )


def _teacher_entries(name: str, value: Any) -> None:
    checks.names("<folder>", mappings=True)(name, value)
    for entry in value:
        if isinstance(entry, Mapping) and (
            set(entry) != {"name", "path"} or not all(isinstance(text, str) and text for text in entry.values())
        ):
            checks.refuse(f"{name} entry", entry, "a folder, a hub name, or a mapping with the texts name and path")


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, str):
        checks.names("toy")(name, value)


def _slots(name: str, value: Any) -> None:
    if value != "all":
        checks.optional(checks.whole(1))(name, value)


def _features(name: str, value: Any) -> None:
    if value != ():  # a decision may have an observation of its own
        checks.names("progress")(name, value)


_ROWS = checks.optional(checks.whole(1))
_ENVIRONMENT: dict[str, checks.Check] = {
    "task": checks.filled,
    "data_dir": checks.optional(checks.filled),
    "columns": checks.optional(checks.mapping),
    "split_seed": checks.whole(0),
    "feedback_rows": _ROWS,
    "selection_rows": _ROWS,
    "evaluation_rows": checks.whole(1),
    "evaluate_every": checks.whole(0),
    "feedback_labels": checks.one_of("gold", "shuffled"),
    "max_train_rows": _ROWS,
    "max_length": checks.whole(3),
    "label_noise": checks.within(0.0, 1.0),
    "train_on": checks.one_of("train", "train+feedback"),
    "objective": checks.one_of("labels", "text"),
    "text": checks.optional(_texts),
    "column": checks.optional(checks.text),
    "masking": checks.one_of("fixed", "bernoulli"),
    "mask_rate": checks.mask_rate,
    "slots": _slots,
    "language_model": checks.optional(checks.text),
    "student_head": checks.one_of("linear", "mlm"),
    "recipe": checks.text,
    "mode": checks.one_of("joint", "sequential"),
    "teacher_every": checks.whole(1),
    "num_candidates": checks.whole(2),
    "observation": checks.one_of("dict", "flat"),
    "teacher": checks.optional(checks.filled),
    "teachers": checks.optional(_teacher_entries),
    "decision": checks.text,
    "weighting": checks.one_of("batch", "sample"),
    "weighs": checks.names("soft_label"),
    "score": checks.text,
    "teacher_check": checks.one_of("refuse", "warn", "none"),
    "teacher_source": checks.one_of("cached", "online", "student"),
    "teacher_updates": checks.one_of("none", "prokt", "weighted"),
    "cache_dir": checks.optional(checks.filled),
    "cache_dtype": checks.one_of("float32", "float16"),
    "layer_map": checks.layer_numbers(0, length=2),
    "terms": checks.names("hard_label", mappings=True),
    "term_scale": checks.one_of("running", "none"),
    "weight_normalization": checks.one_of("none", "mean", "sum"),
    "updates_per_step": checks.whole(1),
    "budget": checks.whole(1),
    "epochs": checks.optional(checks.positive),
    "batch_size": checks.whole(1),
    "learning_rate": checks.optional(checks.positive),
    "precision": checks.one_of("fp32", "bf16", "fp64"),
    "device": checks.text,
    "features": _features,
    "reward": checks.text,
    "gap": checks.one_of("calibrated", "labels", "divergence"),
    "action_view": checks.text,
    "gate": checks.boolean,
    "max_episode_steps": _ROWS,
    "render_mode": checks.optional(checks.one_of(*RENDER_MODES)),
    "show_progress": checks.boolean,
}


def check_teacher_updates(config: EnvConfig) -> None:
    """Raise ``ValueError`` where a teacher that learns does not fit the other options, or its options do nothing."""
    learning = config.learning_teacher_config
    checks.check_fields("learning_teacher.", learning, CHECKS)
    if not config.teacher_learns:
        if learning != LearningTeacherConfig():
            raise ValueError(
                f"learning_teacher={learning} is for a teacher that learns, but teacher_updates='none'; set "
                "teacher_updates to prokt or weighted, or leave it out."
            )
        return
    updates = config.teacher_updates
    if learning.zero_head and learning.init == "finetuned":
        raise ValueError(
            "learning_teacher.zero_head=True would throw the head of a fine-tuned teacher away; set "
            "learning_teacher.init='pretrained' (or 'fresh'), or leave it out."
        )
    if config.teacher_source != "online":
        raise ValueError(
            f"teacher_source={config.teacher_source!r} does not fit teacher_updates={updates!r}: what a teacher that "
            "learns says changes with every update. Set teacher_source='online' (teacher.source=online in the main "
            "job)."
        )
    if config.teachers is not None:
        raise ValueError(
            f"teacher_updates={updates!r} needs one teacher; teachers={config.teachers!r} names several. Name one with "
            "teacher, or set teacher_updates='none'."
        )
    if config.gap == "divergence":
        raise ValueError(
            f"gap='divergence' is counted from a fixed teacher; with teacher_updates={updates!r} use gap='calibrated' "
            "or gap='labels'."
        )
