"""Students in Hugging Face layout, and the record that lets one teach in turn."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kd_env.models.encoder import Encoder
from kd_env.models.pooling import PooledClassifier, save_pooled

if TYPE_CHECKING:
    from kd_env.mdp.problem import Problem

STEERED = "train, steered by feedback"
"""What a student saw whose distillation was steered by what feedback rows say: as a teacher of the same split it is
refused, like one that was trained on them."""


def write_student(student: Encoder, params: Mapping[str, Tensor], tokenizer: Any, folder: str | Path) -> Path:
    """Write a student that ``AutoModelForSequenceClassification.from_pretrained`` reads; projections are left out.

    One with attention pooling is written as members of co-fine-tuned sets are: ``kd_env.models.encoder.load_encoder`` reads it.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    state = student.module.state_dict()
    state.update({name: params[name] for name in student.trainable})
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if isinstance(student.module, PooledClassifier):
            save_pooled(student.module, temporary, state)
        else:
            student.module.save_pretrained(
                temporary, state_dict={name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            )
        tokenizer.save_pretrained(temporary)
        if target.exists():
            target.rmdir()
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


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
    from kd_env.finetuning.model import load_classifier, quiet_transformers
    from kd_env.finetuning.store import chained, source_record

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
