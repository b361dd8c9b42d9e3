"""From plain keywords to checked options, with the defaults of what is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.data.tasks import is_regression
from kd_env.decisions.catalog import DECISIONS, check_decision
from kd_env.mdp.observations.layout import FEATURES


def env_config(**options: Any) -> EnvConfig:
    """Checked options from the keywords of ``gymnasium.make``.

    Args:
        **options: fields of :class:`kd_env.config.environment.EnvConfig`; what is left out has the default of the
            decision, features those of them that have a meaning for the task.

    Raises:
        ValueError: an unknown key (with near matches), a value outside its range (with the range), or values that do
            not fit each other.
    """
    decision = options.get("decision", EnvConfig.decision)
    defaults = {**DECISIONS[str(decision)].defaults(options), "features": default_features(str(decision), options)}
    if options.get("teacher_updates", "none") != "none":  # no fixed teacher's loss is there to count a gap down to
        defaults["reward"] = "loss_drop"
    config = EnvConfig.from_kwargs(**{**defaults, **options})
    check_decision(config)
    return config


def default_features(decision: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The default features that have a meaning for the task: entropy and agreement have none in regression.

    Args:
        decision: by name.
        options: of the environment; ``task``, ``columns`` and ``weighting`` are read.
    """
    names = DECISIONS[decision].features_for(options)
    if not is_regression(options.get("task", EnvConfig.task), options.get("columns")):
        return names
    return tuple(name for name in names if not FEATURES[name].classification_only)
