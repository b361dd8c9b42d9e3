"""What the policy of a training does to its students, between two reports of the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.decisions.base import Decision, Measure
from kd_env.mdp.problem import Problem

RIGHT_ROWS = "right_rows_auc"
"""Of the measure that knows which train labels are wrong: below 0.5 the policy has turned round."""


class Diagnosis:
    """Collects, of the steps with which an agent learns, what reports show of finished policies.

    These are the mean weight of every entry of the loss table as ``weight_<entry>`` (of a term, and of each teacher for
    it; 0 where no update was made), the share of steps without an update as ``skipped``, and the measures of the
    decision by name: with wrong labels in train the AUC of right rows, where rows are weighed. Train rows and feedback
    rows alone are asked. Actions are those of the training, with all that the agent tries out.

    Args:
        problem: of the training.
        count: N students.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        decision = problem.decision
        assert isinstance(decision, Decision)
        self._problem, self._decision, self._count = problem, decision, count
        self._begin()

    def _begin(self) -> None:
        self._weights: list[NDArray[np.float64]] = []
        self._skipped: list[float] = []
        self._measures: Sequence[Measure] = [
            measure for measure in self._decision.measures(self._problem, self._count) if not measure.of_a_part
        ]

    def add(self, infos: Mapping[str, Any]) -> None:
        """Take ``info`` of one step; of replicas whose episode ended in it what stands under ``final_info`` counts."""
        info = _before_reset(infos)
        moved = ~info["skipped"].astype(bool)
        self._skipped.append(float(np.mean(~moved)))
        if self._decision.sets_weights:
            self._weights.append(np.where(moved[:, None], info["weights"], 0.0).mean(axis=0))
        everyone = np.ones(self._count, dtype=bool)
        for measure in self._measures:
            measure.add(info, everyone)

    def take(self) -> dict[str, float]:
        """Means over steps and students since the last call; empty where no step was made."""
        if not self._skipped:
            return {}
        found = {"skipped": float(np.mean(self._skipped))}
        if self._weights:
            means = np.mean(self._weights, axis=0)
            names = (f"weight_{name}" for name in self._problem.entry_names)
            found |= {name: float(mean) for name, mean in zip(names, means, strict=True)}
        found |= {measure.name: float(np.mean(measure.values())) for measure in self._measures}
        self._begin()
        return {name: value for name, value in found.items() if np.isfinite(value)}


def words(point: Mapping[str, float]) -> str:
    """The part of a progress line that tells early where a policy goes: right rows, soft labels, or few weights."""
    if RIGHT_ROWS in point:
        return f"AUC of right rows {point[RIGHT_ROWS]:.2f}"
    if "followed" in point:
        return f"best teacher followed {point['followed']:.2f}"
    shaped = [f"{words} {point[name]:.2f}" for name, words in _SHAPED.items() if name in point]
    if shaped:
        return "mean " + ", ".join(shaped)
    weights = {name.removeprefix("weight_"): value for name, value in point.items() if name.startswith("weight_")}
    named = {name: value for name, value in weights.items() if not name.isdigit()}  # numbers are an agent's own
    if not named or len(named) > _SHOWN:
        return ""
    return "weights " + " ".join(f"{name} {value:.2f}" for name, value in named.items())


_SHAPED = {"mean_soft_temperature": "soft temperature", "mean_reverse_share": "share of reverse KL"}
_SHOWN = 4
"""Weights that a progress line has room for; the log has all."""


def _before_reset(infos: Mapping[str, Any]) -> dict[str, Any]:
    if "final_info" not in infos:
        return dict(infos)
    ended, final = np.asarray(infos["_final_info"], dtype=bool), infos["final_info"]
    return {
        key: np.where(ended.reshape(-1, *(1,) * (value.ndim - 1)), final[key], value)
        for key, value in infos.items()
        if isinstance(value, np.ndarray) and value.dtype != object and key in final and not key.startswith("_")
    }
