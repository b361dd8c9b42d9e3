"""Action models by the name of the decision that they express."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_env.config.environment import EnvConfig
from kd_env.core.registry import unknown_name
from kd_env.decisions.knowledge_selection.actions import KnowledgeSelectionActions
from kd_env.decisions.sample_weighting.actions import SampleWeightingActions
from kd_env.decisions.teacher_weighting.actions import TeacherWeightingActions
from kd_env.mdp.problem import present_entries

Actions = KnowledgeSelectionActions | TeacherWeightingActions | SampleWeightingActions


def make_actions(
    config: EnvConfig, term_names: Sequence[str], teacher_names: Sequence[str], taught: Sequence[bool]
) -> Actions:
    """The action model of ``config.decision``.

    Args:
        config: options of the environment.
        term_names: the K terms.
        teacher_names: the T teachers.
        taught: which of the terms read a teacher; the others stand in row 0 of the loss table only.

    Raises:
        ValueError: ``weighs`` names a term that is not there, or one without a teacher.
    """
    present = present_entries(len(teacher_names), taught)
    if config.decision == "knowledge_selection":
        return KnowledgeSelectionActions(tuple(term_names), config.action_view, config.gate, present)
    if config.decision == "sample_weighting":
        return SampleWeightingActions(
            config.batch_size, present, config.action_view, config.score, config.teacher_updates
        )
    weighed = np.zeros_like(present)
    for name in config.weighs:
        if name not in term_names:
            raise ValueError(unknown_name("knowledge term in weighs:", name, term_names))
        column = list(term_names).index(name)
        if not taught[column]:
            raise ValueError(f"weighs names {name!r}, which has no teacher to be weighed; name other terms.")
        weighed[:, column] = True
    rows = config.batch_size if config.weighting == "sample" else None
    return TeacherWeightingActions(tuple(teacher_names), weighed, present, config.action_view, config.gate, rows)
