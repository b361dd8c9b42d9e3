"""What a feature is, and the registry of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kd_env.core import trees
from kd_env.core.registry import Registry
from kd_env.mdp.influence.rows import row_influence
from kd_env.mdp.objectives.text import row_edit
from kd_env.mdp.observations.next_batch import NextBatch, next_batch
from kd_env.mdp.passes import changes, teacher_logits
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState
from kd_env.teachers.facts import TeacherFacts, teacher_facts
from kd_files.plugins import instance_of


class View:
    """What features look at; costly parts that several features share are computed once."""

    def __init__(self, problem: Problem, state: DistillState, *, reads_cls: bool = True) -> None:
        self.problem = problem
        self.state = state
        self._reads_cls = reads_cls

    @property
    def rows(self) -> np.ndarray:
        """Train rows ``[N, B]`` of the first batch of the next step."""
        return self.state.next_rows[:, 0]

    @cached_property
    def next_batch(self) -> NextBatch:
        """What student and teachers say about these rows."""
        with_cls = self._reads_cls and any(feature.needs_cls for feature in self.problem.features.values())
        return next_batch(self.problem, self.state, self.rows, with_cls=with_cls)

    @cached_property
    def teacher_logits(self) -> np.ndarray:
        """Logits of the teachers on these rows, ``[T, N, B, C]``."""
        return teacher_logits(self.problem, self.state, self.rows)

    @cached_property
    def teacher_facts(self) -> TeacherFacts:
        """What they say about these rows, each ``[T, N, B]``."""
        if not changes(self.problem):
            return trees.map_leaves(lambda values: values[:, self.rows], self.problem.teacher_facts)
        labels = self.problem.train.labels[self.rows]
        return teacher_facts(self.teacher_logits, labels, self.problem.label_width)

    @cached_property
    def row_influence(self) -> np.ndarray:
        """How much each of these rows lowers the feedback loss, ``[N, B]``."""
        return row_influence(self.problem, self.state)

    @cached_property
    def row_edit(self) -> np.ndarray:
        """Of the tokens that will be written into each of these rows, ``[N, B, 2]`` in [0, 1].

        Their mean plausibility, and the mean distance of the student's probability from it.
        """
        return row_edit(self.problem, self.state, self.rows)

    @property
    def student_cls(self) -> np.ndarray:
        """Last [CLS] of the student, ``[N, B, H_S]``."""
        assert self.next_batch.student_cls is not None
        return self.next_batch.student_cls


@dataclass(frozen=True)
class Feature:
    """One part of the observation.

    Attributes:
        shape: shape of the feature for a problem.
        compute: values ``[N, *shape]``; clipped to the bounds and freed of NaN by :func:`observe`.
        low: lower bound of every entry.
        high: upper bound of every entry.
        needs_cls: whether it reads the last [CLS] on the batch that the next action will be applied to.
        per_row: whether it has one part ``[B, n]`` for each row of that batch.
        classification_only: whether it has no meaning in regression, where it is refused.
        reads_influence: whether it reads the influence of rows, which needs feedback rows enough.
        labels_only: whether it reads labels or logits of whole rows, which there are none of with ``objective=text``.
        text_only: whether it reads masked text.
        about: what it is, in a sentence, for the documentation.
    """

    shape: Callable[[Problem], tuple[int, ...]]
    compute: Callable[[View], np.ndarray]
    low: float = 0.0
    high: float = 1.0
    needs_cls: bool = False
    per_row: bool = False
    classification_only: bool = False
    reads_influence: bool = False
    labels_only: bool = False
    text_only: bool = False
    about: str = ""


FEATURES: Registry[Feature] = Registry("feature", "kd_env.features", instance_of(Feature))
