"""Terms on relations: between layers of one example (FSP), and between the examples of a batch (RKD)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_env.core.types import ModelOutput, Signal, SignalKind
from kd_env.knowledge.base import TERMS, Term, TermInputs, TermSpec
from kd_env.knowledge.options import LARGEST_WEIGHT, block_pairs, choose, number, plan_projections, reduction_of
from kd_env.knowledge.tensors import EPS, unit, wide


def fsp_matrix(lower: Tensor, upper: Tensor, mask: Tensor) -> Tensor:
    """Flow between two layers: ``G = (1 / S_real) sum_real tokens h_lower h_upper^T``.

    Args:
        lower: ``[B, S, H]``.
        upper: ``[B, S, H']``.
        mask: ``[B, S]`` bool, True at real tokens.

    Returns:
        ``[B, H, H']``; 0 for a row without real tokens.
    """
    lower = torch.where(mask.unsqueeze(-1), wide(lower), 0.0)  # one pass, where masked_fill copies first
    return lower.transpose(-1, -2) @ wide(upper) / mask.sum(-1).clamp(min=1)[:, None, None]


def fsp_distance(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """``mean_(h,h') (G_S - G_T)^2`` of the flow between two layers, each ``[B, S, H]``. Returns ``[B]``."""
    fast = by_tokens(student[0].shape[-1], student[1].shape[-1], mask.shape[-1])
    # On a GPU it is not measured; in float64 it would round a near student's difference, which the matrices do not.
    fast = fast and mask.device.type == "cpu" and student[0].dtype != torch.float64
    return (flow_distance_by_tokens if fast else flow_distance_by_matrices)(student, teacher, mask)


def by_tokens(lower: int, upper: int, tokens: int) -> bool:
    """Whether flows between layers of these widths are compared from products of tokens: where that is faster."""
    return lower * upper >= max(2**15, 32 * tokens**2)  # on one core: kd-env bench flows


def flow_distance_by_matrices(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """:func:`fsp_distance` as it is written."""
    return (fsp_matrix(*student, mask) - fsp_matrix(*teacher, mask)).square().mean((-1, -2))


def flow_distance_by_tokens(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """:func:`fsp_distance` from products of tokens ``[B, S, S]``, without the matrices and within rounding.

    ``|A^T C - X^T Y|^2 = <A A^T, C C^T> - 2 <A X^T, C Y^T> + <X X^T, Y Y^T>``, in float64: a student close to its
    teacher leaves a small difference of large numbers.
    """
    real = mask.unsqueeze(-1)
    (a, c), (x, y) = ((torch.where(real, lower, 0.0).double(), upper.double()) for lower, upper in (student, teacher))

    def product(lower: Tensor, other_lower: Tensor, upper: Tensor, other_upper: Tensor) -> Tensor:
        return ((lower @ other_lower.mT) * (upper @ other_upper.mT)).sum((-1, -2))

    squares = product(a, a, c, c) - 2 * product(a, x, c, y) + product(x, x, y, y)
    mean = squares / (mask.sum(-1).clamp(min=1).square() * a.shape[-1] * c.shape[-1])
    return mean.clamp(min=0.0).to(wide(student[0]).dtype)


def pair_distances(x: Tensor) -> Tensor:
    """Distances between the rows of ``x [B, H]`` over the mean between different rows. ``[B, B]``, diagonal 0."""
    size = x.shape[0]
    apart = ~torch.eye(size, dtype=torch.bool, device=x.device)
    # EPS under the root: equal rows would have an infinite gradient, and the diagonal NaN.
    distances = ((x.unsqueeze(0) - x.unsqueeze(1)).square().sum(-1) + EPS).sqrt() * apart
    return distances / (distances.sum() / max(size * (size - 1), 1) + EPS)


def triple_angles(x: Tensor) -> Tensor:
    """``cos`` of the angle at row j between the rows i and k of ``x [B, H]``. Returns ``[B (j), B (i), B (k)]``."""
    edges = unit(x.unsqueeze(0) - x.unsqueeze(1))
    return edges @ edges.transpose(-1, -2)


def relational_distance(
    student: Tensor, teacher: Tensor, distance_weight: float = 1.0, angle_weight: float = 2.0
) -> Tensor:
    """RKD: Huber losses between distances and between angles inside the batch, see :func:`rkd`.

    Args:
        student: ``[B, H_S]``.
        teacher: ``[B, H_T]``; the widths may differ.
        distance_weight: weight of the distance-wise part.
        angle_weight: weight of the angle-wise part.

    Returns:
        ``[B]``: of each example the sum over its partners by B (distance), and over the pairs of examples that it is
        the vertex of by B^2 (angle). Their mean is that of the authors' code, over all B^2 pairs and B^3 triples: those
        that name an example twice count, with a loss of 0. 0 where the batch is too small: fewer than 2, and 3,
        examples.
    """
    student, teacher = wide(student), wide(teacher)
    distance = F.smooth_l1_loss(pair_distances(student), pair_distances(teacher), reduction="none")
    loss = distance_weight * distance.mean(-1)
    if angle_weight:
        angle = F.smooth_l1_loss(triple_angles(student), triple_angles(teacher), reduction="none")
        loss = loss + angle_weight * angle.mean((-1, -2))
    return loss


@TERMS.register("relation")
def relation(spec: TermSpec, *, reduction: str = "mean", projection: str = "auto") -> Term:
    """Flow between adjacent mapped layers: ``mean mean_(h,h') (G_S[h,h'] - G_T[h,h'])^2``, ``G`` of :func:`fsp_matrix`.

    FSP matrices (Yim et al., CVPR 2017, eq. 1 and 2) over real tokens, the RelK of knowledge selection (Wang et al.,
    Findings of EMNLP 2022), which does not state its layers: here each mapped pair and the next one. Where the widths
    differ, each student layer goes through a trainable map: ``W_l G_S W_m^T``; with ``projection=always`` where they
    are equal, too. ``reduction=sum`` adds the steps between layers up instead of averaging them.

    Config: ``terms: [{name: relation, reduction: sum}]``
    """
    if len(spec.pairs) < 2:
        raise ValueError(
            f"relation needs at least two mapped layers, but the layer map is {list(spec.pairs)}; use "
            "layer_map='uniform' or add a pair, or leave the term out."
        )
    steps = tuple(pairwise(spec.pairs))
    reduce = reduction_of("relation", reduction)
    maps = plan_projections("relation", spec, tuple(layer for layer, _ in spec.pairs), projection=projection)

    def loss(inputs: TermInputs) -> Tensor:
        mask = inputs.batch.attention_mask
        student = {at: maps.apply(inputs, at, inputs.student.hidden_states[at]) for at, _ in spec.pairs}
        teacher = inputs.taught.hidden_states
        return reduce(
            [fsp_distance((student[s1], student[s2]), (teacher[t1], teacher[t2]), mask) for (s1, t1), (s2, t2) in steps]
        )

    return Term(
        "relation",
        loss,
        frozenset(Signal("hidden_states", layer) for layer, _ in spec.pairs),
        frozenset(Signal("hidden_states", teacher_layer) for _, teacher_layer in spec.pairs),
        maps.shapes,
    )


@TERMS.register("rkd")
def rkd(spec: TermSpec, *, on: str = "cls", distance_weight: float = 1.0, angle_weight: float = 2.0) -> Term:
    """Relational distillation between the examples of a batch (Park et al., CVPR 2019, eq. 4 to 8).

    ``w_D mean_j huber(psi_D^S(i,j) - psi_D^T(i,j)) + w_A mean_(j,k) huber(cos^S(j,i,k) - cos^T(j,i,k))`` for example i,
    with distances over their mean between different examples, and angles at i; the means are over all B examples and
    all B^2 pairs, as in the authors' code. ``on=cls`` reads [CLS] of the last mapped pair of blocks, ``on=logits`` the
    logits; no projection is needed. The weights have the paper's ratio (25 and 50).

    Config: ``terms: [{name: rkd, on: logits, distance_weight: 1.0, angle_weight: 2.0}]``
    """
    choose("rkd", "on", on, ("cls", "logits"))
    number("rkd", "distance_weight", distance_weight, 0.0, LARGEST_WEIGHT)
    number("rkd", "angle_weight", angle_weight, 0.0, LARGEST_WEIGHT)
    if distance_weight == angle_weight == 0:
        raise ValueError("rkd.distance_weight and rkd.angle_weight are both 0; leave the term out instead.")
    if on == "logits" and spec.regression and angle_weight:
        raise ValueError(
            "rkd on logits has no angles in regression (one score has no direction); set angle_weight=0, or on='cls'."
        )
    student_layer, teacher_layer = max(block_pairs("rkd", spec)) if on == "cls" else (-1, -1)

    kind: SignalKind = "cls" if on == "cls" else "logits"

    def pick(output: ModelOutput, at: int) -> Tensor:
        return output.cls[at] if kind == "cls" else output.logits

    def loss(inputs: TermInputs) -> Tensor:
        student, teacher = pick(inputs.student, student_layer), pick(inputs.taught, teacher_layer)
        return relational_distance(student, teacher, distance_weight, angle_weight)

    student_signals, teacher_signals = (frozenset({Signal(kind, layer)}) for layer in (student_layer, teacher_layer))
    return Term("rkd", loss, student_signals, teacher_signals, {}, across_rows=True)
