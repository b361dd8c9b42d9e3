"""Students in Hugging Face layout, and the record that lets one teach in turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_env.models.encoder import Encoder
from kd_env.models.pooling import PooledClassifier, save_pooled
from kd_files.writing import new_folder


def write_student(student: Encoder, params: Mapping[str, Tensor], tokenizer: Any, folder: str | Path) -> Path:
    """Write a student that ``AutoModelForSequenceClassification.from_pretrained`` reads; projections are left out.

    One with attention pooling is written as members of co-fine-tuned sets are:
    :func:`kd_env.models.pretrained.load_encoder` reads it.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; choose another folder.")
    state = student.module.state_dict()
    state.update({name: params[name] for name in student.trainable})
    with new_folder(target) as fresh:
        if isinstance(student.module, PooledClassifier):
            save_pooled(student.module, fresh, state)
        else:
            student.module.save_pretrained(
                fresh, state_dict={name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            )
        tokenizer.save_pretrained(fresh)
    return target
