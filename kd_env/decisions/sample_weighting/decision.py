"""Which rows of a batch count, for the student or for a teacher that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.decisions.base import BOX, DISCRETE, MULTI_BINARY, Decision, Measure, Parts
from kd_env.decisions.sample_weighting.actions import SampleWeightingActions
from kd_env.decisions.sample_weighting.measures import RightRows, right_rows, wrong_rows
from kd_env.decisions.sample_weighting.scores import row_scores
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect


class SampleWeighting(Decision):
    """At every step the agent says how much each row of the next batch counts (LGTM and its neighbours)."""

    name = "sample_weighting"
    views = ((MULTI_BINARY, "subset"), (BOX, "box"), (DISCRETE, "discrete"), (BOX, "native"))
    options = frozenset({"weighting", "score"})
    view_options = MappingProxyType({"gate": (), "score": ("discrete", "box")})
    default_features = (
        "progress",
        "remaining_budget",
        "gap",
        "student_on_batch",
        "teacher_losses",
        "row_student",
        "row_margin",
        "row_confidence",
        "row_teacher_losses",
        "row_teacher_entropies",
        "row_teacher_confidences",
        "row_teacher_student_agreement",
        "row_length",
        "row_seen",
    )
    weighs_teacher_rows = True
    weights_per_row = 1
    attributes = MappingProxyType({"right_rows": right_rows})

    actions: SampleWeightingActions

    @classmethod
    def defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults with hard and soft labels as terms, one update a step and the drop of the loss as the reward."""
        by_row = {"weighting": "sample", "updates_per_step": 1, "reward": "loss_drop"}
        return {"terms": ("hard_label", "soft_label"), **by_row, **super().defaults(options)}

    @classmethod
    def check(cls, config: EnvConfig) -> None:
        """Refuse another weighting than that of rows, several updates a step, and weights that are normalised."""
        if config.weighting != "sample":
            raise ValueError(
                f"weighting={config.weighting!r} does not fit decision={cls.name!r}, which weighs single rows; set "
                "weighting='sample' or leave it out."
            )
        if config.updates_per_step != 1:
            raise ValueError(
                f"updates_per_step={config.updates_per_step} does not fit decision={cls.name!r}: the action weighs "
                "the rows of one batch. Set updates_per_step=1."
            )
        if config.weight_normalization != "none":
            raise ValueError(
                f"weight_normalization={config.weight_normalization!r} would undo decision={cls.name!r}: it makes "
                "the weights of all rows the same. Set weight_normalization='none'."
            )

    def make_actions(self, config: EnvConfig, parts: Parts) -> SampleWeightingActions:
        """The action model, with what its view lets no policy do."""
        actions = SampleWeightingActions(
            config.batch_size, parts.present, config.action_view, config.score, config.teacher_updates
        )
        if actions.ranks:  # with two rows a batch, the two controls would pass for one component a row
            self.shared_refusal = (
                f"the env's controls hold for the whole batch (action_view={config.action_view!r}); make it with "
                "action_view='native' or 'subset'."
            )
        else:
            self.constant_refusal = (
                "A constant weight for every row is the rule 'uniform': nothing can be searched there. Use "
                "action_view='box' or 'discrete' (agent.action_view=box in the main job), whose controls rank the rows "
                "by a score."
            )
        return actions

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """Effect of raw actions ``[N, ...]``; controls of a score rank the rows of the state's next batch."""
        return self.actions.decode(actions, row_scores(problem, state) if self.actions.ranks else None)

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica for these weights, without a gate; see :meth:`SampleWeightingActions.encode`."""
        return self.actions.encode(weights)

    def effect(self, weights: Any) -> Effect:
        """The effect of exactly these weights of rows; see :meth:`SampleWeightingActions.effect`."""
        return self.actions.effect(weights)

    def lesson(
        self, weights: Any, influence: float = 0.0, target: str = "student_loss", matched: bool = False
    ) -> Effect:
        """The effect of weights in a learning teacher's update; see :meth:`SampleWeightingActions.lesson`."""
        return self.actions.lesson(weights, influence, target, matched)

    def measures(self, problem: Problem, count: int) -> Sequence[Measure]:
        """How well weights tell wrong labels from right ones, where some are wrong."""
        wrong = wrong_rows(problem)
        return () if wrong is None else (RightRows(wrong, count),)
