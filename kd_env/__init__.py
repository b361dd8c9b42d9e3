"""kd-env: knowledge distillation of language models as Gymnasium environments.

Importing the package registers the environments; everything heavy is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kd_env.decisions.ids import register_ids
from kd_env.renamed import understand_both_names

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

register_ids()
understand_both_names()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kd_env' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
