"""From plain keywords to checked options, with the defaults of what is decided."""

from __future__ import annotations

from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.decisions.catalog import DECISIONS, check_decision
from kd_env.decisions.objective import check_objective, objective_defaults, with_heads


def env_config(**options: Any) -> EnvConfig:
    """Checked options from the keywords of ``gymnasium.make``.

    Args:
        **options: fields of :class:`kd_env.config.environment.EnvConfig`; what is left out has the default of the
            decision.

    Raises:
        ValueError: an unknown key (with near matches), a value outside its range (with the range), or values that do
            not fit each other.
    """
    kind = DECISIONS[str(options.get("decision", EnvConfig.decision))]
    options = kind.options_for(options)
    defaults = kind.defaults(options)
    if not kind.writes_tokens:
        defaults |= objective_defaults(options, tuple(defaults.get("features", ())), kind.options)
    if options.get("teacher_updates", "none") != "none":  # no fixed teacher's loss is there to count a gap down to
        defaults["reward"] = "loss_drop"
    if kind.writes_tokens or options.get("objective") == "text":
        options = {**options, "student": with_heads(options.get("student", {}))}
    config = EnvConfig.from_kwargs(**{**defaults, **options})
    check_decision(config)
    check_objective(config, kind.writes_tokens)
    return config
