"""The student of the tutor's environment: an encoder with one scalar a token."""

from __future__ import annotations

import torch
from torch import nn

from kd_env import models
from kd_env.layermap import cut_layers
from kd_env.mlm_model import MaskedLM
from kd_env.students import cut_encoder, fresh_student, token_classifier_kind
from kd_env.tutor.config import TutorConfig


def build_tutor_student(
    config: TutorConfig, teacher: MaskedLM, device: torch.device, dtype: torch.dtype
) -> models.Encoder:
    """The student's template: an encoder with one scalar a token.

    Raises:
        ValueError: sizes that the architecture does not take, or layers that do not exist.
    """
    options, source = config.student_config, teacher.module
    if options.init == "fresh":
        module = fresh_student(options, source.config, token_classifier_kind, 1)
        trains, fresh = options.train_embeddings is not False, "all"
    else:
        depth, count = int(source.config.num_hidden_layers), options.num_hidden_layers
        if count is None and isinstance(options.layers, str):
            raise ValueError("student.init='teacher' needs student.num_hidden_layers, or explicit student.layers.")
        kept = cut_layers(options.layers, count, depth)
        module = cut_encoder(
            source, kept, num_labels=1, dropout=options.dropout, kind=token_classifier_kind(source.config)
        )
        trains, fresh = bool(options.train_embeddings), "head"
    # A tutor may choose any token, the padding token too: with an index of its own its vector (RoBERTa: its position's)
    # would get a gradient in stacked students and none in single ones.
    for table in module.modules():
        if isinstance(table, nn.Embedding):
            table.padding_idx = None
    return models.Encoder.build(module.to(device, dtype), train_embeddings=trains, fresh=fresh)
