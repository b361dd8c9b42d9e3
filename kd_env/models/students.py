"""Students as their options describe them: fresh, cut from another encoder's blocks, or pre-trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_env.config.student import StudentConfig
from kd_env.data.tasks import Task
from kd_env.models.architecture import (
    classifier_kind,
    fresh_encoder,
    new_encoder,
    resized,
    set_dropout,
    token_classifier_kind,
)
from kd_env.models.checks import check_vocabulary
from kd_env.models.encoder import Encoder
from kd_env.models.layermap import cut_layers
from kd_env.models.masked_lm import MaskedLM
from kd_env.models.pooling import AttentionPooling, PooledClassifier
from kd_env.models.pretrained import load_encoder, load_tokenizer

_AS_IN_BERT = (
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps"),
    *("hidden_act", "initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob"),
)
"""What an ELECTRA takes over from a BERT, whose encoder and ids it shares; sizes are named by the options."""


def fresh_student(options: StudentConfig, source: Any, head: Callable[[Any], type], num_labels: int) -> Any:
    """The student that options with ``init=fresh`` describe.

    Args:
        options: of the student.
        source: configuration of the teacher, which gives architecture and vocabulary.
        head: :func:`classifier_kind` or :func:`token_classifier_kind`.
        num_labels: size of the head.

    Raises:
        ValueError: as :func:`fresh_encoder` and :func:`with_embedding_size`, or heads that do not divide the width.
    """
    if options.hidden_size % options.num_attention_heads:
        raise ValueError(
            f"student.hidden_size={options.hidden_size} is not divisible by "
            f"student.num_attention_heads={options.num_attention_heads}."
        )
    sizes = {
        "num_hidden_layers": options.num_hidden_layers or 1,
        "hidden_size": options.hidden_size,
        "num_attention_heads": options.num_attention_heads,
        "intermediate_size": options.intermediate_size or 4 * options.hidden_size,
    }
    if options.embedding_size is not None:
        source = with_embedding_size(source, options.embedding_size)
        sizes["embedding_size"] = options.embedding_size
    return fresh_encoder(head(source), source, sizes, num_labels=num_labels, dropout=options.dropout)


def with_embedding_size(source: Any, embedding_size: int) -> Any:
    """A configuration whose word embeddings have a width of their own, and a map to the hidden width.

    A family that has ``embedding_size`` (ELECTRA, ALBERT and their kin) is kept; a BERT becomes an ELECTRA (Clark et
    al., ICLR 2020), which is the same encoder with that map behind its embeddings.

    Raises:
        ValueError: another family, whose position or segment ids mean something else to an ELECTRA, or are missing.
    """
    from transformers import BertConfig, ElectraConfig

    known = source.to_dict()
    if "embedding_size" not in known:
        # Exactly BERT: RoBERTa and its kin have all these names too, but count positions from the padding id on.
        if source.model_type != BertConfig.model_type:
            raise ValueError(
                f"student.embedding_size={embedding_size} is for students of a BERT (which are then ELECTRA) and of "
                f"families that have an embedding_size, such as ELECTRA and ALBERT; the teacher's "
                f"{type(source).__name__} has none, and its position or segment ids are not BERT's. Set "
                "student.embedding_size=null, or take a teacher of these families."
            )
        source = ElectraConfig(**{name: known[name] for name in _AS_IN_BERT})
    return type(source).from_dict({**source.to_dict(), "embedding_size": embedding_size})


def cut_encoder(
    source: Any,
    layers: tuple[int, ...],
    *,
    num_labels: int,
    dropout: float,
    kind: type | None = None,
    keep_pooling: bool = False,
) -> Any:
    """A new classifier with the named blocks (from 1) of ``source`` and its embeddings and pooler.

    It is of the class ``kind``, where given, of the same architecture as ``source``. Its prediction layer is new, so
    that it can be drawn afresh for every episode. From a pooled classifier comes the library's sequence classifier with
    the encoder's blocks alone, or with ``keep_pooling`` a pooled one in the encoder's width, whose pooling is new, too
    (MT-BERT: "own pooling and prediction").

    Raises:
        ValueError: blocks have to be left out, but the architecture has no one list of them.
    """
    origin = source
    if kind is None:
        kind = type(source)
    if isinstance(source, PooledClassifier):
        kind, origin = classifier_kind(source.config), source.encoder
    depth = int(source.config.num_hidden_layers)
    # ALBERT shares one block: where all are kept there is nothing to choose from, nothing to rename.
    all_layers = layers == tuple(range(1, depth + 1))
    blocks = "" if all_layers else layer_list(origin, depth) + "."
    config = resized(kind, source.config, {} if all_layers else {"num_hidden_layers": len(layers)}, "student.")
    config.num_labels = num_labels
    set_dropout(config, dropout)
    student = new_encoder(kind, config)
    receiver = student if origin is source else student.base_model
    wanted = {f"{blocks}{layer - 1}.": f"{blocks}{place}." for place, layer in enumerate(layers)}
    target = receiver.state_dict()
    for name, tensor in origin.state_dict().items():
        new_name: str | None = name
        if blocks and name.startswith(blocks):
            old_prefix = next((prefix for prefix in wanted if name.startswith(prefix)), None)
            new_name = None if old_prefix is None else wanted[old_prefix] + name[len(old_prefix) :]
        if new_name in target and target[new_name].shape == tensor.shape:
            target[new_name] = tensor
    receiver.load_state_dict(target)
    return _pooled(student.base_model, num_labels) if keep_pooling and origin is not source else student


def _pooled(encoder: Any, num_labels: int) -> PooledClassifier:
    """The encoder under attention pooling and a prediction layer of its own; values are drawn later, by seed."""
    if getattr(encoder, "pooler", None) is not None:  # of [CLS]: nothing would read it, but its weights would decay
        encoder.pooler = None
    width = int(encoder.config.hidden_size)
    with torch.random.fork_rng(devices=[]):
        return PooledClassifier(encoder, AttentionPooling(width), nn.Linear(width, num_labels)).eval()


def layer_list(model: nn.Module, num_layers: int) -> str:
    """Dotted name of the module list that holds the encoder's blocks.

    Raises:
        ValueError: there is none, or more than one, of that length.
    """
    block_lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    outer = [name for name in block_lists if not any(name.startswith(above + ".") for above in block_lists)]
    if len(outer) != 1:
        raise ValueError(
            f"{type(model).__name__} does not have one list of {num_layers} blocks (found {outer or 'none'}); cut "
            "students need such an encoder: use a fresh student, or a pre-trained one with all its layers."
        )
    return str(outer[0])


def build_student(
    options: StudentConfig,
    teacher: Encoder,
    tokenizer: Any,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
    offset: float = 0.0,
) -> tuple[Encoder, Any]:
    """The student's template and its tokenizer: that of the first teacher, or a pre-trained student's own.

    ``offset`` is the bias with which its head begins.

    Raises:
        ValueError: sizes that the architecture does not take, layers that do not exist, or a pooling that is not there.
    """
    trains = options.train_embeddings
    if options.init == "fresh":
        module = fresh_student(options, teacher.module.config, classifier_kind, task.num_labels)
        trains = True if trains is None else trains
        fresh = "all"
    else:
        if options.init == "teacher":
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
        trains, fresh = bool(trains), "head"
    module.config.problem_type = "regression" if task.regression else "single_label_classification"
    if task.labels:
        module.config.id2label = dict(enumerate(task.labels))
        module.config.label2id = {label: index for index, label in enumerate(task.labels)}
    return Encoder.build(
        module.to(device, dtype), train_embeddings=trains, fresh=fresh, zero_head=options.zero_head, offset=offset
    ), tokenizer


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
        ValueError: sizes that the architecture does not take, or layers that do not exist.
    """
    source = teacher.module
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
    if head == "mlm":
        _give_mlm_head(module)
    train_padding(module)
    return Encoder.build(module.to(device, dtype), train_embeddings=trains, fresh=fresh)


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
