"""Distillation as Gymnasium environments: one student (:class:`DistillEnv`) or N in one process."""

from kd_env.envs.env import DistillEnv
from kd_env.envs.vector import DistillVectorEnv
from kd_env.envs.workers import choose_vectorization, make_vector

__all__ = ["DistillEnv", "DistillVectorEnv", "choose_vectorization", "make_vector"]
