"""The decision process of a tutored problem: every name is resolved once, and what does not fit is refused."""

from __future__ import annotations

from typing import Any

from kd_env.decisions.tutor_token import features
from kd_env.decisions.tutor_token.lessons import TaskLesson, TextLesson
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.problem import TutorAssets, TutorProblem

PROCESS_OPTIONS = frozenset(
    {
        *("mode", "teacher_every", "observation", "action_view", "num_candidates", "reward", "budget", "batch_size"),
        *("evaluate_every", "optimizer", "losses", "layer_map", "max_episode_steps", "render_mode"),
        *("layer_reduction", "projection"),
    }
)
"""Options that touch neither text nor models, and that :func:`with_tutor_options` may change."""


def make_tutor_problem(assets: TutorAssets, config: TutorConfig) -> TutorProblem:
    """A problem of parts that are loaded, with the decision process of the options.

    Raises:
        ValueError: options that do not fit the parts.
    """
    lesson = TextLesson(assets.teacher.facts) if assets.classifier is None else TaskLesson(assets.classifier)
    problem = TutorProblem(assets, config, lesson)
    problem.observation_space = features.space(problem)
    return problem


def with_tutor_options(problem: TutorProblem, **options: Any) -> TutorProblem:
    """The same text and models under other options of the decision process.

    Raises:
        ValueError: an option that needs other text or models.
    """
    for key in options:
        if key not in PROCESS_OPTIONS:
            raise ValueError(
                f"{key}={options[key]!r} cannot be changed for a shared problem; valid: "
                f"{', '.join(sorted(PROCESS_OPTIONS))}. Build another problem for it."
            )
    return make_tutor_problem(problem.assets, TutorConfig.from_kwargs(**{**problem.config.to_dict(), **options}))
