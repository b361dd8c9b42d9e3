"""Fresh students: the teacher's architecture and vocabulary in sizes of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd_env.config.student import StudentConfig
from kd_env.models.architecture import fresh_encoder

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
