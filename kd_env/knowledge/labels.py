"""Terms that read labels and logits alone: hard labels, soft labels, logits, DIST."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from kd_env.core.types import Signal
from kd_env.knowledge.base import TERMS, Term, TermInputs, TermSpec, without_teacher
from kd_env.knowledge.options import LARGEST_WEIGHT, choose, flag, number, same_labels, temperature_of
from kd_env.knowledge.tensors import EPS, wide

LOGITS = frozenset({Signal("logits")})
SOFT_TEMPERATURE, REVERSE_SHARE = "soft_temperature", "reverse_share"
"""Numbers that an action may give to every term ``soft_label``: one for the batch, or one for each row."""
SOFT_KINDS = ("forward", "reverse", "jensen_shannon", "cross_entropy", "squared_error")


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-sum_c q_c log softmax(logits)_c`` with ``q = (1 - s) onehot(y) + s / C``.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` int64 class index.
        label_smoothing: s in [0, 1).

    Returns:
        ``[B]``, in nats.
    """
    log_p = torch.log_softmax(wide(logits), dim=-1)
    gold = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return -(1.0 - label_smoothing) * gold - label_smoothing * log_p.mean(-1)


def scaled_squared_error(prediction: Tensor, target: Tensor, label_width: float) -> Tensor:
    """``((prediction - target) / label_width)^2`` for ``[B]`` and ``[B]``; a whole range of error is 1."""
    return ((wide(prediction) - wide(target)) / label_width).square()


def soft_label_divergence(
    student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, kind: str = "forward"
) -> Tensor:
    """Divergence between softened distributions ``p = softmax(logits / tau)``, times ``tau^2``; summed over classes.

    ``forward``: ``KL(p_T || p_S)``; ``reverse``: ``KL(p_S || p_T)``; ``jensen_shannon``: mean of the KL of each to
    ``(p_T + p_S) / 2``, at most ``log 2``; ``cross_entropy``: ``-sum_c p_T log p_S``, at least the teacher's entropy.
    ``squared_error``: ``mean_c (p_T - p_S)^2``, a mean over classes, as in the released code of MetaDistil (Zhou et
    al., ACL 2022).

    Args:
        student: logits ``[B, C]``.
        teacher: logits ``[B, C]``.
        temperature: tau, above 0; one, or ``[B]``.
        kind: one of the names.

    Returns:
        ``[B]``.
    """
    by_class = temperature[..., None] if isinstance(temperature, Tensor) else temperature
    log_s = torch.log_softmax(wide(student) / by_class, dim=-1)
    log_t = torch.log_softmax(wide(teacher) / by_class, dim=-1)
    if kind == "forward":
        loss = log_t.exp() * (log_t - log_s)
    elif kind == "reverse":
        loss = log_s.exp() * (log_s - log_t)
    elif kind == "cross_entropy":
        loss = -log_t.exp() * log_s
    elif kind == "squared_error":
        loss = (log_t.exp() - log_s.exp()).square() / log_s.shape[-1]
    else:
        middle = torch.logaddexp(log_s, log_t) - log(2.0)
        loss = 0.5 * (log_t.exp() * (log_t - middle) + log_s.exp() * (log_s - middle))
    return temperature**2 * loss.sum(-1)


def logit_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_c (z_S - z_T)^2`` for logits ``[B, C]``. Returns ``[B]``."""
    return (wide(student) - wide(teacher)).square().mean(-1)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation along the last axis, 0 where one side is constant. ``[..., n]`` to ``[...]``."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    # The two norms stay apart: their product under one root underflows in float32 for nearly uniform predictions.
    norms = torch.rsqrt(x.square().sum(-1) + EPS) * torch.rsqrt(y.square().sum(-1) + EPS)
    return (x * y).sum(-1) * norms


def dist_loss(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """DIST: ``tau^2 [beta (1 - rho_inter,b) + gamma mean_c(1 - rho_intra,c)]``, see :func:`dist`.

    Args:
        student: logits ``[B, C]``.
        teacher: logits ``[B, C]``.
        temperature: tau, above 0.
        beta: weight of the inter-class part.
        gamma: weight of the intra-class part.

    Returns:
        ``[B]``; the intra-class part, which belongs to the whole batch, stands in every example.
    """
    p_s = torch.softmax(wide(student) / temperature, dim=-1)
    p_t = torch.softmax(wide(teacher) / temperature, dim=-1)
    inter = 1.0 - pearson(p_s, p_t)
    intra = (1.0 - pearson(p_s.transpose(-1, -2), p_t.transpose(-1, -2))).mean(-1, keepdim=True)
    return temperature**2 * (beta * inter + gamma * intra)


@TERMS.register("hard_label")
@without_teacher
def hard_label(spec: TermSpec, *, label_smoothing: float = 0.0) -> Term:
    """Gold labels: ``-log p_S(y)``; in regression ``((z_S - y) / label_width)^2``. Reads no teacher.

    ``label_smoothing`` (Szegedy et al., CVPR 2016, section 7) mixes the gold label with the uniform distribution.

    Config: ``terms: [{name: hard_label, label_smoothing: 0.1}]``
    """
    number("hard_label", "label_smoothing", label_smoothing, 0.0, 0.999)
    if spec.regression and label_smoothing:
        raise ValueError(
            f"hard_label.label_smoothing={label_smoothing} has no meaning in regression (no classes); leave it out."
        )

    def loss(inputs: TermInputs) -> Tensor:
        if spec.regression:
            return scaled_squared_error(inputs.student.logits.squeeze(-1), inputs.batch.labels, spec.label_width)
        return cross_entropy(inputs.student.logits, inputs.batch.labels, label_smoothing)

    return Term("hard_label", loss, LOGITS, frozenset(), {})


@TERMS.register("soft_label")
def soft_label(spec: TermSpec, *, temperature: float = 2.0, kind: str = "forward", tau_squared: bool = True) -> Term:
    """Soft labels: ``tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau))``, summed over classes (Hinton et al., 2015).

    The factor ``tau^2`` keeps the size of the gradient independent of the temperature (section 2 there);
    ``tau_squared=False`` leaves it out, as papers that write plain ``CE(y_T / tau, y_S / tau)`` do. ``kind`` may be
    ``reverse``, ``jensen_shannon`` or ``cross_entropy``, see :func:`soft_label_divergence`. In regression the loss is
    ``((z_S - z_T) / label_width)^2`` and there is nothing to choose. An action may give the temperature, and the share
    ``r`` of ``(1 - r) forward + r reverse``, in their place (``decision=divergence_shaping``).

    Config: ``terms: [{name: soft_label, temperature: 4.0, kind: reverse}]``; with ``kind: squared_error`` it is the
    mean over classes of ``tau^2 (p_T - p_S)^2``, as in MetaDistil's code.
    """
    same_labels("soft_label", spec)
    temperature_of("soft_label", temperature)
    choose("soft_label", "kind", kind, SOFT_KINDS)
    flag("soft_label", "tau_squared", tau_squared)
    if spec.regression:
        options = (("temperature", temperature, 2.0), ("kind", kind, "forward"), ("tau_squared", tau_squared, True))
        for option, value, default in options:
            if value != default:
                raise ValueError(
                    f"soft_label.{option}={value!r} has no meaning in regression, where the loss is the squared error "
                    "between the two scores; leave the option out."
                )

    def loss(inputs: TermInputs) -> Tensor:
        student, teacher = inputs.student.logits, inputs.taught.logits
        if spec.regression:
            return scaled_squared_error(student.squeeze(-1), teacher.squeeze(-1), spec.label_width)
        tau, share = inputs.given.get(SOFT_TEMPERATURE, temperature), inputs.given.get(REVERSE_SHARE)
        divergence = soft_label_divergence(student, teacher, tau, kind)
        if share is not None:
            reverse = soft_label_divergence(student, teacher, tau, "reverse")
            divergence = (1.0 - share) * divergence + share * reverse
        return divergence if tau_squared else tau**-2 * divergence

    return Term("soft_label", loss, LOGITS, LOGITS, {})


@TERMS.register("logit_mse")
def logit_mse(spec: TermSpec, *, target_scale: float = 1.0) -> Term:
    """Squared error of the logits: ``mean_c (z_S - phi z_T)^2`` (Ba and Caruana, NIPS 2014, with ``phi = 1``).

    ``target_scale`` is phi, in (0, 1]: a softened target of Annealing KD (Jafari et al., EACL 2021, section 3), which
    raises it in stages, ``1 / tau_max, 2 / tau_max, ..., 1``. In regression the error is divided by ``label_width^2``.

    Config: ``terms: [{name: logit_mse, as: logits_half, target_scale: 0.5}]``
    """
    same_labels("logit_mse", spec)
    number("logit_mse", "target_scale", target_scale, 0.0, 1.0, open_low=True)
    scale = spec.label_width**2 if spec.regression else 1.0

    def loss(inputs: TermInputs) -> Tensor:
        return logit_squared_error(inputs.student.logits, target_scale * wide(inputs.taught.logits)) / scale

    return Term("logit_mse", loss, LOGITS, LOGITS, {})


@TERMS.register("dist")
def dist(spec: TermSpec, *, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> Term:
    """DIST: correlations instead of distances (Huang et al., NeurIPS 2022, section 3).

    ``tau^2 [beta (1 - rho(p_S[b, :], p_T[b, :])) + gamma mean_c (1 - rho(p_S[:, c], p_T[:, c]))]`` with Pearson's rho:
    inter-class over the classes of one example, intra-class over the batch. The intra-class part has no owner among the
    examples, so every example carries it whole, and the mean over the batch is the paper's loss. With two classes the
    inter-class correlation is 1 or -1 and gives no gradient; with one example the intra-class part is constant.

    Config: ``terms: [{name: dist, beta: 2.0, gamma: 2.0}]``
    """
    if spec.regression:
        raise ValueError(
            "dist has no meaning in regression: it correlates class probabilities. Use soft_label, logit_mse or rkd."
        )
    same_labels("dist", spec)
    temperature_of("dist", temperature)
    number("dist", "beta", beta, 0.0, LARGEST_WEIGHT)
    number("dist", "gamma", gamma, 0.0, LARGEST_WEIGHT)
    if beta == gamma == 0:
        raise ValueError("dist.beta and dist.gamma are both 0; leave the term out instead.")

    def loss(inputs: TermInputs) -> Tensor:
        return dist_loss(inputs.student.logits, inputs.taught.logits, temperature, beta, gamma)

    return Term("dist", loss, LOGITS, LOGITS, {}, across_rows=gamma > 0)
