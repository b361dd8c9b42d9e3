"""The tutor's environment: tokens are chosen for masked text, and a student learns on it."""

from kd_env.tutor.build import build_tutor_problem
from kd_env.tutor.config import TutorConfig
from kd_env.tutor.env import TutorEnv, TutorVectorEnv
from kd_env.tutor.problem import TutorProblem

__all__ = ["TutorConfig", "TutorEnv", "TutorProblem", "TutorVectorEnv", "build_tutor_problem"]
