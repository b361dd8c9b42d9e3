"""Numbers that papers print for GLUE, copied as they stand there; none of them comes from this program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

SIX = ("mnli", "mrpc", "qnli", "qqp", "rte", "sst2")
"""The tasks over which LGTM averages."""
_TUTOR_KD = "Kim et al., EMNLP 2022 (Tutor-KD), GLUE dev"
_LGTM = "Ren et al., ACL 2023 (LGTM), average of six tasks as a summary of the paper gives it"
_MT_BERT = "Wu et al., Findings of ACL 2021 (MT-BERT)"
_TASKS = ("mnli", "qnli", "qqp", "sst2", "cola", "stsb", "mrpc", "rte")


@dataclass(frozen=True)
class Printed:
    """One line of a paper's table."""

    name: str
    source: str
    scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By task, times 100."""
    six: float | None = None
    """Average over :data:`SIX`, times 100."""


def _line(name: str, *scores: float | None) -> Printed:
    """A line of Tutor-KD's table, in the order of its columns; None where nothing is printed."""
    given = zip(_TASKS, scores, strict=True)
    return Printed(name, _TUTOR_KD, MappingProxyType({task: score for task, score in given if score is not None}))


PRINTED = (
    _line("BERT-base", 83.9, 90.6, 91.2, 92.8, 59.9, 86.3, 88.7, 65.4),
    _line("MiniLMv2, 6 layers", 83.6, 90.4, 90.8, 92.0, 52.1, 85.2, 88.5, 67.3),
    _line("Tutor-KD, 6 layers", 83.6, 90.4, 91.0, 92.2, 61.0, 86.4, 88.7, 68.9),
    _line("MiniLMv2, 2 layers", 71.1, 82.1, 86.0, 85.4, 13.2, None, 81.1, 58.2),
    _line("Tutor-KD, 2 layers", 70.9, 82.5, 86.5, 87.0, 22.0, None, 82.5, 62.0),
    Printed("LGTM, 6 layers", _LGTM, six=83.4),
    Printed("LGTM, 4 layers", _LGTM, six=81.4),
    Printed("MT-BERT, 6 layers", _MT_BERT, MappingProxyType({"sst2": 94.6, "rte": 75.7})),
    Printed("MT-BERT, 4 layers", _MT_BERT, MappingProxyType({"sst2": 93.9, "rte": 73.8})),
)
"""In the order in which they are shown."""

UNSTATED = (
    "which metric is that of MRPC and QQP (accuracy or F1), STS-B (Pearson or Spearman) and CoLA (Matthews, as GLUE "
    "has no other), whether MNLI means matched rows, the number of seeds, and of MT-BERT the split"
)
"""What the tables do not say, where they are quoted from."""
