"""Students of masked text: encoders with one scalar a token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_env.config.student import StudentConfig
from kd_env.models.architecture import token_classifier_kind
from kd_env.models.encoder import Encoder
from kd_env.models.layermap import cut_layers
from kd_env.models.masked_lm import MaskedLM
from kd_env.models.students.cut import cut_encoder
from kd_env.models.students.embeddings import fill_embeddings
from kd_env.models.students.fresh import fresh_student
from kd_env.models.students.frozen import freeze


class MlmHead(nn.Module):
    """Dense, GELU, LayerNorm, linear: one scalar a token, ``[..., H] -> [..., 1]`` (Tutor-KD's released code).

    Args:
        width: H.
        eps: of the LayerNorm.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        # None of the names that the library's classifiers have, which would take them over into a head of their own.
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)
        self.score = nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """The scalars."""
        scores: Tensor = self.score(self.norm(F.gelu(self.transform(hidden))))
        return scores


def build_token_student(
    options: StudentConfig, head: str, teacher: MaskedLM, device: torch.device, dtype: torch.dtype
) -> Encoder:
    """The student's template: an encoder with one scalar a token.

    Args:
        options: of the student.
        head: ``linear`` or ``mlm``, see :class:`MlmHead`.
        teacher: gives architecture and vocabulary, and the layers of a cut student.
        device: of the run.
        dtype: floating type of the run.

    Raises:
        ValueError: sizes that the architecture does not take, or layers that do not exist or cannot be frozen.
    """
    source = teacher.module
    if options.init == "fresh":
        module = fresh_student(options, source.config, token_classifier_kind, 1)
        fresh = fill_embeddings(options, module, source)
    else:
        depth, count = int(source.config.num_hidden_layers), options.num_hidden_layers
        if count is None and isinstance(options.layers, str):
            raise ValueError("student.init='teacher' needs student.num_hidden_layers, or explicit student.layers.")
        kept = cut_layers(options.layers, count, depth)
        module = cut_encoder(
            source, kept, num_labels=1, dropout=options.dropout, kind=token_classifier_kind(source.config)
        )
        fresh = "head"
    if head == "mlm":
        _give_mlm_head(module)
    train_padding(module)
    student = Encoder.build(module.to(device, dtype), train_embeddings=options.trains_embeddings, fresh=fresh)
    return freeze(student, options.trainable)


def train_padding(module: nn.Module) -> None:
    """Let the vector of the padding token learn like all others, where any token may be written into a text.

    With an index of its own its vector (RoBERTa: its position's) would get a gradient in stacked students and none in
    single ones.
    """
    for table in module.modules():
        if isinstance(table, nn.Embedding):
            table.padding_idx = None


def _give_mlm_head(module: Any) -> None:
    """Put :class:`MlmHead` in the place of the library's linear classifier and of the dropout before it."""
    if not isinstance(getattr(module, "classifier", None), nn.Linear):
        raise ValueError(
            f"A {type(module).__name__} has no linear layer 'classifier' that student_head='mlm' could take the place "
            "of; use student_head='linear', or a teacher such as BERT."
        )
    with torch.random.fork_rng(devices=[]):  # values are drawn later, by seed; the template's are in fingerprints
        torch.manual_seed(0)
        module.classifier = MlmHead(module.config.hidden_size, float(getattr(module.config, "layer_norm_eps", 1e-12)))
    module.dropout = nn.Identity()
