"""Options of an objective: defaults that go with masked text, and what has no meaning there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kd_env.config.environment import EnvConfig
from kd_env.mdp.objectives.catalog import OBJECTIVES
from kd_env.mdp.observations.base import FEATURES
from kd_env.mdp.rewards import BATCH_REWARDS
from kd_env.teachers.catalog import TEACHER_SOURCES

TEXT_TERMS = ("plausibility", "hidden_states", "attention")
_NOT_FOR_TEXT = (
    *("feedback_labels", "label_noise", "train_on", "columns", "gap", "teacher_updates"),
    *("language_model", "cache_dir", "cache_dtype", "teacher_check"),
)
_FOR_TEXT = ("text", "column", "packing", "student_head")
_FOR_SLOTS = ("masking", "mask_rate", "slots")


_SCORED_VIEWS = ("discrete", "box")


def objective_defaults(
    options: Mapping[str, Any], features: tuple[str, ...], of_decision: frozenset[str]
) -> dict[str, Any]:
    """Defaults that the objective changes.

    Args:
        options: that are given.
        features: default ones of the decision.
        of_decision: names of the options that are for the decision alone.
    """
    if options.get("objective") != "text":
        return {}
    changed: dict[str, Any] = {"terms": TEXT_TERMS, "teacher_source": "online"}
    if "weighs" in of_decision:
        changed["weighs"] = ("plausibility",)
    readable = tuple(name for name in features if name not in FEATURES or not FEATURES[name].labels_only)
    per_row = any(FEATURES[name].per_row for name in readable if name in FEATURES)
    return {**changed, "features": (*readable, "row_edit") if per_row else readable}


def with_heads(student: Any) -> Any:
    """Options of a fresh student with as many attention heads as the packaged language model, unless sizes are given.

    Text is distilled with a term that compares attention head with head.
    """
    if isinstance(student, Mapping) and student.get("init", "fresh") == "fresh" and "hidden_size" not in student:
        return {"num_attention_heads": 4, **student}
    return student


def with_score(options: Mapping[str, Any], of_decision: frozenset[str]) -> dict[str, Any]:
    """Options of masked text with a score that reads it, in the views that rank rows; the usual one reads labels."""
    usual = options.get("score", EnvConfig.score) == EnvConfig.score
    if usual and "score" in of_decision and options.get("action_view") in _SCORED_VIEWS:
        return {**options, "score": "edit_error"}
    return dict(options)


def check_objective(config: EnvConfig, writes_tokens: bool) -> None:
    """Raise ``ValueError`` for options that have no meaning under the objective, with the remedy."""
    for registry, name in ((OBJECTIVES, config.objective), (TEACHER_SOURCES, config.teacher_source)):
        registry[name]  # raises for one that does not exist
    if config.student_config.cache_frozen and (writes_tokens or config.objective == "text"):
        raise ValueError(
            "student.cache_frozen=True keeps what frozen layers say about rows as they are, and here they are edited "
            "at every update; set student.cache_frozen=false."
        )
    if config.objective != "text":
        usual = {field.name: field.default for field in dataclasses.fields(EnvConfig)}
        names = _FOR_TEXT if writes_tokens else (*_FOR_TEXT, *_FOR_SLOTS, "language_model")
        for name in names:
            if getattr(config, name) != usual[name]:
                raise ValueError(
                    f"{name}={getattr(config, name)!r} is for masked text, and objective='labels' has the rows of "
                    f"task={config.task!r}; leave it out, or set objective='text'."
                )
        for name in config.features:
            if name in FEATURES and FEATURES[name].text_only:
                raise ValueError(
                    f"The feature {name!r} reads masked text, and objective='labels' has none; leave it out, or set "
                    "objective='text'."
                )
        return
    _check_text(config)


def _check_text(config: EnvConfig) -> None:
    usual = {field.name: field.default for field in dataclasses.fields(EnvConfig)}
    if config.packing and config.cache_dir is None:
        raise ValueError("packing=True keeps packed texts on the disk; give cache_dir=<folder>, or set packing=false.")
    for name in _NOT_FOR_TEXT:
        if name == "cache_dir" and config.packing:
            continue
        if name in usual and getattr(config, name) != usual[name]:
            raise ValueError(
                f"{name}={getattr(config, name)!r} is about labels of a task or outputs that are kept, and "
                "objective='text' has neither: the text is masked anew at every update. Leave it out, or set "
                "objective='labels'."
            )
    if config.teacher_source != "online":
        raise ValueError(
            f"teacher_source={config.teacher_source!r} has no place with objective='text': every text is edited, so "
            "that no output of the teacher can be cached; leave it out (the teacher runs online)."
        )
    student = config.student_config
    if student.init == "pretrained":
        raise ValueError("student.init='pretrained' has no meaning here; use fresh, or teacher with its layers.")
    if student.zero_head:
        raise ValueError("student.zero_head=True is not supported here; leave it out.")
    if config.reward in BATCH_REWARDS:
        raise ValueError(
            f"reward={config.reward!r} reads labels of the batch, which objective='text' has not; use gap_closed or "
            "loss_drop."
        )
    for name in config.features:
        if name in FEATURES and FEATURES[name].labels_only:
            allowed = [other for other in FEATURES if not FEATURES[other].labels_only]
            raise ValueError(
                f"The feature {name!r} reads labels, or logits of whole rows, which objective='text' has not; leave "
                f"it out. Valid there: {', '.join(allowed)}."
            )
