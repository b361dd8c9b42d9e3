"""From plain keywords to checked options, with the defaults of what is decided."""

from __future__ import annotations

from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.decisions.catalog import DECISIONS, check_decision


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
    config = EnvConfig.from_kwargs(**{**defaults, **options})
    check_decision(config)
    return config
