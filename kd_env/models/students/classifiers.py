"""Students of a task: classifiers, or encoders with one score."""

from __future__ import annotations

from typing import Any

import torch

from kd_env.config.student import StudentConfig
from kd_env.data.tasks import Task
from kd_env.models.architecture import classifier_kind
from kd_env.models.checks import check_vocabulary
from kd_env.models.encoder import Encoder
from kd_env.models.layermap import cut_layers
from kd_env.models.library.padding import settle_padding
from kd_env.models.pooling import PooledClassifier
from kd_env.models.pretrained import load_encoder, load_tokenizer
from kd_env.models.students.cut import cut_encoder
from kd_env.models.students.embeddings import fill_embeddings
from kd_env.models.students.fresh import fresh_student
from kd_env.models.students.frozen import freeze


def build_student(
    options: StudentConfig,
    teacher: Encoder | None,
    tokenizer: Any,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
    offset: float = 0.0,
) -> tuple[Encoder, Any]:
    """The student's template and its tokenizer: that of the first teacher, or a pre-trained student's own.

    ``teacher`` is None where none of them is an encoder, and ``offset`` the bias with which the student's head begins.

    Raises:
        ValueError: no encoder to be made from, sizes that the architecture does not take, layers that do not exist, a
            pooling that is not there, or blocks that cannot be frozen.
    """
    if teacher is None and options.init != "pretrained":
        raise ValueError(
            f"student.init={options.init!r} takes architecture and vocabulary from a teacher, and none of the teachers "
            "is an encoder: they only give answers. Set student.init=pretrained and student.name_or_path=<folder or "
            "hub name of an encoder>, or name an encoder among the teachers."
        )
    if options.init == "fresh":
        assert teacher is not None
        module = fresh_student(options, teacher.module.config, classifier_kind, task.num_labels)
        fresh = fill_embeddings(options, module, teacher.module)
    else:
        if options.init == "teacher":
            assert teacher is not None
            source_module = teacher.module
            if options.pooling is not None and not isinstance(source_module, PooledClassifier):
                raise ValueError(
                    f"student.pooling={options.pooling!r} is for a student cut from a member of a co-fine-tuned set, "
                    f"but the teacher is a {type(source_module).__name__}; leave it out."
                )
        else:
            assert options.name_or_path is not None
            source_module = load_encoder(options.name_or_path, num_labels=task.num_labels)
            tokenizer = load_tokenizer(options.name_or_path)
            settle_padding(tokenizer, source_module, options.name_or_path)
            check_vocabulary(tokenizer, source_module, options.name_or_path)
        depth = int(source_module.config.num_hidden_layers)
        count = options.num_hidden_layers
        if count is None and isinstance(options.layers, str):
            if options.init == "teacher":
                raise ValueError("student.init='teacher' needs student.num_hidden_layers, or explicit student.layers.")
            count = depth
        layers = cut_layers(options.layers, count, depth)
        module = cut_encoder(
            source_module,
            layers,
            num_labels=task.num_labels,
            dropout=options.dropout,
            keep_pooling=options.pooling != "library",
        )
        fresh = "head"
    module.config.problem_type = "regression" if task.regression else "single_label_classification"
    if task.labels:
        module.config.id2label = dict(enumerate(task.labels))
        module.config.label2id = {label: index for index, label in enumerate(task.labels)}
    student = Encoder.build(
        module.to(device, dtype),
        train_embeddings=options.trains_embeddings,
        fresh=fresh,
        zero_head=options.zero_head,
        offset=offset,
    )
    return freeze(student, options.trainable), tokenizer
