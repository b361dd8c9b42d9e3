"""Decisions by name. Other distributions add theirs with an entry point in the group ``kd_env.decisions``."""

from __future__ import annotations

from kd_env.config.environment import EnvConfig
from kd_env.core import checks
from kd_env.core.registry import Registry
from kd_env.decisions.base import Decision, Parts
from kd_env.decisions.knowledge_selection.decision import KnowledgeSelection
from kd_env.decisions.sample_weighting.decision import SampleWeighting
from kd_env.decisions.teacher_weighting.decision import TeacherWeighting
from kd_env.decisions.tutor_token.decision import TutorToken

DECISIONS: Registry[type[Decision]] = Registry("decision", "kd_env.decisions")
for _kind in (KnowledgeSelection, TeacherWeighting, SampleWeighting, TutorToken):
    DECISIONS.register(_kind.name)(_kind)


def make_decision(config: EnvConfig, parts: Parts) -> Decision:
    """The decision of ``config.decision``; raises ``ValueError`` for options that do not fit the parts."""
    return DECISIONS[config.decision](config, parts)


def check_decision(config: EnvConfig) -> None:
    """Refuse options that do not fit the decision.

    Raises:
        ValueError: an unknown decision or action view, or an option that another decision has, with the remedy.
    """
    kind = DECISIONS[config.decision]
    checks.one_of(*kind.view_names())("action_view", config.action_view)
    for name in sorted({option for other in DECISIONS for option in DECISIONS[other].options}):
        value, default = getattr(config, name), getattr(EnvConfig, name)
        if name not in kind.options and value != default:
            owner = next(other for other in DECISIONS if name in DECISIONS[other].options)
            raise ValueError(
                f"{name}={value!r} is only for decision={owner!r} (env={owner} in the main job); leave it out or "
                "change the decision."
            )
    if config.teacher_updates == "weighted" and not kind.weighs_teacher_rows:
        able = [other for other in DECISIONS if DECISIONS[other].weighs_teacher_rows]
        raise ValueError(
            f"teacher_updates='weighted' lets the action weigh rows, which decision={config.decision!r} does not; use "
            f"decision={' or '.join(map(repr, able))}, or teacher_updates='prokt'."
        )
    if not config.features and kind.default_features:
        checks.names("progress")("features", config.features)
    kind.check(config)
