"""Who teaches, and where what teachers say is kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_env.config.learning_teacher import LearningTeacherConfig
from kd_env.core import checks
from kd_env.core.plain import Plain


@dataclass(frozen=True)
class TeacherSection:
    """Who teaches, and where what teachers say is kept."""

    teacher: str | None = None
    """Folder or hub name of a fine-tuned encoder; a file of answers to rows (parquet, csv, tsv, jsonl, npz:
    :mod:`kd_env.teachers.answers.files`); or a function of texts, itself or as ``package.module:function``
    (:mod:`kd_env.teachers.answers.functions`). With ``objective=text`` folder or hub name of a masked language
    model. None: the packaged one of the embedded task."""
    teachers: Sequence[str | Plain] | None = None
    """Several teachers: any of these, or mappings ``{"name": ..., "path": ...}``; a folder that holds a
    co-fine-tuned set stands for its members. None: ``teacher``, or where teachers are weighed the packaged set of the
    embedded task."""
    teacher_check: str = "refuse"
    """What is done about a teacher that is no better than a constant on the selection rows, or whose outputs are in
    another order or on another scale than the labels: ``refuse``, ``warn`` or ``none``."""
    teacher_source: str = "cached"
    """``cached`` (computed once), ``online`` (computed for every batch), or ``student``: a control in which every
    signal of the teacher is the student's own at that moment, so that there is nothing to be learned from it. Or one
    of another distribution (``docs/plugins.md``)."""
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


def teacher_source_name(value: Any) -> Any:
    """A function by its name ``package.module:function``, so that options stay plain; all else as it is.

    Args:
        value: of ``teacher``, or of ``teachers`` or an entry or path in it.

    Raises:
        ValueError: a function that cannot be found under its name, or a model itself.
    """
    if isinstance(value, list | tuple):
        return tuple(teacher_source_name(entry) for entry in value)
    if isinstance(value, Mapping):
        return {key: teacher_source_name(entry) for key, entry in value.items()}
    if isinstance(value, str) or not (callable(value) or hasattr(value, "predict_proba")):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise ValueError(
            f"The teacher {value!r} cannot be found by name, as other processes and kept results find it: give a "
            "function that stands at the top of a module (of texts, or without parameters, which makes the model), "
            "itself or as 'package.module:function'."
        )
    return f"{module}:{name}"


def _teacher_entries(name: str, value: Any) -> None:
    checks.names("<folder>", mappings=True)(name, value)
    for entry in value:
        if isinstance(entry, Mapping) and (
            set(entry) != {"name", "path"} or not all(isinstance(text, str) and text for text in entry.values())
        ):
            checks.refuse(
                f"{name} entry",
                entry,
                "a folder, a hub name, a file of answers, a function, or a mapping with the texts name and path",
            )


CHECKS: dict[str, checks.Check] = {
    "teacher": checks.optional(checks.filled),
    "teachers": checks.optional(_teacher_entries),
    "teacher_check": checks.one_of("refuse", "warn", "none"),
    "teacher_source": checks.filled,
    "teacher_updates": checks.one_of("none", "prokt", "weighted"),
    "cache_dir": checks.optional(checks.filled),
    "cache_dtype": checks.one_of("float32", "float16"),
}
