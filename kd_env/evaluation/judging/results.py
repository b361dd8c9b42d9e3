"""What an evaluation finds out: scores of the students of every policy, on the selection split and on dev rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats

SELECTION = "selection"
"""Name of the selection split among the splits of an evaluation; dev splits have their official names."""


@dataclass(frozen=True)
class SplitScores:
    """N students on one split, every field ``[N]`` unless noted."""

    metrics: dict[str, Floats]
    loss: Floats
    """``e`` of the problem: cross-entropy in nats (with ``gap=calibrated`` after the student's temperature), squared
    error over the squared label range, or with ``gap=divergence`` the KL from the teacher; a diverged student has
    ``e_reset + D``."""
    gap_closed: Floats
    """``(e_reset - e_end) / D`` with ``D = max(e_reset - e_T, 0.05 e_reset)``; a diverged student has -1."""
    floored: NDArray[np.bool_]
    """Where the floor of D is active: read the loss there, not the gap."""
    raw_loss: Floats | None
    """Against gold labels and without the student's temperature, whatever ``gap`` is; a diverged student has its raw
    ``e_reset + D``. None where it is not measured."""
    raw_gap_closed: Floats | None
    """Gap closed in the raw loss, down to the calibrated teacher's: the size of a student's logits counts, too."""
    calibration_error: Floats | None
    """Expected calibration error of the student as it is, without its temperature (Guo et al. 2017), in [0, 1]; None in
    regression."""
    predictions: NDArray[Any] | None
    """``[N, R]`` class indices or scores; None where they are not kept."""
    reliability: Floats | None = None
    """``[N, 3, 15]``: rows, summed confidence and right rows in bins of confidence, of the student as it is; None in
    regression."""
    gap_size: Floats | None = None
    """``D`` of each student; None in what was judged by a version that did not keep it."""


@dataclass(frozen=True)
class TaughtBeside:
    """The teachers that learned beside the N students of a policy."""

    metrics: dict[str, dict[str, Floats]]
    """By split and metric, ``[N]``: of the teacher at the end of the episode."""
    over_time: dict[str, Floats]
    """``teacher_loss``, ``teacher_influence_ratio`` and ``teacher_influence_cosine`` of every step, ``[steps, N]``; NaN
    after a replica's end."""


@dataclass(frozen=True)
class Measured:
    """A number of a decision (:class:`kd_env.decisions.base.Measure`) that reports show of every policy."""

    name: str
    title: str
    bounds: tuple[float, float]
    values: Floats  # [N]


@dataclass(frozen=True)
class PolicyResult:
    """What one policy did to the students of every seed."""

    name: str
    learned: bool
    extra_labels: bool
    """Whether it trained on feedback rows too."""
    action_view: str
    splits: dict[str, SplitScores]
    temperature: Floats  # [N] of the students, fitted on feedback rows; 1 where the gap is not calibrated
    returns: Floats  # [N]
    diverged: NDArray[np.bool_]  # [N]
    weights: Floats  # [steps, N, K] applied weight of each term, 0 in skipped steps, NaN after a replica's end
    update_scale: Floats  # [steps, N] factor on the update, 0 in skipped steps, NaN after the end
    chooses: bool = True
    """False for a rule that treats everything alike or goes by chance."""
    bound: bool = False
    """Whether it saw a truth that no policy can know: neither comparator nor rival."""
    intervention: str = ""
    """What was done to a learned policy."""
    of: str = ""
    """Name of that policy."""
    measures: tuple[Measured, ...] = ()
    """What the decision measures beside."""
    taught: TaughtBeside | None = None
    """Where the teacher learns: what became of it."""
    traces: Mapping[str, Floats] = field(default_factory=dict)
    """What reports show over the course of a distillation, by title, each ``[updates, N]``; NaN after a replica's
    end."""

    @property
    def rule(self) -> bool:
        """Whether it is a policy that learned nothing, with what agents know: one that they have to beat."""
        return not (self.learned or self.bound or self.intervention)

    term_losses: Floats | None = None
    """``[steps, N, K]``: loss of each term before its weight, a mean over the updates of a step; NaN in steps without
    an update and after a replica's end. None where it is not recorded."""

    @property
    def mean_weights(self) -> Floats:
        """Mean weight of each term over steps and seeds, ``[K]``."""
        return np.asarray(np.nanmean(self.weights, axis=(0, 1)))

    @property
    def weights_over_time(self) -> Floats:
        """Mean over the replicas that are still running, ``[steps, K]``."""
        return np.asarray(np.nanmean(self.weights, axis=1))


@dataclass(frozen=True)
class Evaluation:
    """All policies on the same seeds."""

    facts: dict[str, Any]
    seeds: tuple[int, ...]
    term_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    dev_splits: tuple[str, ...]
    regression: bool
    policies: dict[str, PolicyResult]
    comparator: str | None
    """The rule that is best on the selection split; None without rules."""
    teacher: dict[str, dict[str, float]] = field(default_factory=dict)
    """By split: the metrics of the reference teacher and its calibrated ``loss``; empty where the teacher learns."""
    labels: dict[str, NDArray[Any]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    """Names of the classes of ``labels``; none in regression."""
    joint: bool = False
    """Whether the one student of each learned policy is that beside which it learned; then ``seeds`` are those of the
    trainings."""

    @property
    def measures(self) -> dict[str, tuple[str, tuple[float, float]]]:
        """Title and bounds of everything that decisions measured, by name."""
        return {
            measured.name: (measured.title, measured.bounds) for p in self.policies.values() for measured in p.measures
        }

    @property
    def floored(self) -> bool:
        """Whether the floor of D was active on a dev split: then losses are reported in place of gaps."""
        return any(bool(p.splits[s].floored.any()) for p in self.policies.values() for s in self.dev_splits)


def plain_result(result: PolicyResult) -> dict[str, Any]:
    """A result as JSON knows it, for :func:`result_of`; without teachers that learn."""
    values: dict[str, Any] = _plain(asdict(replace(result, taught=None)))
    return values


def result_of(values: Mapping[str, Any]) -> PolicyResult:
    """What :func:`plain_result` gave; raises ``KeyError``, ``TypeError`` or their like for values of another form."""
    measures = tuple(
        Measured(m["name"], m["title"], tuple(m["bounds"]), np.array(m["values"])) for m in values["measures"]
    )
    return PolicyResult(
        **{name: values[name] for name in ("name", "learned", "extra_labels", "action_view", "chooses")},
        **{name: values[name] for name in ("bound", "intervention", "of") if name in values},
        splits={split: SplitScores(**_arrays(scores)) for split, scores in values["splits"].items()},
        temperature=np.array(values["temperature"]),
        returns=np.array(values["returns"]),
        update_scale=np.array(values["update_scale"]),
        diverged=np.array(values["diverged"], dtype=bool),
        weights=_three_axes(values["weights"], values["returns"]),
        measures=measures,
        traces={title: np.array(trace, dtype=np.float64) for title, trace in values["traces"].items()},
        term_losses=None if values["term_losses"] is None else _three_axes(values["term_losses"], values["returns"]),
    )


def _three_axes(values: Any, students: Any) -> Floats:
    """``[steps, N, K]``; lists of no terms have lost their last axis."""
    found = np.array(values, dtype=np.float64)
    return found if found.ndim == 3 else np.ones((len(found), len(students), 0))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _arrays(each) for key, each in value.items()}
    return None if value is None else np.array(value)
