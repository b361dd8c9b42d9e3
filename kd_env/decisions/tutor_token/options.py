"""The documented, frozen options of ``kd_env/TutorToken-v0``.

``recipe="paper"`` sets the defaults of Tutor-KD as published (Kim et al., EMNLP 2022), ``recipe="modified"`` those that
suit small students, short budgets and stacked replicas. An option that is given is kept. [code]: read in the released
code, [paper]: in the paper; where neither says anything it is "not stated".

=======================  ============================================  ========================  =====================
part                     published                                     ``recipe="paper"``        ``"modified"``
=======================  ============================================  ========================  =====================
masking                  each ordinary token by itself, 0.15; 80/10/10  the same                  ``slots`` a row, 0.15
                         [code]
slots                    every masked position is overwritten [code]   ``slots="all"``           about 15% of the row
plausibility             replaced tokens get m, others 1 [code]        the same                  the same
loss weights             25 L_pp + 0.5 L_dist [code]                   the same                  the same
L_dist                   sum over layers, embeddings too, of hidden    ``layer_reduction="sum"`` mean over layers
                         states and raw attention scores [code]
mean within a layer      not stated                                    real tokens of a row,     the same
                                                                       then rows
L_pp                     mean over all tokens, padding too [code]      over real tokens          over real tokens
projection               one map for all layers [code]                 ``projection="always"``   where widths differ
its first values         not stated                                    N(0, 1 / width)           the same
student's head           dense, GELU, LayerNorm, linear [code]         ``student_head="mlm"``    ``"linear"``
student's dropout        0.1, BERT's default [code]                    0.1, single environments  0
student's size           6 x 768, or 264 wide with 12, 6, 2 layers     1 x 32; ``student=...``   1 x 32
                         [paper]
attention mask           inverted in the released code [code]          real tokens               real tokens
optimiser                AdamW, betas 0.9, 0.999, weight decay 0.01    the same                  the same
                         [code]
step size, eps           5e-4, 1e-6 [code]                             the same                  7e-3, 1e-8
weight decay of biases   not stated                                    0                         0
clipping                 none [code]                                   none                      norm 1
schedule                 10,000 updates up, then down [code]           ``warmup=0.01``           ``warmup=0.1``
updates, batch, length   1 million, 128, 128 [code]                    ``budget=80``,            the same
                                                                       ``batch_size=16``, 128
text                     Wikipedia, BookCorpus [paper]                 ``text=...``              the same
teacher                  bert-base-uncased [code]                      ``teacher=...``           the same
=======================  ============================================  ========================  =====================

Sizes, text and budget are the user's: 6 x 768 and a million updates are not tried here. The 2-layer student is taught
without attention in the paper, ``losses={"plausibility": 25, "hidden_states": 0.5}``. The tutor's own part stands in
:mod:`agents.tutor.agent`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kd_env.config.environment import RENDER_MODES
from kd_env.config.optimizer import OptimizerConfig, check_optimizer
from kd_env.config.student import StudentConfig, check_student
from kd_env.core import checks
from kd_env.core.plain import nested_options, plain_value, refuse_unknown
from kd_env.core.registry import unknown_name
from kd_env.data.masking import MASK_RATE, check_rate

MODES = ("joint", "sequential")
VIEWS = ("native", "candidates", "discrete", "box")
REWARDS = ("tutor", "teacher_recognises", "student_error", "gap_closed", "loss_drop")
LOSSES = ("plausibility", "hidden_states", "attention")
RECIPES: dict[str, dict[str, Any]] = {
    "modified": {},
    "paper": {
        "masking": "bernoulli",
        "slots": "all",
        "student_head": "mlm",
        "layer_reduction": "sum",
        "projection": "always",
        "student": {"dropout": 0.1},
        "optimizer": {"learning_rate": 5e-4, "eps": 1e-6, "max_grad_norm": None, "warmup": 0.01},
    },
}
"""Defaults by recipe, where they differ from those of the fields."""
LOSS_WEIGHTS = {"plausibility": 25.0, "hidden_states": 0.5, "attention": 0.5}
"""25 L_pp + 0.5 L_dist, as in the released code; L_dist adds up hidden states and attention scores, there with
``layer_reduction="sum"``."""
HEADS = ("linear", "mlm")
TASK_LOSSES = ("soft_label", "hard_label", "hidden_states", "attention")
TASK_LOSS_WEIGHTS = {"soft_label": 1.0}
"""With labels of a task: plain distillation of the teacher's label distribution on the edited text."""


def losses_of(task: str | None) -> tuple[str, ...]:
    """Names of the losses that there are."""
    return LOSSES if task is None else TASK_LOSSES


@dataclass(frozen=True)
class TutorConfig:
    """Options of ``gymnasium.make("kd_env/TutorToken-v0")``. Every field is a plain value or mapping."""

    recipe: str = "modified"
    """``paper``: :meth:`from_kwargs` gives what is left out the values published for Tutor-KD (table above)."""
    # -- text
    task: str | None = None
    """None: pre-training distillation on ``text`` (the paper). A task of classes (``toy``, ``toy_pair``, a GLUE task,
    ``custom`` with ``columns``): the tutor rewrites tokens of its labelled rows, whose label a fine-tuned teacher
    should recognise and the student miss. ``text`` is then theirs."""
    columns: Mapping[str, Any] | None = None
    """With ``task=custom``, as in the other environments."""
    text: str | tuple[str, ...] = "toy"
    """Where the text comes from: ``toy``, ``toy_pair``, a GLUE task (its sentences), a folder of ``.txt`` files or the
    name of a ``datasets`` data set; or several of them, whose texts are put together."""
    data_dir: str | None = None
    """For GLUE tasks: folder with ``<task>/<split>.parquet``; None reads them from the hub."""
    column: str | None = None
    """For a ``datasets`` data set: its column of texts."""
    split_seed: int = 0
    """Seed of the cut into train, feedback and selection, and of the masks and replacements of the evaluated rows."""
    feedback_rows: int | None = None
    selection_rows: int | None = None
    max_train_rows: int | None = None
    evaluation_rows: int = 128
    """Feedback rows that are evaluated for reward and observation."""
    max_length: int = 128
    """Tokens a row is cut to."""
    # -- models
    teacher: str | None = None
    """Folder or hub name of a masked language model, or with ``task`` of a model that is fine-tuned for it; None: the
    packaged one of the embedded task."""
    language_model: str | None = None
    """With ``task``: folder or hub name of the masked language model that reads the masked rows, whose candidates and
    hidden states the tutor sees; of the teacher's vocabulary. None: the packaged one."""
    student: StudentConfig | Mapping[str, Any] = field(default_factory=lambda: StudentConfig(num_attention_heads=4))
    """Where the student comes from; ``init`` is ``fresh`` or ``teacher``, with ``task`` also ``pretrained``."""
    # -- masking
    masking: str = "fixed"
    """``fixed``: every row has ``slots`` masked positions, drawn without replacement. ``bernoulli``: each ordinary
    token is masked by itself with ``mask_rate`` (the paper); slots beyond ``slots`` are dropped and counted, and slots
    that a row does not fill are not valid."""
    mask_rate: float = MASK_RATE
    slots: int | str | None = None
    """P; None: ``max(1, round(mask_rate * mean number of ordinary tokens))``. With ``masking=fixed`` rows with fewer
    ordinary tokens are left out. ``all``, with ``masking=bernoulli``: so many that the longest train row has more
    masked tokens at most once in 10^9 draws."""
    # -- decision
    mode: str = "joint"
    """``joint``: one action fills every slot (the paper). ``sequential``: one slot of all rows a step; later choices
    see earlier ones, and the student is updated when the last is filled."""
    teacher_every: int = 1
    """With ``mode=sequential``: slots that are filled between two passes of the teacher over the text so far. 1 shows
    every choice to the next one; P costs one pass, as ``joint`` does."""
    action_view: str = "native"
    """``native``: any token of the vocabulary. ``candidates``: one of the teacher's ``num_candidates`` most likely
    tokens. ``discrete``: one rank in these lists for all slots. ``box``: how the lists are sampled, and how many slots
    are replaced (:class:`kd_env.decisions.tutor_token.actions.BoxActions`)."""
    num_candidates: int = 10
    observation: str = "dict"
    """``dict``: everything, arrays by name. ``flat``: the numbers among it as one 1-D box, for agents that know no
    other (the teacher's hidden states and probabilities, valid slots and progress; no token ids)."""
    # -- student's loss
    student_head: str = "linear"
    """What turns the student's last hidden states into the scalar u of every token: ``linear``, or ``mlm`` (dense,
    GELU, LayerNorm, linear, without dropout: the released code). Without ``task`` only."""
    losses: Mapping[str, float] = field(default_factory=lambda: dict(LOSS_WEIGHTS))
    """Weight by loss: ``plausibility`` (L_pp), ``hidden_states`` and ``attention`` (raw scores); one that is left out
    is not computed. Attention needs as many heads in the student as in the teacher. With ``task`` instead of
    plausibility ``soft_label`` (KL from the teacher, the default alone) and ``hard_label`` (the gold label)."""
    layer_map: str | tuple[tuple[int, int], ...] = "uniform"
    layer_reduction: str = "mean"
    """``mean`` or ``sum`` (the released code) of hidden states and of attention over the mapped layers."""
    projection: str = "auto"
    """The one map from the student's to the teacher's width: where they differ (``auto``), or ``always``."""
    # -- process
    reward: str = "tutor"
    """``tutor`` (mean over slots of ``teacher_recognises`` + ``student_error``), either of them, ``gap_closed`` or
    ``loss_drop`` on the feedback rows. With ``task`` the first is the teacher's confidence in the gold label of the
    edited row, the second the distance of the student's label distribution from the teacher's."""
    budget: int = 80
    """Student updates of an episode."""
    batch_size: int = 16
    evaluate_every: int = 1
    """Updates between two evaluations; 0 evaluates at reset and at the end of an episode only."""
    optimizer: OptimizerConfig | Mapping[str, Any] = field(default_factory=OptimizerConfig)
    """AdamW; ``learning_rate`` is 7e-3 by default for fresh students, 3e-4 for others."""
    max_episode_steps: int | None = None
    precision: str = "fp32"
    """``fp32``, ``bf16`` (autocast of the forward passes) or ``fp64``."""
    device: str = "auto"
    render_mode: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, OptimizerConfig) and isinstance(self.student, StudentConfig):
            object.__setattr__(self, "optimizer", self.optimizer.of_student(self.student.init))

    @property
    def student_config(self) -> StudentConfig:
        """The student's options."""
        assert isinstance(self.student, StudentConfig)
        return self.student

    @property
    def optimizer_config(self) -> OptimizerConfig:
        """The optimiser's options."""
        assert isinstance(self.optimizer, OptimizerConfig)
        return self.optimizer

    @classmethod
    def from_kwargs(cls, **options: Any) -> TutorConfig:
        """Validated options; unknown ones are refused with a did-you-mean."""
        if "teacher_source" in options:
            raise ValueError(
                "teacher_source has no place here: the tutor edits every batch, so that no output of the teacher can "
                "be cached; leave it out (the teacher runs online)."
            )
        refuse_unknown("environment option", options, cls)
        plain = {key: plain_value(value) for key, value in options.items()}
        checks.one_of(*RECIPES)("recipe", plain.get("recipe", "modified"))
        for name, value in RECIPES[plain.get("recipe", "modified")].items():
            own = plain.get(name, value)
            plain[name] = {**value, **own} if isinstance(value, Mapping) and isinstance(own, Mapping) else own
        checks.optional(checks.filled)("task", plain.get("task"))
        if plain.get("task") is not None:
            plain = {"text": plain["task"], "losses": dict(TASK_LOSS_WEIGHTS), **plain}
        student = plain.get("student")
        if isinstance(student, Mapping) and student.get("init", "fresh") == "fresh" and "hidden_size" not in student:
            plain["student"] = {"num_attention_heads": 4, **student}  # only one option more than the default
        for name, target in (("student", StudentConfig), ("optimizer", OptimizerConfig)):
            if name in plain:
                plain[name] = nested_options(name, plain[name], target, "a mapping of options")
        config = cls(**plain)
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value outside its range."""
        whole = {"split_seed": 0, "evaluation_rows": 1, "max_length": 3, "num_candidates": 2, "teacher_every": 1}
        whole |= {"budget": 1, "batch_size": 1, "evaluate_every": 0}
        checks.check_fields("", self, {name: checks.whole(low) for name, low in whole.items()})
        optional = ("feedback_rows", "selection_rows", "max_train_rows", "max_episode_steps")
        checks.check_fields("", self, dict.fromkeys(optional, checks.optional(checks.whole(1))))
        if not isinstance(self.text, str):
            checks.names("toy")("text", self.text)
        checks.check_fields("", self, {"device": checks.text})
        texts = ("data_dir", "column", "teacher", "task", "language_model")
        checks.check_fields("", self, dict.fromkeys(texts, checks.optional(checks.filled)))
        checks.check_fields("", self, {"columns": checks.optional(checks.mapping)})
        choices = {"masking": ("fixed", "bernoulli"), "mode": MODES, "action_view": VIEWS, "reward": REWARDS}
        choices["observation"] = ("dict", "flat")
        choices |= {"recipe": tuple(RECIPES), "student_head": HEADS, "layer_reduction": ("mean", "sum")}
        choices["projection"] = ("auto", "always")
        choices["precision"] = ("fp32", "bf16", "fp64")
        checks.check_fields("", self, {name: checks.one_of(*valid) for name, valid in choices.items()})
        checks.check_fields("", self, {"render_mode": checks.optional(checks.one_of(*RENDER_MODES))})
        checks.check_fields("", self, {"layer_map": checks.layer_numbers(0, length=2)})
        check_optimizer(self.optimizer_config)
        check_student(self.student_config)
        check_rate("mask_rate", self.mask_rate)
        checks.mapping("losses", self.losses)
        valid = losses_of(self.task)
        for name, weight in self.losses.items():
            if name not in valid:
                raise ValueError(unknown_name("loss", name, valid))
            checks.within(0)(f"losses.{name}", weight)
        if not any(self.losses.values()):
            raise ValueError(f"losses={dict(self.losses)} weigh nothing: give at least one of {', '.join(valid)}.")
        if self.student_config.zero_head:
            raise ValueError("student.zero_head=True is not supported here; leave it out.")
        self._check_task()
        self._check_slots()
        if self.student_config.init == "pretrained" and self.task is None:
            raise ValueError("student.init='pretrained' has no meaning here; use fresh, or teacher with its layers.")
        if self.mode == "joint" and self.teacher_every != 1:
            raise ValueError(f"teacher_every={self.teacher_every} is for mode='sequential'; leave it out.")

    def _check_slots(self) -> None:
        if self.slots != "all":
            checks.optional(checks.whole(1))("slots", self.slots)
        elif self.masking != "bernoulli":
            raise ValueError(
                f"slots='all' makes room for as many masked tokens as a row may have, and masking={self.masking!r} "
                "masks the same number in every row; give it, or set masking='bernoulli'."
            )

    def _check_task(self) -> None:
        if self.task is not None:
            for name, value in (("recipe", "paper"), ("student_head", "mlm")):
                if getattr(self, name) == value:
                    raise ValueError(
                        f"{name}={value!r} is of Tutor-KD as published, which distils masked language models; with "
                        f"task={self.task!r} students are classifiers, which is not in the paper: leave {name} out."
                    )
        if self.task is None:
            for name in ("columns", "language_model"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}={getattr(self, name)!r} is for task=<task>; leave it out or set task.")
        elif self.text != self.task or self.column is not None:
            raise ValueError(
                f"text={self.text!r}, column={self.column!r} are for pre-training distillation, and task={self.task!r} "
                "has rows of its own; leave them out."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_kwargs` takes back."""
        return dataclasses.asdict(self)
