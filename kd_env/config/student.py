"""Options of the student."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kd_env.core import checks


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
    embedding_size: int | None = None
    """Only ``fresh``. Width of the word embeddings, which are then mapped to the hidden width (ELECTRA's, so that a
    student of a BERT is an ELECTRA). None: the teacher's where its family has one, else that of the hidden states."""
    embedding_init: str = "drawn"
    """Only ``fresh``. ``drawn`` by seed, or ``pca``: word embeddings are the teacher's reduced to the student's width
    (:func:`kd_env.models.students.embeddings.principal_components`), the first teacher's of several."""
    train_embeddings: bool | None = None
    """Whether word embeddings are trained. None: only in a fresh student that draws them. Frozen ones are shared
    between replicas."""
    trainable: str = "all"
    """Only ``teacher`` and ``pretrained``. Which part learns: ``all`` (word embeddings by ``train_embeddings``),
    ``top<n>`` such as ``top1`` (the highest n blocks and what is above them) or ``head`` (what is above all blocks:
    pooler and prediction layers). What is below stays as it is, is shared between replicas, and is saved, too."""
    cache_frozen: bool = False
    """Whether frozen layers (``trainable``) run once per train and feedback row, and what the last of them says is
    kept, in memory or in ``cache_dir``, for all replicas. Refused with dropout, edited rows and terms on lower ones."""
    pooling: str | None = None
    """Only with ``init=teacher``, cut from a member of a co-fine-tuned set: ``keep`` (attention pooling and a
    prediction layer of the student's own, both drawn by seed, as in MT-BERT; the default, None) or ``library`` (the
    architecture's sequence classifier)."""
    dropout: float = 0.0
    """Dropout of the student; stacked students refuse any but 0, since there is no generator per replica."""
    zero_head: bool = False
    """Whether its last prediction layer begins at 0 rather than being drawn by seed."""

    @property
    def trains_embeddings(self) -> bool:
        """Whether word embeddings are trained, also where the options leave it open."""
        usual = self.init == "fresh" and self.embedding_init == "drawn"
        return usual if self.train_embeddings is None else self.train_embeddings


def check_student(student: StudentConfig) -> None:
    """Raise ``ValueError`` for the first option of a student that is outside its range, or would be ignored."""
    checks.check_fields("student.", student, _STUDENT)
    if student.init == "pretrained" and not student.name_or_path:
        raise ValueError("student.init='pretrained' needs student.name_or_path (a folder or a hub name).")
    if student.trainable != "all":
        _check_frozen(student)
    elif student.cache_frozen:
        raise ValueError(
            "student.cache_frozen=True keeps what frozen layers say, and student.trainable='all' freezes none; set "
            "student.trainable='top1' or 'head', or leave it out."
        )
    defaults = StudentConfig()
    for name, inits in _STUDENT_ONLY.items():
        value = getattr(student, name)
        if student.init not in inits and value != getattr(defaults, name):
            raise ValueError(
                f"student.{name}={value!r} is only for student.init={' or '.join(inits)}, but "
                f"student.init={student.init!r} would ignore it; leave it out or change student.init."
            )


def _check_frozen(student: StudentConfig) -> None:
    if student.init == "fresh":
        raise ValueError(
            f"student.trainable={student.trainable!r} leaves lower layers as they are, and those of a fresh student "
            "know nothing; set student.init='teacher' or 'pretrained', or student.trainable='all'."
        )
    if student.train_embeddings:
        raise ValueError(
            f"student.train_embeddings=True contradicts student.trainable={student.trainable!r}, which freezes all "
            "embeddings; leave one of them out."
        )
    if student.cache_frozen and student.dropout:
        raise ValueError(
            f"student.cache_frozen=True keeps what frozen layers say, and with student.dropout={student.dropout} they "
            "say something else at every update; set student.dropout=0 or student.cache_frozen=false."
        )


def _part(name: str, value: Any) -> None:
    """``all``, ``head``, or ``top<n>`` with n from 1."""
    if not isinstance(value, str) or not re.fullmatch(r"all|head|top[1-9]\d{0,2}", value):
        checks.refuse(name, value, "all, head, or top<n> with a number of blocks such as top1")


_WIDEST = 65_536
"""Beyond it nothing could be built, and trying would end the process."""
_STUDENT: dict[str, checks.Check] = {
    "init": checks.one_of("fresh", "teacher", "pretrained"),
    "name_or_path": checks.optional(checks.text),
    "layers": checks.layer_numbers(1),
    **dict.fromkeys(("hidden_size", "num_attention_heads"), checks.whole(1, _WIDEST)),
    **dict.fromkeys(("intermediate_size", "embedding_size"), checks.optional(checks.whole(1, _WIDEST))),
    "num_hidden_layers": checks.optional(checks.whole(1, 1000)),
    "embedding_init": checks.one_of("drawn", "pca"),
    "train_embeddings": checks.optional(checks.boolean),
    "trainable": _part,
    "pooling": checks.optional(checks.one_of("keep", "library")),
    "dropout": checks.within(0.0, 0.9),
    **dict.fromkeys(("zero_head", "cache_frozen"), checks.boolean),
}


_STUDENT_ONLY = {
    "name_or_path": ("pretrained",),
    "layers": ("teacher", "pretrained"),
    "pooling": ("teacher",),
    **dict.fromkeys(
        ("hidden_size", "num_attention_heads", "intermediate_size", "embedding_size", "embedding_init"), ("fresh",)
    ),
}
