"""From plain keywords to checked options, with the defaults of what is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.data.tasks import GLUE
from kd_env.decisions.catalog import DECISIONS, check_decision
from kd_env.mdp.observations.layout import FEATURES


def env_config(**options: Any) -> EnvConfig:
    """Checked options from the keywords of ``gymnasium.make``.

    Args:
        **options: fields of :class:`kd_env.config.environment.EnvConfig`; what is left out has the default of the
            decision.

    Raises:
        ValueError: an unknown key (with near matches), a value outside its range (with the range), or values that do
            not fit each other.
    """
    decision = options.get("decision", EnvConfig.decision)
    defaults = DECISIONS[str(decision)].defaults(options)
    if options.get("teacher_updates", "none") != "none":  # no fixed teacher's loss is there to count a gap down to
        defaults["reward"] = "loss_drop"
    if "features" not in options and _scores(options):
        defaults["features"] = tuple(n for n in defaults["features"] if not FEATURES[n].classification_only)
    config = EnvConfig.from_kwargs(**{**defaults, **options})
    check_decision(config)
    return config


def _scores(options: Mapping[str, Any]) -> bool:
    """Whether the task is one of scores, of which some default features say nothing."""
    task, columns = options.get("task"), options.get("columns")
    if task == "custom":
        return isinstance(columns, Mapping) and columns.get("kind") == "regression"
    return isinstance(task, str) and task in GLUE and GLUE[task].regression
