"""What a knowledge term is: a per-example loss, the signals that it reads and the projections that it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from kd_env.core.registry import Registry
from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_files.plugins import function

LayerPairs = tuple[tuple[int, int], ...]
"""The layer map: pairs (student layer, teacher layer); layer 0 is the embedding output."""


class TermInputs(NamedTuple):
    """Everything a term may look at. ``teacher`` is None for terms without a teacher."""

    student: ModelOutput
    teacher: ModelOutput | None
    batch: Batch
    projections: Mapping[str, Tensor]  # this term's own: name -> [out, in], features x map as x @ weight.T
    given: Mapping[str, Tensor] = MappingProxyType({})  # what the action says to terms: name -> [], or [B]
    row_tokens: Tensor | None = None  # real tokens of all rows of a larger batch, ``[B']``, of which this is a part

    @property
    def taught(self) -> ModelOutput:
        """The teacher's output, for terms that read one.

        Raises:
            ValueError: there is no teacher output, a fault of the caller.
        """
        if self.teacher is None:
            raise ValueError("This knowledge term reads a teacher, but no teacher output was given.")
        return self.teacher


@dataclass(frozen=True)
class TermSpec:
    """What a term is built for.

    ``pairs`` is the layer map, ``regression`` tells the kind of task and ``label_width`` is the width of the label
    range of a regression task (5.0 for STS-B): errors are divided by it, so that squared ones lie near [0, 1].
    """

    student: EncoderFacts
    teacher: EncoderFacts
    pairs: LayerPairs
    regression: bool
    label_width: float = 1.0
    text: bool = False
    """Whether students learn masked text: their logits are one scalar a token, and there are no labels."""


@dataclass(frozen=True)
class Term:
    """One knowledge term, ready to be computed.

    Attributes:
        name: the name in tables, observations and actions.
        loss: pure function to the per-example loss ``[B]``, not reduced; safe under ``torch.func.vmap``.
        student_signals: what the student's forward pass must give.
        teacher_signals: what the teacher must give; empty for a term without a teacher.
        projections: shapes ``(out, in)`` of trainable maps, by name: from the width of the mapped side (the student,
            unless the term says otherwise) to the other's.
        across_rows: whether the loss of a row reads other rows of the batch, so that all have to be there at once.
    """

    name: str
    loss: Callable[[TermInputs], Tensor]
    student_signals: frozenset[Signal]
    teacher_signals: frozenset[Signal]
    projections: Mapping[str, tuple[int, int]]
    across_rows: bool = False

    @property
    def uses_teacher(self) -> bool:
        """False for hard labels: such a term stands in row 0 of its column of the table."""
        return bool(self.teacher_signals)


TermFactory = Callable[..., Term]
"""``factory(spec: TermSpec, **options) -> Term``; unknown options and terms without meaning raise ``ValueError``."""
_NO_TEACHER = "reads_no_teacher"


def without_teacher(factory: TermFactory) -> TermFactory:
    """Decorator of factories whose terms read no teacher, so that this is known before a term is built."""
    setattr(factory, _NO_TEACHER, True)
    return factory


def reads_teacher(factory: TermFactory) -> bool:
    """Whether the terms of a factory read a teacher."""
    return not getattr(factory, _NO_TEACHER, False)


TERMS: Registry[TermFactory] = Registry("knowledge term", "kd_env.terms", function)
