"""Ids of environments: those of our decisions in three action views, of other distributions' in the native one.

Nothing heavy is imported here, and no plug-in: an id names what is imported where an environment is made.
"""

from __future__ import annotations

import warnings

from gymnasium import register, registry
from gymnasium.error import Error

from kd_files.plugins import plugin_names

GROUP = "kd_env.decisions"
"""Entry-point group of decisions."""
OWN = ("knowledge_selection", "teacher_weighting", "sample_weighting", "divergence_shaping", "tutor_token")
_VIEWS = (("", "native"), ("Discrete", "discrete"), ("Continuous", "box"))


def environment_id(decision: str, suffix: str = "") -> str:
    """``kd_env/KnowledgeSelection-v0`` of ``knowledge_selection``."""
    return f"kd_env/{decision.title().replace('_', '')}{suffix}-v0"


def register_ids() -> None:
    """Register the environments of every decision that is installed; one whose name fits no id is told of."""
    for decision in OWN:
        own_class = f"kd_env.envs.environments:{decision.title().replace('_', '')}Env"
        for suffix, view in _VIEWS:
            _register(environment_id(decision, suffix), decision, view, own_class)
    for decision in plugin_names(GROUP):
        try:
            register_id(decision)
        except Error as error:
            warnings.warn(f"The decision {decision!r} of a plug-in has no environment id: {error}", stacklevel=2)


def register_id(decision: str) -> None:
    """Register the environment of a decision of another distribution, once; raises gymnasium's ``Error``."""
    if environment_id(decision) not in registry:
        _register(environment_id(decision), decision, "native", "kd_env.envs.env:DistillEnv")


def _register(identity: str, decision: str, view: str, entry_point: str) -> None:
    register(
        id=identity,
        entry_point=entry_point,
        vector_entry_point="kd_env.envs.vector:DistillVectorEnv",
        kwargs={"decision": decision, **({} if view == "native" else {"action_view": view})},
    )
