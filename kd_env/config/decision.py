"""What the agent decides, sees and how it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_env.config.influence import InfluenceConfig
from kd_env.core import checks
from kd_env.core.plain import Plain


@dataclass(frozen=True)
class DecisionSection:
    """What the agent decides, sees and how it acts."""

    decision: str = "knowledge_selection"
    """What the agent decides: ``knowledge_selection`` (how the knowledge terms count), ``teacher_weighting`` (how the
    teachers count), ``sample_weighting`` (how the rows of a batch count) or ``divergence_shaping`` (how soft labels are
    compared). The registered ids set it."""
    weighting: str = "batch"
    """What one weight holds for: ``batch`` (a whole step) or ``sample`` (one row of it). ``teacher_weighting`` and
    ``divergence_shaping`` take both, ``sample_weighting`` only ``sample``, its default."""
    shapes: Sequence[str] = ("soft_temperature", "reverse_share")
    """``divergence_shaping`` only. What the action says of soft labels: their temperature, the share of the reverse KL
    beside the forward one, or both."""
    temperature_range: Sequence[float] = (0.5, 8.0)
    """``divergence_shaping`` only. Least and largest temperature of actions; with these two an action of 0 is 2, the
    usual temperature of ``soft_label``."""
    weighs: Sequence[str] = ("soft_label",)
    """``teacher_weighting`` only. Names of the terms that the action weighs; the others keep weight 1."""
    fills: str | None = None
    """``teacher_weighting`` only, not in the ``native`` and ``simplex`` view. A term without a teacher (hard labels)
    that has the weight that the teachers leave: 1 minus the sum of theirs, at least 0. None: all others keep 1."""
    score: str = "student_loss"
    """``sample_weighting`` only. What ranks rows in its discrete and box view, by name
    (:mod:`kd_env.decisions.sample_weighting.scores`)."""
    recipe: str = "modified"
    """``tutor_token`` only. ``paper`` gives what is left out the values published for Tutor-KD
    (:mod:`kd_env.decisions.tutor_token.options`)."""
    mode: str = "joint"
    """``tutor_token`` only. ``joint``: one action fills every slot (the paper). ``sequential``: one slot of all rows a
    step; later choices see earlier ones, and the student is updated when the last is filled."""
    teacher_every: int = 1
    """``tutor_token`` with ``mode=sequential``: slots that are filled between two passes of the teacher over the text
    so far. 1 shows every choice to the next one; P costs one pass, as ``joint`` does."""
    num_candidates: int = 10
    """``tutor_token`` only. The teacher's most likely tokens of a slot that are listed."""
    observation: str = "dict"
    """``tutor_token`` only. ``dict``: everything, arrays by name. ``flat``: the numbers among it as one 1-D box, for
    agents that know no other (the teacher's hidden states and probabilities, valid slots and progress; no ids)."""
    features: Sequence[str] = ()
    """Observation features by name; unless others are named, those of the decision that have a meaning for the task."""
    influence: Plain | InfluenceConfig = field(default_factory=InfluenceConfig)
    """How the influence of rows is found, where a feature, a score or a rule asks for it."""
    action_view: str = "native"
    """``native``, ``discrete`` or ``box``; of teachers also ``simplex`` (native) and ``subset``, of rows ``subset``."""
    gate: bool = True
    """Box view of terms and teachers only: one more component that skips or scales the update."""


def _features(name: str, value: Any) -> None:
    if value != ():  # a decision may have an observation of its own
        checks.names("progress")(name, value)


def _temperatures(name: str, value: Any) -> None:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(checks.is_number, value))
    if not pair or not 0.05 <= value[0] < value[1] <= 100.0:  # those of the knowledge term soft_label
        checks.refuse(name, value, "two temperatures from 0.05 to 100, the lower one first, for example [0.5, 8.0]")


CHECKS: dict[str, checks.Check] = {
    "decision": checks.text,
    "weighting": checks.one_of("batch", "sample"),
    "weighs": checks.names("soft_label"),
    "shapes": checks.names("soft_temperature"),
    "temperature_range": _temperatures,
    "fills": checks.optional(checks.text),
    "score": checks.text,
    "recipe": checks.text,
    "mode": checks.one_of("joint", "sequential"),
    "teacher_every": checks.whole(1),
    "num_candidates": checks.whole(2),
    "observation": checks.one_of("dict", "flat"),
    "features": _features,
    "action_view": checks.text,
    "gate": checks.boolean,
}
