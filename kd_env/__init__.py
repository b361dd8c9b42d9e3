"""kd-env: knowledge distillation of language models as Gymnasium environments.

Importing the package registers the environments; everything heavy is imported where it is used.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from kd_env.config.environment import EnvConfig as EnvConfig
    from kd_env.decisions.options import env_config as env_config
    from kd_env.envs import DistillEnv as DistillEnv
    from kd_env.envs import DistillVectorEnv as DistillVectorEnv
    from kd_env.envs.build import build_problem as build_problem
    from kd_env.mdp.problem import Problem as Problem

__version__ = "0.1.0"
_LAZY = {
    "EnvConfig": "kd_env.config.environment",
    "DistillEnv": "kd_env.envs",
    "DistillVectorEnv": "kd_env.envs",
    "Problem": "kd_env.mdp.problem",
    "build_problem": "kd_env.envs.build",
    "env_config": "kd_env.decisions.options",
}
__all__ = ["DistillEnv", "DistillVectorEnv", "EnvConfig", "Problem", "__version__", "build_problem", "env_config"]

_VIEWS = (("", "native"), ("Discrete", "discrete"), ("Continuous", "box"))
_DECISIONS = ("knowledge_selection", "teacher_weighting", "sample_weighting", "tutor_token")
_OWN_CLASS = {name: f"kd_env.envs.environments:{name.title().replace('_', '')}Env" for name in _DECISIONS}
# Those of other distributions have ids, too, and are imported where one is made.
for _decision in dict.fromkeys([*_DECISIONS, *(point.name for point in entry_points(group="kd_env.decisions"))]):
    for _suffix, _view in _VIEWS if _decision in _DECISIONS else _VIEWS[:1]:
        register(
            id=f"kd_env/{_decision.title().replace('_', '')}{_suffix}-v0",
            entry_point=_OWN_CLASS.get(_decision, "kd_env.envs.env:DistillEnv"),
            vector_entry_point="kd_env.envs.vector:DistillVectorEnv",
            kwargs={"decision": _decision, **({} if _view == "native" else {"action_view": _view})},
        )


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kd_env' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
