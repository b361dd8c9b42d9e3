"""Decisions by name. Other distributions add theirs with an entry point in the group ``kd_env.decisions``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.core import checks
from kd_env.core.registry import Registry
from kd_env.decisions.base import Decision, Parts
from kd_env.decisions.divergence_shaping.decision import DivergenceShaping
from kd_env.decisions.ids import GROUP, register_id
from kd_env.decisions.knowledge_selection.decision import KnowledgeSelection
from kd_env.decisions.sample_weighting.decision import SampleWeighting
from kd_env.decisions.teacher_weighting.decision import TeacherWeighting
from kd_env.decisions.tutor_token.decision import TutorToken
from kd_files.plugins import subclass_of


class Decisions(Registry[type[Decision]]):
    """Decisions by name; each that is registered has an environment id, too."""

    def register(self, name: str) -> Callable[[type[Decision]], type[Decision]]:
        """As in :class:`kd_env.core.registry.Registry`."""
        register_id(name)
        return super().register(name)


DECISIONS = Decisions("decision", GROUP, subclass_of(Decision))
for _kind in (KnowledgeSelection, TeacherWeighting, SampleWeighting, DivergenceShaping, TutorToken):
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
    for name, value in unread_in_view(config, config.action_view).items():
        views = " or ".join(repr(view) for view in kind.view_options[name])
        remedy = f"only action_view={views} does; leave it out, or change the view" if views else "leave it out"
        raise ValueError(
            f"Nothing reads {name}={value!r} in action_view={config.action_view!r} of decision={config.decision!r}: "
            f"{remedy}."
        )
    kind.check(config)


def unread_in_view(config: EnvConfig, view: str) -> dict[str, Any]:
    """The options that are not as by default, and that this view of the decision does not read."""
    readers = DECISIONS[config.decision].view_options
    values = {name: getattr(config, name) for name, views in readers.items() if view not in views}
    return {name: value for name, value in values.items() if value != getattr(EnvConfig, name)}


def in_view(config: EnvConfig, view: str) -> EnvConfig:
    """The options with another action view, and without what that view does not read."""
    defaults = {name: getattr(EnvConfig, name) for name in unread_in_view(config, view)}
    return dataclasses.replace(config, action_view=view, **defaults)
