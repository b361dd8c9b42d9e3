"""The decision process of a problem: every name is resolved once, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.core.registry import unknown_name
from kd_env.core.types import Signal
from kd_env.decisions.base import Parts
from kd_env.decisions.catalog import check_decision, in_view, make_decision
from kd_env.decisions.options import env_config
from kd_env.decisions.sample_weighting import scores
from kd_env.knowledge import check_term_values, term_entries
from kd_env.mdp import rewards
from kd_env.mdp.influence.rows import check_influence
from kd_env.mdp.observations import layout
from kd_env.mdp.observations.base import Feature
from kd_env.mdp.problem import Assets, Problem, Process
from kd_env.models import encoder

PROCESS_OPTIONS = frozenset(
    {
        "decision",
        "weighting",
        "weighs",
        "score",
        "features",
        "influence",
        "reward",
        "gap",
        "action_view",
        "gate",
        "updates_per_step",
        "budget",
        "batch_size",
        "evaluate_every",
        "optimizer",
        "learning_rate",
        "term_scale",
        "weight_normalization",
        "max_episode_steps",
        "render_mode",
    }
)
"""Options that do not touch data, teacher outputs or student, and that :func:`with_options` may change."""


def make_problem(assets: Assets, config: EnvConfig) -> Problem:
    """A problem of parts that are loaded, with the decision process of the options.

    Raises:
        ValueError: names that do not exist, and options that do not fit each other or the parts.
    """
    features = check_names(config, assets.task.regression)
    terms, teachers = assets.reference_teacher.terms, assets.teachers
    if any(feature.needs_cls for feature in features.values()):
        _require_cls(assets, [name for name, feature in features.items() if feature.needs_cls])
    check_influence(config, len(assets.feedback), reads_influence(config, features))
    if config.teacher_learns:
        _refuse_shared(assets.student, assets.reference_teacher.encoder)
    parts = Parts(
        tuple(term.name for term in terms),
        tuple(teacher.name for teacher in teachers),
        tuple(term.uses_teacher for term in terms),
    )
    decision = make_decision(config, parts)
    return Problem(assets, config, Process(rewards.REWARDS[config.reward], decision, features))


def check_names(config: EnvConfig, regression: bool) -> dict[str, Feature]:
    """Resolve everything in the options that is said by name, before data or models are read; the features.

    Args:
        config: the options.
        regression: kind of the task.

    Raises:
        ValueError: a name that does not exist (with near matches), or one without meaning here.
    """
    check_decision(config)
    check_term_values(config.terms, regression)
    check_term_weights(config)
    if config.reward not in rewards.REWARDS:
        raise ValueError(unknown_name("reward", config.reward, rewards.REWARDS))
    scores.resolve(config.score, regression)
    return layout.resolve(config.features, regression, len(config.terms), by_row=config.weighting == "sample")


def reads_influence(config: EnvConfig, features: Mapping[str, Feature]) -> bool:
    """Whether the score or a feature reads the influence of rows."""
    return scores.SCORES[config.score].reads_influence or any(f.reads_influence for f in features.values())


def with_options(problem: Problem, **options: Any) -> Problem:
    """The problem with another decision process on its data, teachers and student.

    Raises:
        ValueError: an option that needs a new problem (``PROCESS_OPTIONS`` lists those that do not), or a bad value.
    """
    for name in options:
        if name not in PROCESS_OPTIONS:
            raise ValueError(
                f"The option {name!r} needs another problem: build one with build_problem. Changeable here: "
                f"{', '.join(sorted(PROCESS_OPTIONS))}."
            )
    config = problem.config
    if isinstance(options.get("action_view"), str):
        config = in_view(config, options["action_view"])
    for name, present in (("optimizer", config.optimizer_config), ("influence", config.influence_config)):
        if isinstance(options.get(name), Mapping):  # the options that are not named stay as they are
            options[name] = {**dataclasses.asdict(present), **options[name]}
    return make_problem(problem.assets, env_config(**{**_shallow(config), **options}))


def _require_cls(assets: Assets, features: list[str]) -> None:
    for teacher in assets.teachers:
        if not teacher.source.provides(Signal("cls", teacher.source.facts.num_layers)):
            raise ValueError(
                f"The features {', '.join(features)} need the teacher's last [CLS], which this problem was not built "
                "with; name the feature when the problem is built."
            )


def check_term_weights(config: EnvConfig) -> None:
    """Refuse weights of terms that a running scale would divide out again.

    Raises:
        ValueError: with the term, and what it raises for terms that do not exist.
    """
    for entry in term_entries(config.terms):
        if entry.weight != 1 and config.term_scale == "running":
            raise ValueError(
                f"The weight {entry.weight:g} of the knowledge term {entry.name!r} would do nothing with "
                "term_scale='running', which divides each term by the running mean of its loss; set term_scale='none', "
                "or leave the weight out."
            )


def _refuse_shared(student: encoder.Encoder, teacher: encoder.Encoder) -> None:
    """Refuse a teacher that learns and has tensors in common with its student: which update would be whose?"""
    student_names = {student.module.get_parameter(name).data_ptr(): name for name in student.trainable}
    for name in teacher.trainable:
        student_name = student_names.get(teacher.module.get_parameter(name).data_ptr())
        if student_name is not None:
            raise ValueError(
                f"The teacher's {name!r} and the student's {student_name!r} are one tensor, and both learn; give the "
                "student tensors of its own (build_problem copies what it cuts from a teacher)."
            )


def _shallow(config: EnvConfig) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values.pop("learning_rate")
    return values
