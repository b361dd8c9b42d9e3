"""Terms that compare hidden representations layer by layer: all tokens, or [CLS] alone."""

from __future__ import annotations

from torch import Tensor

from kd_env.core.types import Signal
from kd_env.knowledge.base import TERMS, Term, TermInputs, TermSpec
from kd_env.knowledge.options import block_pairs, choose, flag, plan_projections, reduction_of
from kd_env.knowledge.tensors import token_mean, unit, wide


def hidden_state_distance(student: Tensor, teacher: Tensor, mask: Tensor, distance: str = "mse") -> Tensor:
    """Mean over real tokens of the distance between two vectors.

    ``mse``: ``mean_h (s_h - t_h)^2``; ``cosine``: ``1 - cos(s, t)``.

    Args:
        student: ``[B, S, H]``, already in the teacher's width.
        teacher: ``[B, S, H]``.
        mask: ``[B, S]`` bool, True at real tokens.
        distance: ``mse`` or ``cosine``.

    Returns:
        ``[B]``.
    """
    student, teacher = wide(student), wide(teacher)
    if distance == "mse":
        per_token = (student - teacher).square().mean(-1)
    else:
        per_token = 1.0 - (unit(student) * unit(teacher)).sum(-1)
    return token_mean(per_token, mask)


def cls_distance(student: Tensor, teacher: Tensor, normalize: bool = True) -> Tensor:
    """``||s / ||s|| - t / ||t|| ||^2`` for ``[B, H]``, between 0 and 4; without ``normalize`` ``||s - t||^2``.

    Returns:
        ``[B]``.
    """
    student, teacher = wide(student), wide(teacher)
    if normalize:
        student, teacher = unit(student), unit(teacher)
    return (student - teacher).square().sum(-1)


@TERMS.register("hidden_states")
def hidden_states(
    spec: TermSpec,
    *,
    distance: str = "mse",
    embeddings: bool = True,
    shared: bool = False,
    reduction: str = "mean",
    projection: str = "auto",
    projected: str = "student",
) -> Term:
    """Hidden states of mapped layers: ``mean_(l,m) mean_real tokens d(W_l h_S^l, h_T^m)``.

    FitNets (Romero et al., ICLR 2015) for transformers as in TinyBERT (Jiao et al., Findings of EMNLP 2020, eq. 8,
    9); ``distance=cosine`` as in DistilBERT (Sanh et al., 2019). The trainable W_l is there only where widths differ,
    one for each mapped layer, or a single one for all with ``shared``. ``embeddings=False`` leaves out pairs with the
    student's embedding output. The defaults average over layers; papers add them up.

    ``reduction=sum`` adds the layers up, ``projection=always`` has W_l at equal widths, too, and ``projected=teacher``
    maps the teacher's states instead, ``d(h_S^l, W_l h_T^m)``: with ``embeddings=False`` these three are the
    multi-teacher hidden loss of MT-BERT (Wu et al., Findings of ACL 2021), ``sum_i sum_j MSE(H_s^j, W_ij H_ti^Kj)``,
    one W_ij for each teacher and layer. The paper does not state what MSE averages over: here, as everywhere, over real
    tokens and hidden units. W starts normal with variance 1 / in, which no paper states either.

    Config: ``terms: [{name: hidden_states, embeddings: false, reduction: sum, projection: always}]``
    """
    choose("hidden_states", "distance", distance, ("mse", "cosine"))
    flag("hidden_states", "embeddings", embeddings)
    flag("hidden_states", "shared", shared)
    choose("hidden_states", "projected", projected, ("student", "teacher"))
    reduce = reduction_of("hidden_states", reduction)
    pairs = tuple(pair for pair in spec.pairs if embeddings or pair[0] >= 1)
    if not pairs:
        raise ValueError(
            f"hidden_states with embeddings=False has no mapped layer left in {list(spec.pairs)}; use "
            "layer_map='uniform', or embeddings=True."
        )
    layers = tuple(layer for layer, _ in pairs)
    maps = plan_projections("hidden_states", spec, layers, shared=shared, projection=projection, side=projected)

    def loss(inputs: TermInputs) -> Tensor:
        student, teacher, mask = inputs.student.hidden_states, inputs.taught.hidden_states, inputs.batch.attention_mask
        return reduce(
            [
                hidden_state_distance(*maps.pair(inputs, layer, student[layer], teacher[teacher_layer]), mask, distance)
                for layer, teacher_layer in pairs
            ]
        )

    return Term(
        "hidden_states",
        loss,
        frozenset(Signal("hidden_states", layer) for layer, _ in pairs),
        frozenset(Signal("hidden_states", teacher_layer) for _, teacher_layer in pairs),
        maps.shapes,
    )


@TERMS.register("cls")
def cls(spec: TermSpec, *, normalize: bool = True, reduction: str = "mean", projection: str = "auto") -> Term:
    """[CLS] of mapped blocks: ``mean_(l,m) || h_S^l / ||h_S^l|| - h_T^m / ||h_T^m|| ||^2``.

    Patient knowledge distillation (Sun et al., EMNLP 2019, eq. 7). Pairs with an embedding output are left out: [CLS]
    is the same in every sentence there. Where the widths differ, the student's vector passes a trainable map first;
    with ``projection=always`` where they are equal, too. ``reduction=sum`` adds the layers up, as the paper writes it.

    Config: ``terms: [{name: cls, normalize: true, reduction: sum}]``
    """
    flag("cls", "normalize", normalize)
    reduce = reduction_of("cls", reduction)
    pairs = block_pairs("cls", spec)
    maps = plan_projections("cls", spec, tuple(layer for layer, _ in pairs), projection=projection)

    def loss(inputs: TermInputs) -> Tensor:
        student, teacher = inputs.student.cls, inputs.taught.cls
        return reduce(
            [
                cls_distance(*maps.pair(inputs, layer, student[layer], teacher[teacher_layer]), normalize)
                for layer, teacher_layer in pairs
            ]
        )

    return Term(
        "cls",
        loss,
        frozenset(Signal("cls", layer) for layer, _ in pairs),
        frozenset(Signal("cls", teacher_layer) for _, teacher_layer in pairs),
        maps.shapes,
    )
