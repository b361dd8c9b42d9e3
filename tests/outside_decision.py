"""A decision of another distribution, in one file: at every step the agent chooses the temperature of the soft labels.

Nothing of kd-env names it. It brings its decision, the knowledge term that its actions reach, two observation features,
a rule, and what reports show of it; ``ENTRY_POINTS`` is what its distribution declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from agents.rules.base import Rule
from kd_env.config.environment import EnvConfig
from kd_env.core.types import Signal
from kd_env.decisions.base import BOX, Decision, Measure, Parts
from kd_env.knowledge import Term, TermInputs, TermSpec
from kd_env.mdp.observations.base import Feature, View
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect

ENTRY_POINTS = """
[kd_env.decisions]
label_temperature = outside_decision:LabelTemperature
[kd_env.terms]
tempered_label = outside_decision:tempered_label
[kd_env.features]
label_temperature = outside_decision:LAST_TEMPERATURE
teacher_student_distance = outside_decision:DISTANCE
[kd_env.rules]
cooling = outside_decision:Cooling
"""
LOWEST, HIGHEST = 0.5, 8.0


def tempered_label(spec: TermSpec) -> Term:
    """Soft labels at the temperature that the action gives."""

    def loss(inputs: TermInputs) -> Tensor:
        temperature = inputs.given["label_temperature"]
        student = log_softmax(inputs.student.logits / temperature, dim=-1)
        teacher = softmax(inputs.taught.logits / temperature, dim=-1)
        return temperature**2 * kl_div(student, teacher, reduction="none").sum(-1)

    logits = frozenset({Signal("logits")})
    return Term("tempered_label", loss, logits, logits, {})


class _Actions(NamedTuple):
    space: spaces.Space[Any]
    action_names: tuple[str, ...]


class MeanTemperature(Measure):
    name, title, bounds = "mean_label_temperature", "mean temperature", (LOWEST, HIGHEST)

    def __init__(self) -> None:
        self._steps: list[NDArray[Any]] = []

    def add(self, info: Mapping[str, NDArray[Any]], running: NDArray[np.bool_]) -> None:
        self._steps.append(np.where(running, info["label_temperature"], np.nan))

    def values(self) -> NDArray[np.float64]:
        return np.asarray(np.nanmean(self._steps, axis=0))


class LabelTemperature(Decision):
    name = "label_temperature"
    views = ((BOX, "native"),)
    default_features = ("progress", "label_temperature", "teacher_student_distance", "gap")
    given_names = ("label_temperature",)

    @classmethod
    def defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"terms": ("hard_label", "tempered_label"), **super().defaults(options)}

    def make_actions(self, config: EnvConfig, parts: Parts) -> _Actions:
        if "tempered_label" not in parts.term_names:
            raise ValueError("decision='label_temperature' needs the knowledge term 'tempered_label'; add it to terms.")
        return _Actions(spaces.Box(-1.0, 1.0, (1,), np.float32), ("temperature",))

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        shares = (np.asarray(actions, dtype=np.float64).reshape(len(state.seeds)) + 1.0) / 2.0
        table = np.broadcast_to(self.parts.present[None, :, :, None], (len(shares), *self.parts.present.shape, 1))
        ones = np.ones(len(shares), np.float32)
        given = {"label_temperature": LOWEST * (HIGHEST / LOWEST) ** shares}
        return Effect(table.astype(np.float32), ones, given=given)

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        share = np.log(float(weights) / LOWEST) / np.log(HIGHEST / LOWEST)
        return np.array([2.0 * share - 1.0], np.float32).clip(-1.0, 1.0)

    def measures(self, problem: Problem, count: int) -> Sequence[Measure]:
        return (MeanTemperature(),)


def _last_temperature(view: View) -> np.ndarray:
    return view.state.given["label_temperature"][:, None]


def _distance(view: View) -> np.ndarray:
    return 1.0 - view.state.agreement[:, None]


LAST_TEMPERATURE = Feature(lambda _: (1,), _last_temperature, high=HIGHEST)
DISTANCE = Feature(lambda _: (1,), _distance)


class Cooling(Rule):
    """From the highest temperature down to 1 in the course of an episode."""

    name = "cooling"
    decision = "label_temperature"
    views = ("native",)
    needs_features = ("progress",)

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        progress = self.progress(observations)
        return np.stack([self.base.decision.encode(HIGHEST ** (1.0 - p)) for p in progress]), None
