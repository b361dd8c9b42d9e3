"""One or several teachers of a problem: what they say, whose terms they feed, and which of them is the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from kd_env.core.records import SET_RECORD, members
from kd_env.data.tables import Table
from kd_env.data.tasks import Rows
from kd_env.knowledge import LayerPairs, Term
from kd_env.models import encoder as models
from kd_env.models.masked_lm import MaskedLM
from kd_env.numerics import losses
from kd_env.teachers import sources
from kd_env.teachers.verdicts import Verdict


class TeacherTables(NamedTuple):
    """The rows of a problem in one teacher's own tokens."""

    train: Table
    feedback: Table  # the evaluated rows
    selection: Table


class AnswerSource(Protocol):
    """Who answers to rows without being an encoder (:mod:`kd_env.teachers.answers`)."""

    @property
    def fitted_here(self) -> bool:
        """Whether it has learned from the train rows of this very problem, and from no others."""

    def logits(self, rows: Rows, split: str, index: np.ndarray) -> np.ndarray:
        """Answers ``[R, C]`` to rows ``index [R]`` of a split, of which ``rows`` are all."""


@dataclass(frozen=True)
class Teacher:
    """One teacher of a problem."""

    name: str
    folder: str
    """Folder, hub name, file of answers, or function."""
    network: models.Encoder | None
    """Its encoder; None where it only answers."""
    tokenizer: Any
    foreign: bool
    """Whether its tokenizer is another than the student's: then it gives logits and [CLS] only."""
    identity: str
    """Hash of the weights."""
    saw_feedback: str
    """``no`` or ``unknown``."""
    pairs: LayerPairs
    """The layer map from the student to this teacher."""
    terms: tuple[Term, ...]
    """The K terms, built for this teacher."""
    source: sources.TeacherSource
    train_logits: np.ndarray  # [R, C], uncalibrated
    feedback_logits: np.ndarray
    selection_logits: np.ndarray
    temperature: float
    """Fitted on the selection split (1 in regression); used for the reference loss only."""
    verdict: Verdict | None
    """What the selection rows say about it; None for one that learns from the start, without a head of its own."""
    order: tuple[int, ...]
    """For each label of the task the output of the folder's model; empty where they are alike."""
    language_model: MaskedLM | None = None
    """With its head over the vocabulary, where students learn masked text."""
    answers: AnswerSource | None = None
    """Who answers to other rows, where there is no encoder."""

    @property
    def encoder(self) -> models.Encoder:
        """Its encoder, where it has one."""
        assert self.network is not None, f"the teacher {self.name!r} only answers"
        return self.network


def entry_name(term: str, teacher: str, count: int) -> str:
    """Name of one entry of the loss table: the term's alone where there is one teacher."""
    return term if count == 1 else f"{term}@{teacher}"


def best_teacher(teachers: Sequence[Teacher], labels: np.ndarray, label_width: float | None) -> int:
    """The teacher with the lowest calibrated loss on the selection split; the first of equals."""
    values = [losses.gold_loss(t.selection_logits / t.temperature, labels, label_width) for t in teachers]
    return int(np.argmin(values))


def named_folders(teachers: Sequence[str | Mapping[str, str]]) -> dict[str, str]:
    """Folders by teacher name: as given, else the last part of the folder's path (with - for a dot).

    A folder of a co-fine-tuned set that has no name stands for its members.

    Raises:
        ValueError: two teachers of one name, or a name that cannot stand in the names of table entries.
    """
    folders: dict[str, str] = {}
    for entry in _members(teachers):
        folder = entry if isinstance(entry, str) else entry["path"]
        name = Path(folder).name.replace(".", "-") if isinstance(entry, str) else entry["name"]
        if not name or any(sign in name for sign in "@/.[]"):
            raise ValueError(
                f"The teacher name {name!r} is empty or has one of the signs @ / . [ ]; give another one: "
                f"{{name: ..., path: {folder}}}."
            )
        if name in folders:
            raise ValueError(
                f"Two teachers are named {name!r} ({folders[name]} and {folder}); give each a name of its own, such as "
                f"{{name: {name}_2, path: {folder}}}."
            )
        folders[name] = folder
    return folders


def _members(teachers: Sequence[str | Mapping[str, str]]) -> Iterator[str | Mapping[str, str]]:
    for entry in teachers:
        if isinstance(entry, str) and (Path(entry) / SET_RECORD).is_file():
            yield from (str(member) for member in members(entry))
        else:
            yield entry
