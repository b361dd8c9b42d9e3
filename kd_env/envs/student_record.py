"""What a saved student's record says of the environment that trained it."""

from __future__ import annotations

from typing import Any

from kd_env.mdp.problem import Problem

STEERED = "train, steered by feedback"
"""What a student saw whose distillation was steered by what feedback rows say: as a teacher of the same split it is
refused, like one that was trained on them."""


def student_record(problem: Problem, *, policy: str, seed: int, steered: bool) -> dict[str, Any]:
    """The record of a distilled student, so that its provenance is known where it is a teacher (an assistant).

    TAKD (Mirzadeh et al., AAAI 2020) distils an assistant of a size in between first, which then teaches. It is as
    clean as its own training and as all teachers and pre-trained weights that it comes from.

    Args:
        problem: that it was distilled in.
        policy: name of what decided.
        seed: of the episode.
        steered: whether feedback rows had a say in the decisions: a policy that was trained on their rewards, or one
            that observes them.
    """
    from kd_env.finetuning.store import chained, source_record
    from kd_env.models.loading import load_classifier, quiet_transformers

    config, cut = problem.config, problem.splits
    sources = [source_record(teacher.folder, had_head=True) for teacher in problem.teachers]
    start = config.student_config.name_or_path
    if start is not None:
        with quiet_transformers():
            had_head = load_classifier(start, problem.task, None, 0).had_head
        sources.append(source_record(start, had_head))
    return {
        "task": problem.task.name,
        "labels": list(problem.task.labels),
        "trained_on": STEERED if steered else config.train_on,
        "fingerprint": cut.fingerprint,
        "content_hash": cut.content_hash,
        "source": chained(sources),
        "split_seed": config.split_seed,
        "feedback_rows": len(cut.feedback),
        "selection_rows": len(cut.selection),
        "train_rows": len(cut.train),
        "distilled": {
            "policy": policy,
            "seed": seed,
            "budget": config.budget,
            "teachers": {teacher.name: teacher.folder for teacher in problem.teachers},
        },
    }
