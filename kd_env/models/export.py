"""Students in Hugging Face layout, and the record that lets one teach in turn."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_env.models.encoder import Encoder
from kd_env.models.pooling import PooledClassifier, save_pooled


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
