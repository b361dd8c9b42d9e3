"""kd-env: knowledge distillation of language models as Gymnasium environments.

Importing the package registers the environments; everything heavy is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from kd_env.config.environment import EnvConfig as EnvConfig
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
}
__all__ = ["DistillEnv", "DistillVectorEnv", "EnvConfig", "Problem", "__version__", "build_problem"]

for _name, _decision in (
    ("KnowledgeSelection", "knowledge_selection"),
    ("TeacherWeighting", "teacher_weighting"),
    ("SampleWeighting", "sample_weighting"),
):
    for _suffix, _view in (("", "native"), ("Discrete", "discrete"), ("Continuous", "box")):
        register(
            id=f"kd_env/{_name}{_suffix}-v0",
            entry_point="kd_env.envs.env:DistillEnv",
            vector_entry_point="kd_env.envs.vector:DistillVectorEnv",
            kwargs={"decision": _decision, **({} if _view == "native" else {"action_view": _view})},
        )
for _suffix, _view in (("", "native"), ("Discrete", "discrete"), ("Continuous", "box")):
    register(
        id=f"kd_env/TutorToken{_suffix}-v0",
        entry_point="kd_env.envs.tutor_env:TutorEnv",
        vector_entry_point="kd_env.envs.tutor_env:TutorVectorEnv",
        kwargs={} if _view == "native" else {"action_view": _view},
    )


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kd_env' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
