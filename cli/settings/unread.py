"""Options that are given and that nothing reads: refused where they are put together, since presets may bring them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def refuse_unread(given: Iterable[str], c: Mapping[Any, Any]) -> None:
    """Refuse options of the environment that neither its action view nor any feature, score or rule reads.

    Args:
        given: dotted keys of the command line.
        c: the configuration that they are part of.

    Raises:
        ValueError: the option, and what would read it.
    """
    keys = {key.replace("/", ".") for key in given}
    if not any(key.startswith("env.") for key in keys):
        return
    import gymnasium

    import kd_env  # noqa: F401 - registers the environments
    from kd_env.decisions.catalog import DECISIONS

    spec = gymnasium.registry.get(c["env"]["id"]) if isinstance(c["env"]["id"], str) else None
    decision = spec.kwargs.get("decision") if spec else None
    if decision is None:  # an unknown id, refused later
        return
    view = c["env"]["action_view"]
    for name, views in DECISIONS[decision].view_options.items():
        if f"env.{name}" in keys and isinstance(view, str) and view not in views:
            readers = " or ".join(f"env.action_view={reader}" for reader in views)
            remedy = f"only {readers} does; leave it out, or change the view" if views else "leave it out"
            raise ValueError(f"env.{name} is given, but with env.action_view={view} nothing reads it: {remedy}.")
    if any(key.startswith("env.influence.") or key == "env.influence" for key in keys) and not _asks_influence(c):
        raise ValueError(
            "env.influence is given, but nothing asks for the influence of rows: neither env.features (row_influence), "
            "env.score=influence nor a rule (lgtm). Leave it out, or name one of them."
        )


def _asks_influence(c: Mapping[Any, Any]) -> bool:
    from agents.rules.catalog import RULES, rule_class
    from kd_env.decisions.sample_weighting.scores import SCORES
    from kd_env.mdp.observations.layout import FEATURES

    features, rules = c["env"].get("features"), c["evaluation"]["rules"]
    # auto: all rules that fit, lgtm among them. A teacher that learns may be steered by influence.
    if rules == "auto" or c["env"].get("teacher_updates", "none") != "none":
        return True
    given = rules if isinstance(rules, list) else []
    names = [rule.get("name") if isinstance(rule, Mapping) else rule for rule in given] + [c["agent"]["name"]]
    if any(name in RULES and rule_class(name).asks_influence for name in names):
        return True
    named = features if isinstance(features, list) else []
    score = c["env"].get("score")
    return any(name in FEATURES and FEATURES[name].reads_influence for name in named) or (
        score in SCORES and SCORES[score].reads_influence
    )
