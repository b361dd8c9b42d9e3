"""Terms on self-attention: attention maps, and MiniLM's relations between queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kd_env.core.checks import names, whole
from kd_env.core.types import ModelOutput, Signal, SignalKind
from kd_env.knowledge.base import TERMS, Term, TermInputs, TermSpec
from kd_env.knowledge.options import DoesNotFit, block_pairs, choose, reduction_of
from kd_env.knowledge.tensors import masked_log_softmax, token_mean, token_pair_mean, wide

RELATIONS: dict[str, tuple[SignalKind, SignalKind]] = {
    "query_key": ("queries", "keys"),
    "value_value": ("values", "values"),
    "query_query": ("queries", "queries"),
    "key_key": ("keys", "keys"),
}


def attention_distance(
    student: Tensor, teacher: Tensor, mask: Tensor, on: str = "scores", average_heads: bool = False
) -> Tensor:
    """Mean over heads and pairs of real tokens of the squared difference of attention scores or probabilities.

    Args:
        student: scores before mask and softmax ``[B, A, S, S]``.
        teacher: scores like the student's; another number of heads only with ``average_heads``.
        mask: ``[B, S]`` bool, True at real tokens; padded queries and keys enter neither softmax nor mean.
        on: ``scores`` or ``probabilities``.
        average_heads: compare the means over heads instead of head with head.

    Returns:
        ``[B]``.
    """
    maps = [wide(student), wide(teacher)]
    if on == "probabilities":
        maps = [masked_log_softmax(scores, mask).exp() for scores in maps]
    if average_heads:
        maps = [heads.mean(1, keepdim=True) for heads in maps]
    return token_pair_mean((maps[0] - maps[1]).square().mean(1), mask)


def resplit_heads(x: Tensor, heads: int | None) -> Tensor:
    """``[B, A, S, D]`` with its A * D features dealt out to another number of heads; None leaves them."""
    if heads is None:
        return x
    batch, old_heads, length, size = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads, old_heads * size // heads).transpose(1, 2)


def relation_divergence(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """``mean_heads mean_real i KL(R_T[i, :] || R_S[i, :])`` with ``R = softmax(a b^T / sqrt(D))`` over real tokens.

    Args:
        student: ``a`` and ``b``, each ``[B, A, S, D_S]``.
        teacher: ``a`` and ``b``, each ``[B, A, S, D_T]``.
        mask: ``[B, S]`` bool, True at real tokens.

    Returns:
        ``[B]``.
    """
    padded = ~mask[:, None, None, :]
    log_s, log_t = (
        # 0 at padded keys on both sides: their difference of two huge numbers would be NaN or infinite in bad cases.
        masked_log_softmax(wide(a) @ wide(b).transpose(-1, -2) / a.shape[-1] ** 0.5, mask).masked_fill(padded, 0.0)
        for a, b in (student, teacher)
    )
    divergence = (log_t.exp() * (log_t - log_s)).sum(-1)
    return token_mean(divergence.mean(1), mask)


@TERMS.register("attention")
def attention(spec: TermSpec, *, on: str = "scores", head_reduction: str = "none", reduction: str = "mean") -> Term:
    """Attention maps of mapped blocks: ``mean_(l,m) mean_heads mean_real (i,j) (A_S^l[i,j] - A_T^m[i,j])^2``.

    ``on=scores`` takes ``q k^T / sqrt(D)`` before the softmax, as TinyBERT (Jiao et al., Findings of EMNLP 2020,
    eq. 7); ``on=probabilities`` takes it after the softmax over real tokens. ``head_reduction=mean`` compares the means
    over heads (of scores, or of probabilities), the only way where the numbers of heads differ. ``reduction=sum`` adds
    the layers up, as TinyBERT does (eq. 11).

    Config: ``terms: [{name: attention, on: probabilities, head_reduction: mean, reduction: sum}]``
    """
    choose("attention", "on", on, ("scores", "probabilities"))
    choose("attention", "head_reduction", head_reduction, ("none", "mean"))
    reduce = reduction_of("attention", reduction)
    if head_reduction == "none" and spec.student.num_heads != spec.teacher.num_heads:
        raise ValueError(
            f"attention compares head with head, but the student has {spec.student.num_heads} heads and the teacher "
            f"{spec.teacher.num_heads}; set head_reduction='mean', or give the student {spec.teacher.num_heads} heads."
        )
    pairs = block_pairs("attention", spec)

    def loss(inputs: TermInputs) -> Tensor:
        student, teacher = inputs.student.attention_scores, inputs.taught.attention_scores
        mask = inputs.batch.attention_mask
        return reduce(
            [
                attention_distance(student[student_layer], teacher[teacher_layer], mask, on, head_reduction == "mean")
                for student_layer, teacher_layer in pairs
            ]
        )

    return Term(
        "attention",
        loss,
        frozenset(Signal("attention_scores", student_layer) for student_layer, _ in pairs),
        frozenset(Signal("attention_scores", teacher_layer) for _, teacher_layer in pairs),
        {},
    )


@TERMS.register("minilm")
def minilm(
    spec: TermSpec,
    *,
    relations: Sequence[str] = ("query_key", "value_value"),
    relation_heads: int | None = None,
    reduction: str = "mean",
) -> Term:
    """Self-attention relations of the last mapped pair: ``mean_relations mean_heads mean_real i KL(R_T[i] || R_S[i])``.

    ``R = softmax(a b^T / sqrt(D))`` over real tokens. The default is MiniLM (Wang et al., NeurIPS 2020, eq. 6 to 9):
    attention distributions and value relation; ``[query_query, key_key, value_value]`` is MiniLMv2 (Wang et al.,
    Findings of ACL 2021, eq. 4 and 5). ``relation_heads`` deals the features of all heads out to that many heads
    (MiniLMv2, section 3.1), so that student and teacher may differ in heads; no projection is needed at any width. The
    papers add the relations up (``reduction=sum``) or weigh them; the default averages them.

    Config: ``terms: [{name: minilm, relations: [query_query, key_key, value_value], relation_heads: 12}]``
    """
    names("query_key")("minilm.relations", relations)
    for name in relations:
        choose("minilm", "relations", name, tuple(RELATIONS))
    if len(set(relations)) != len(relations):
        raise ValueError(f"minilm.relations={list(relations)} repeats a relation; name each once.")
    _check_relation_heads(spec, relation_heads)
    reduce = reduction_of("minilm", reduction)
    student_layer, teacher_layer = max(block_pairs("minilm", spec))
    kind_pairs = tuple(RELATIONS[name] for name in relations)
    kinds = {kind for pair in kind_pairs for kind in pair}

    def loss(inputs: TermInputs) -> Tensor:
        mask = inputs.batch.attention_mask
        student, teacher = (
            {kind: resplit_heads(_signal(output, kind)[at], relation_heads) for kind in kinds}
            for output, at in ((inputs.student, student_layer), (inputs.taught, teacher_layer))
        )
        return reduce(
            [relation_divergence((student[a], student[b]), (teacher[a], teacher[b]), mask) for a, b in kind_pairs]
        )

    return Term(
        "minilm",
        loss,
        frozenset(Signal(kind, student_layer) for kind in kinds),
        frozenset(Signal(kind, teacher_layer) for kind in kinds),
        {},
    )


def _signal(output: ModelOutput, kind: SignalKind) -> dict[int, Tensor]:
    return {"queries": output.queries, "keys": output.keys, "values": output.values}[kind]


def _check_relation_heads(spec: TermSpec, relation_heads: int | None) -> None:
    student, teacher = spec.student, spec.teacher
    if relation_heads is None:
        if student.num_heads != teacher.num_heads:
            raise ValueError(
                f"minilm compares head with head, but the student has {student.num_heads} heads and the teacher "
                f"{teacher.num_heads}; set relation_heads to a divisor of both hidden sizes ({student.hidden_size} and "
                f"{teacher.hidden_size})."
            )
        return
    whole(1)("minilm.relation_heads", relation_heads)
    for owner, facts in (("student", student), ("teacher", teacher)):
        if facts.hidden_size % relation_heads:
            raise DoesNotFit(
                f"minilm.relation_heads={relation_heads} does not divide the {owner}'s hidden size "
                f"{facts.hidden_size}; choose a divisor of {student.hidden_size} and {teacher.hidden_size}."
            )
