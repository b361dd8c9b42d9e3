"""The decision process of a problem: every name is resolved once, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.core.types import Signal
from kd_env.decisions.base import Parts
from kd_env.decisions.catalog import DECISIONS, check_decision, in_view, make_decision
from kd_env.decisions.options import env_config
from kd_env.decisions.sample_weighting import scores
from kd_env.knowledge import TermSpec, build_terms, check_term_values, term_entries
from kd_env.mdp import rewards
from kd_env.mdp.assets import Assets
from kd_env.mdp.influence.rows import check_influence
from kd_env.mdp.objectives.catalog import OBJECTIVES
from kd_env.mdp.objectives.samples import check_sample
from kd_env.mdp.observations import layout
from kd_env.mdp.observations.base import Feature
from kd_env.mdp.problem import Problem, Process
from kd_env.models import encoder
from kd_env.models.layermap import layer_pairs
from kd_env.teachers.teacher_set import Teacher, entry_name

PROCESS_OPTIONS = frozenset(
    {
        "decision",
        "weighting",
        "weighs",
        "fills",
        "shapes",
        "temperature_range",
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
        "micro_batch_size",
        "evaluate_every",
        "evaluation_sample",
        "sample_paired",
        "sample_steps",
        "optimizer",
        "learning_rate",
        "term_scale",
        "weight_normalization",
        "max_episode_steps",
        "render_mode",
    }
)
"""Options that do not touch data, teacher outputs or student, and that :func:`with_options` may change."""
EDIT_OPTIONS = frozenset(
    {
        *("terms", "losses", "layer_map", "layer_reduction", "projection"),
        *("mode", "teacher_every", "observation", "num_candidates"),
    }
)
"""Options that may change, too, where batches are edited, so that no output of the teacher is kept."""


def make_problem(assets: Assets, config: EnvConfig) -> Problem:
    """A problem of parts that are loaded, with the decision process of the options.

    Raises:
        ValueError: names that do not exist, and options that do not fit each other or the parts.
    """
    features = check_names(config, assets.task.regression)
    _check_masked(config, assets)
    if assets.reader is not None:
        assets = with_terms(assets, config)
    terms, teachers = assets.reference_teacher.terms, assets.teachers
    if any(feature.needs_cls for feature in features.values()):
        _require_cls(assets, [name for name, feature in features.items() if feature.needs_cls])
    if config.objective != "text":
        check_influence(config, len(assets.feedback), reads_influence(config, features))
    if config.teacher_learns:
        _refuse_shared(assets.student, assets.reference_teacher.encoder)
    parts = Parts(
        tuple(term.name for term in terms),
        tuple(teacher.name for teacher in teachers),
        tuple(term.uses_teacher for term in terms),
        None if assets.reader is None else (assets.reader.slots, assets.reader.model.facts.vocab_size),
    )
    decision = make_decision(config, parts)
    objective = OBJECTIVES[config.objective]
    problem = Problem(assets, config, Process(rewards.REWARDS[config.reward], decision, objective, features))
    check_sample(config, problem.feedback, problem.calibrates)
    return problem


def with_terms(assets: Assets, config: EnvConfig) -> Assets:
    """The parts with the knowledge terms of these options, which read no output that was kept."""
    teachers = []
    for teacher in assets.teachers:
        facts = teacher.encoder.facts
        pairs = layer_pairs(config.layer_map, assets.student.facts.num_layers, facts.num_layers)
        spec = TermSpec(assets.student.facts, facts, pairs, regression=False, text=config.objective == "text")
        teachers.append(dataclasses.replace(teacher, pairs=pairs, terms=build_terms(config.terms, spec)))
    return assets._replace(teachers=tuple(teachers), projections=projection_shapes(teachers))


def projection_shapes(teachers: Sequence[Teacher]) -> dict[str, tuple[int, int]]:
    """Shapes of the trainable maps of all terms, by the names of their parameters."""
    return {
        f"projections.{entry_name(term.name, teacher.name, len(teachers))}.{name}": shape
        for teacher in teachers
        for term in teacher.terms
        for name, shape in term.projections.items()
    }


def check_names(config: EnvConfig, regression: bool) -> dict[str, Feature]:
    """Resolve everything in the options that is said by name, before data or models are read; the features.

    Args:
        config: the options.
        regression: kind of the task.

    Raises:
        ValueError: a name that does not exist (with near matches), or one without meaning here.
    """
    check_decision(config)
    if regression and DECISIONS[config.decision].writes_tokens:
        raise ValueError(
            f"task={config.task!r} has scores, and the tutor is rewarded for the teacher's confidence in a label; use "
            "a task of classes, or objective='text' for pre-training distillation."
        )
    check_term_values(config.terms, regression, text=config.objective == "text")
    check_term_weights(config)
    rewards.REWARDS[config.reward]  # raises for a name that does not exist
    _check_scores(config)
    if config.action_view in DECISIONS[config.decision].view_options.get("score", ()):
        scores.resolve(config.score, regression, "text" if config.objective == "text" else "labels")
    return layout.resolve(config.features, regression, len(config.terms), by_row=config.weighting == "sample")


def reads_influence(config: EnvConfig, features: Mapping[str, Feature]) -> bool:
    """Whether the score or a feature reads the influence of rows."""
    return scores.SCORES[config.score].reads_influence or any(f.reads_influence for f in features.values())


def with_options(problem: Problem, **options: Any) -> Problem:
    """The problem with another decision process on its data, teachers and student.

    Raises:
        ValueError: an option that needs a new problem (``PROCESS_OPTIONS`` lists those that do not), or a bad value.
    """
    changeable = PROCESS_OPTIONS | (frozenset() if problem.assets.reader is None else EDIT_OPTIONS)
    for name in options:
        if name not in changeable:
            raise ValueError(
                f"The option {name!r} needs another problem: build one with build_problem. Changeable here: "
                f"{', '.join(sorted(changeable))}."
            )
    config = problem.config
    if isinstance(options.get("action_view"), str):
        config = in_view(config, options["action_view"])
    for name, present in (("optimizer", config.optimizer_config), ("influence", config.influence_config)):
        if isinstance(options.get(name), Mapping):  # the options that are not named stay as they are
            options[name] = {**dataclasses.asdict(present), **options[name]}
    return make_problem(problem.assets, env_config(**{**_shallow(config), **options}))


def _check_masked(config: EnvConfig, assets: Assets) -> None:
    """Refuse a decision about parts that were not made for it: kept outputs are of rows as they are."""
    if config.objective != "text" and DECISIONS[config.decision].writes_tokens != (assets.reader is not None):
        was = (
            "the rows of this one are masked and read" if assets.reader is not None else "nobody reads masked rows here"
        )
        raise ValueError(
            f"decision={config.decision!r} needs another problem, since {was}; build one with build_problem."
        )


def _check_scores(config: EnvConfig) -> None:
    """Refuse a reward of what another decision measures."""
    names, kind = rewards.scores_of(rewards.REWARDS[config.reward]), DECISIONS[config.decision]
    if set(names) - set(kind.score_names):
        able = [other for other in DECISIONS if set(names) <= set(DECISIONS[other].score_names)]
        raise ValueError(
            f"reward={config.reward!r} is of decision={' or '.join(map(repr, able))}; with decision="
            f"{config.decision!r} use gap_closed, loss_drop or another one."
        )


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
