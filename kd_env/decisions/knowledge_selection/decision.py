"""Which knowledge terms count, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.decisions.base import BOX, DISCRETE, MULTI_BINARY, MULTI_DISCRETE, Decision, Parts
from kd_env.decisions.knowledge_selection.actions import KnowledgeSelectionActions
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect


class KnowledgeSelection(Decision):
    """At every step the agent says how much each knowledge term counts (KS; Wang et al. 2022)."""

    name = "knowledge_selection"
    views = ((MULTI_BINARY, "native"), (BOX, "box"), (DISCRETE, "discrete"), (MULTI_DISCRETE, "native"))
    view_options = MappingProxyType({"gate": ("box",)})
    default_features = (
        "progress",
        "remaining_budget",
        "learning_rate",
        "term_losses",
        "term_losses_normalized",
        "gap",
        "student_entropy",
        "teacher_entropy",
        "agreement",
        "feedback_metric",
        "previous_action",
    )
    # As many terms as there are rows would otherwise pass for one component a row.
    shared_refusal = "the env selects knowledge for the whole batch; make one that decides about each row."

    actions: KnowledgeSelectionActions

    def make_actions(self, config: EnvConfig, parts: Parts) -> KnowledgeSelectionActions:
        """The action model of the configured view."""
        return KnowledgeSelectionActions(parts.term_names, config.action_view, config.gate, parts.present)

    @property
    def view_meaning(self) -> str | None:
        """None, since each of its views has a space of its own."""
        return None

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """Effect of raw actions ``[N, ...]`` in any state; raises ``ValueError`` for values outside the space."""
        return self.actions.decode(actions)

    def encode(self, weights: Mapping[str, float], gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica that says these weights; see :meth:`KnowledgeSelectionActions.encode`."""
        return self.actions.encode(weights, gate)
