"""Which teachers count, for a batch or for single rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.core.registry import unknown_name
from kd_env.decisions.base import BOX, DISCRETE, MULTI_BINARY, Decision, Measure, Parts
from kd_env.decisions.by_row import ONE_A_BATCH, VIEW_HINTS, check_by_row
from kd_env.decisions.teacher_weighting.actions import TeacherWeightingActions
from kd_env.decisions.teacher_weighting.attributes import ATTRIBUTES
from kd_env.decisions.teacher_weighting.measures import BestTeacherFollowed
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect

ROW_FEATURES = (
    "progress",
    "remaining_budget",
    "gap",
    "row_teacher_losses",
    "row_teacher_entropies",
    "row_teacher_confidences",
    "row_teacher_student_agreement",
    "row_teacher_agreement",
    "row_student",
)
"""Default features with weights of single rows."""


class TeacherWeighting(Decision):
    """At every step the agent says how much each teacher counts (MT-BERT, RL-KD and their neighbours)."""

    name = "teacher_weighting"
    views = ((BOX, "simplex"), (MULTI_BINARY, "subset"), (DISCRETE, "discrete"), (BOX, "box"))
    options = frozenset({"weighting", "weighs", "fills"})
    view_options = MappingProxyType({"gate": ("box",)})
    default_features = (
        "progress",
        "remaining_budget",
        "learning_rate",
        "gap",
        "teacher_losses",
        "teacher_entropies",
        "teacher_confidences",
        "teacher_student_agreement",
        "teacher_agreement",
        "student_on_batch",
        "previous_action",
    )
    many_teachers = True
    attributes = ATTRIBUTES

    actions: TeacherWeightingActions

    @classmethod
    def features_for(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Default features; those of rows where single rows are weighed."""
        return ROW_FEATURES if options.get("weighting", "batch") == "sample" else cls.default_features

    @classmethod
    def defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults with hard and soft labels as terms, and one update a step where single rows are weighed."""
        by_row = {"updates_per_step": 1} if options.get("weighting", "batch") == "sample" else {}
        return {"terms": ("hard_label", "soft_label"), **by_row, **super().defaults(options)}

    @classmethod
    def check(cls, config: EnvConfig) -> None:
        """Refuse a teacher that learns, and options that fit neither the view nor the weighting of single rows."""
        if config.teacher_learns:
            raise ValueError(
                f"teacher_updates={config.teacher_updates!r} needs one teacher; decision={cls.name!r} has several. Set "
                "teacher_updates='none', or change the decision."
            )
        if config.fills is not None and config.action_view in ("native", "simplex"):
            raise ValueError(
                f"fills={config.fills!r} gives a term what the teachers leave of the weight 1, and in the view "
                f"{config.action_view!r} their weights always sum to 1. Set action_view='box' (or 'subset', "
                "'discrete'; agent.action_view in the main job), or leave fills out."
            )
        check_by_row(config, "subset, simplex or box")

    def make_actions(self, config: EnvConfig, parts: Parts) -> TeacherWeightingActions:
        """The action model.

        Raises:
            ValueError: ``weighs`` names a term that is not there or has no teacher, or ``fills`` one that has one.
        """
        names, present = list(parts.term_names), parts.present
        weighed = np.zeros_like(present)
        for name in config.weighs:
            if name not in names:
                raise ValueError(unknown_name("knowledge term in weighs:", name, names))
            if not parts.reads_teacher[names.index(name)]:
                raise ValueError(f"weighs names {name!r}, which has no teacher to be weighed; name other terms.")
            weighed[:, names.index(name)] = True
        if config.fills is not None and config.fills not in names:
            raise ValueError(unknown_name("knowledge term in fills:", config.fills, names))
        fills = None if config.fills is None else names.index(config.fills)
        if fills is not None and parts.reads_teacher[fills]:
            untaught = [name for name, reads in zip(names, parts.reads_teacher, strict=True) if not reads]
            raise ValueError(
                f"fills names {config.fills!r}, which reads a teacher; name a term without one "
                f"({', '.join(untaught) or 'none is among the terms: add hard_label'})."
            )
        self._column, self._fills = names.index(config.weighs[0]), config.fills
        by_row = config.weighting == "sample"
        self.weights_per_row = len(parts.teacher_names) if by_row else 0
        if by_row:
            self.view_hints = VIEW_HINTS
        else:
            self.shared_refusal = ONE_A_BATCH
        rows = config.batch_size if by_row else None
        view, gate = config.action_view, config.gate
        return TeacherWeightingActions(parts.teacher_names, weighed, present, view, gate, rows, fills)

    @property
    def view_meaning(self) -> str | None:
        """The action view, of which the native one is the simplex, and what has the weight that is left."""
        view = "simplex" if self.view == "native" else self.view
        return f"{view}, {self._fills} has the rest" if self._fills else view

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """Effect of raw actions ``[N, ...]`` in any state; raises ``ValueError`` for values outside the space."""
        return self.actions.decode(actions)

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica that says these weights; see :meth:`TeacherWeightingActions.encode`."""
        return self.actions.encode(weights, gate)

    def effect(self, weights: Any) -> Effect:
        """The effect of exactly these teacher weights; see :meth:`TeacherWeightingActions.effect`."""
        return self.actions.effect(weights)

    def row_weights(self, weights: np.ndarray) -> np.ndarray:
        """Weights of the T teachers for each row, those of the first term that is weighed."""
        return weights[:, :, self._column]

    def teacher_weights(self, weights: np.ndarray) -> np.ndarray | None:
        """Weights of the teachers, those of the first term that is weighed."""
        return weights[:, :, self._column]

    def measures(self, problem: Problem, count: int) -> Sequence[Measure]:
        """How often rows follow the teacher that is best for them."""
        return (BestTeacherFollowed(problem.teacher_facts.loss, count),) if self.weights_per_row else ()
