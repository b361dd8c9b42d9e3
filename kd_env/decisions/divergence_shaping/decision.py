"""How soft labels are compared: at which temperature, and with which mix of forward and reverse KL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.core.types import Floats
from kd_env.data.tasks import is_regression
from kd_env.decisions.base import BOX, DISCRETE, Decision, Measure, Parts
from kd_env.decisions.by_row import ONE_A_BATCH, VIEW_HINTS, check_by_row
from kd_env.decisions.divergence_shaping.actions import SHAPES, DivergenceShapingActions
from kd_env.decisions.divergence_shaping.measures import MeanGiven
from kd_env.knowledge import term_entries
from kd_env.knowledge.labels import REVERSE_SHARE, SOFT_TEMPERATURE
from kd_env.knowledge.options import TEMPERATURES
from kd_env.mdp.observations.base import View
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect

TERM = "soft_label"
_TITLES = {SOFT_TEMPERATURE: "soft temperature", REVERSE_SHARE: "share of reverse KL"}
ROW_FEATURES = (
    "progress",
    "remaining_budget",
    "gap",
    "row_student",
    "row_margin",
    "row_confidence",
    "row_teacher_losses",
    "row_teacher_entropies",
    "row_teacher_confidences",
    "row_teacher_student_agreement",
)
"""Default features with numbers of single rows: how right and how sure student and teacher are."""


def next_logits(problem: Problem, state: Callable[[], DistillState]) -> Callable[[], tuple[Floats, Floats]]:
    """What gives the student's logits ``[N, B, C]`` of the next batch in the present state, and the teachers' mean.

    One forward pass of the student at every call.
    """

    def read() -> tuple[Floats, Floats]:
        view = View(problem, state(), reads_cls=False)
        student, teachers = view.next_batch.student_logits, view.teacher_logits
        return np.asarray(student, dtype=np.float64), np.asarray(teachers, dtype=np.float64).mean(0)

    return read


class DivergenceShaping(Decision):
    """At every step the agent says how soft labels are compared (RLKD, CTKD, AKL, ARKD and their neighbours)."""

    name = "divergence_shaping"
    views = ((BOX, "native"), (DISCRETE, "discrete"), (BOX, "box"))
    options = frozenset({"weighting", "shapes", "temperature_range"})
    view_options = MappingProxyType({"gate": ("box",)})
    default_features = (
        "progress",
        "remaining_budget",
        "learning_rate",
        "gap",
        "term_losses",
        "student_entropy",
        "teacher_entropy",
        "agreement",
        "student_on_batch",
        "teacher_losses",
    )
    sets_weights = False
    temperatures = TEMPERATURES
    """Least and largest temperature of an effect; those of actions are within ``temperature_range``."""
    attributes = MappingProxyType({"next_logits": next_logits})

    actions: DivergenceShapingActions

    @classmethod
    def features_for(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Default features; those of rows where single rows have numbers of their own."""
        return ROW_FEATURES if options.get("weighting", "batch") == "sample" else cls.default_features

    @classmethod
    def defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults with hard and soft labels as terms, and one update a step where rows have numbers of their own."""
        by_row = {"updates_per_step": 1} if options.get("weighting", "batch") == "sample" else {}
        return {"terms": ("hard_label", TERM), **by_row, **super().defaults(options)}

    @classmethod
    def check(cls, config: EnvConfig) -> None:
        """Refuse what has no soft labels, what an action would overwrite, and what does not fit numbers of rows."""
        _check_shapes(config)
        if config.objective == "text" or is_regression(config.task, config.columns):
            raise ValueError(
                f"decision={cls.name!r} shapes soft labels of classes, which "
                f"{'masked text' if config.objective == 'text' else 'regression'} has not; choose a task of classes, "
                "or another decision."
            )
        _check_terms(config)
        check_by_row(config, "native or box")

    def make_actions(self, config: EnvConfig, parts: Parts) -> DivergenceShapingActions:
        """The action model."""
        self.given_names = tuple(name for name in SHAPES if name in config.shapes)
        self.gives_rows = config.weighting == "sample"
        self.weights_per_row = int(self.gives_rows)
        if self.gives_rows:
            self.view_hints = VIEW_HINTS
        else:
            self.shared_refusal = ONE_A_BATCH
        low, high = map(float, config.temperature_range)
        return DivergenceShapingActions(
            self.given_names,
            (low, high),
            parts.present,
            config.action_view,
            config.gate,
            config.batch_size if self.gives_rows else None,
        )

    @property
    def view_meaning(self) -> str | None:
        """The action view, and the temperatures of its ends where the action says one."""
        low, high = self.actions.limits
        warm = SOFT_TEMPERATURE in self.given_names
        return f"{self.view}, temperatures from {low:g} to {high:g}" if warm else self.view

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """Effect of raw actions ``[N, ...]`` in any state."""
        return self.actions.decode(actions)

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """Raw action of one replica for values by name; see :meth:`DivergenceShapingActions.encode`."""
        return self.actions.encode(weights, gate)

    def effect(self, weights: Any) -> Effect:
        """The effect of exactly these values by name; see :meth:`DivergenceShapingActions.effect`."""
        return self.actions.effect(weights)

    def measures(self, problem: Problem, count: int) -> Sequence[Measure]:
        """The means of what actions say."""
        bounds = {SOFT_TEMPERATURE: TEMPERATURES, REVERSE_SHARE: (0.0, 1.0)}
        return [MeanGiven(name, _TITLES[name], bounds[name]) for name in self.given_names]


def _check_shapes(config: EnvConfig) -> None:
    for name in config.shapes:
        if name not in SHAPES:
            raise ValueError(f"shapes={list(config.shapes)!r} names {name!r}; valid: {', '.join(SHAPES)}.")
    if len(set(config.shapes)) < len(config.shapes):
        raise ValueError(f"shapes={list(config.shapes)!r} names one twice; name each of {', '.join(SHAPES)} once.")
    usual = EnvConfig.temperature_range
    if SOFT_TEMPERATURE not in config.shapes and tuple(config.temperature_range) != tuple(usual):
        raise ValueError(
            f"temperature_range={list(config.temperature_range)!r} is never read, since shapes={list(config.shapes)!r} "
            f"has no temperature; leave it out, or add {SOFT_TEMPERATURE} to shapes."
        )


def _check_terms(config: EnvConfig) -> None:
    entries = [entry for entry in term_entries(config.terms) if entry.kind == TERM]
    if not entries:
        raise ValueError(
            f"decision='divergence_shaping' shapes the knowledge term {TERM!r}, and terms={list(config.terms)!r} has "
            "none: no action would change anything. Add it to terms."
        )
    said = {"temperature": SOFT_TEMPERATURE, "kind": REVERSE_SHARE}
    for entry in entries:
        for option, shape in said.items():
            if option in entry.options and shape in config.shapes:
                raise ValueError(
                    f"{entry.name}.{option}={entry.options[option]!r} is never read, since the action says it "
                    f"({shape} is among shapes); leave it out, or take {shape} out of shapes."
                )
