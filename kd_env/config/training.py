"""The student, and how one of its updates is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from kd_env.config.optimizer import OptimizerConfig
from kd_env.config.student import StudentConfig
from kd_env.core import checks
from kd_env.core.plain import Plain


@dataclass(frozen=True)
class StudentSection:
    """The student, and how one of its updates is made."""

    student: str | Plain | StudentConfig = field(default_factory=StudentConfig)
    """A folder or hub name, or the fields of :class:`StudentConfig`."""
    batch_size: int = 16
    """B, train rows of one update."""
    micro_batch_size: int | None = None
    """Rows of a batch that are computed at once, for want of memory; their gradients are added up, and losses are those
    of the whole batch, whose equal the update is but for rounding (and dropout, which draws for every part). None: all.
    With ``term_scale=running`` students run twice on a batch, since the scales read all of it before the first part is
    differentiated. Not for terms that compare rows. A teacher that learns by influence reads whole batches."""
    activation_checkpointing: bool = False
    """Whether students keep no activations within their blocks, which are computed again on the way back: a third more
    work for a fraction of the memory. For single environments: stacked students are run by a program of their own."""
    data_parallel: bool = False
    """Whether the processes that ``torchrun`` or ``accelerate launch`` started share the rows of every batch and of
    every evaluation (:mod:`kd_env.numerics.ranks`). The main job sets it where there are several."""
    optimizer: Plain | OptimizerConfig = field(default_factory=OptimizerConfig)
    """The student's AdamW: the fields of :class:`OptimizerConfig`."""
    learning_rate: float | None = None
    """Short for ``optimizer={"learning_rate": ...}``, whose default depends on the student."""
    precision: str = "fp32"
    """Of the passes of students and teachers: ``fp32``; ``bf16`` (products, and what lies between them, in bf16;
    parameters, moments and losses stay in float32); ``auto`` (what is fast: ``bf16`` on a CPU with instructions for it,
    where the widest model that runs at every step has a hidden size of 128 or more, else ``fp32``; results say which);
    or ``fp64`` (for checks)."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""


CHECKS: dict[str, checks.Check] = {
    "batch_size": checks.whole(1),
    "micro_batch_size": checks.optional(checks.whole(1)),
    "activation_checkpointing": checks.boolean,
    "data_parallel": checks.boolean,
    "learning_rate": checks.optional(checks.positive),
    "precision": checks.one_of("auto", "fp32", "bf16", "fp64"),
    "device": checks.text,
}
