"""All options of every environment, of six sections; unknown keys and values outside their ranges are refused here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import ceil
from typing import Any

from kd_env.config import data, decision, learning_teacher, objective, process, teaching, training
from kd_env.config.data import DataSection
from kd_env.config.decision import DecisionSection
from kd_env.config.influence import InfluenceConfig, check_influence
from kd_env.config.learning_teacher import LearningTeacherConfig
from kd_env.config.objective import ObjectiveSection
from kd_env.config.optimizer import OptimizerConfig, check_optimizer
from kd_env.config.process import ProcessSection
from kd_env.config.student import StudentConfig, check_student
from kd_env.config.teaching import TeacherSection, teacher_source_name
from kd_env.config.training import StudentSection
from kd_env.core import checks
from kd_env.core.plain import nested_options, plain_value, refuse_unknown

_CHECKS = {
    name: check
    for section in (data, teaching, training, objective, process, decision)
    for name, check in section.CHECKS.items()
}


@dataclass(frozen=True)
class EnvConfig(DecisionSection, ProcessSection, ObjectiveSection, StudentSection, TeacherSection, DataSection):
    """Options of ``gymnasium.make("kd_env/...")``: the fields of its sections, plain values or mappings."""

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, OptimizerConfig) and isinstance(self.student, StudentConfig):
            options = self.optimizer.of_student(self.student.init, self.student.embedding_init)
            object.__setattr__(self, "optimizer", options)

    @classmethod
    def from_kwargs(cls, **options: Any) -> EnvConfig:
        """Validated configuration from plain keywords, without what the decision has to say of them.

        Environments are made with :func:`kd_env.decisions.options.env_config`, which adds its defaults and checks.

        Raises:
            ValueError: an unknown key (with near matches) or a value outside its range (with the range).
        """
        refuse_unknown("environment option", options, cls)
        values = {name: plain_value(value) for name, value in options.items()}
        values |= {name: teacher_source_name(values[name]) for name in ("teacher", "teachers") if name in values}
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
        checks.check_fields("", self, _CHECKS)
        if self.slots == "all" and self.masking != "bernoulli":
            raise ValueError(
                f"slots='all' makes room for as many masked tokens as a row may have, and masking={self.masking!r} "
                "masks the same number in every row; give it, or set masking='bernoulli'."
            )
        process.check_samples(self)
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


def check_teacher_updates(config: EnvConfig) -> None:
    """Raise ``ValueError`` where a teacher that learns does not fit the other options, or its options do nothing."""
    learning = config.learning_teacher_config
    checks.check_fields("learning_teacher.", learning, learning_teacher.CHECKS)
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
    if learning.init == "fresh" and config.student_config.embedding_init == "pca":
        raise ValueError(
            "student.embedding_init='pca' reduces the teacher's word embeddings, and learning_teacher.init='fresh' "
            "draws them anew in every episode; set student.embedding_init='drawn', or "
            "learning_teacher.init='pretrained'."
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
