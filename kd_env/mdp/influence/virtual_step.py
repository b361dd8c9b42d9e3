"""One update that is only looked at, its derivative, and gradients pulled back through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env.config.optimizer import OptimizerConfig
from kd_env.mdp.state import DistillState
from kd_env.numerics import optim

Params = Mapping[str, Tensor]
VIRTUAL_OPTIMIZERS = ("adamw", "sgd")


class VirtualStep(NamedTuple):
    """An update that is only looked at; both dictionaries hold the tensors that have a gradient."""

    params: dict[str, Tensor]  # s', name -> [N, ...]
    slopes: dict[str, Tensor]  # D, elementwise d s' / d clipped gradient; broadcasts to [N, ...]
    clipped: dict[str, Tensor]  # the gradient after clipping, name -> [N, ...]
    norm: Tensor | None  # [N], that of the gradient before; None where no replica was clipped
    limit: float | None  # the largest norm


def virtual_step(
    students: DistillState,
    grads: Params,
    *,
    learning_rates: np.ndarray,
    optimizer: str,
    config: OptimizerConfig,
) -> VirtualStep:
    """One step of SGD or of the students' AdamW with the clipped gradient, as new tensors, and its derivative.

    Clipping is that of the real step (:func:`kd_env.numerics.optim.clip_`), for SGD too. AdamW is
    :func:`kd_env.numerics.optim.adamw_`: ``s' = (1 - r d) s - r m'/c1 / (sqrt(v'/c2) + eps)`` with learning rate r, new
    moments m' and v', bias corrections c1 and c2, and decay d for tensors with more than one axis per replica. Its
    derivative goes through m' and v'. A student without an update so far makes a step of SGD: Adam's first update is a
    sign, and its derivative says nothing.

    Args:
        students: parameters, moments and numbers of updates are read.
        grads: name -> ``[N, ...]``; clipped in place.
        learning_rates: ``[N]``.
        optimizer: ``adamw`` or ``sgd``.
        config: largest norm of the gradient, betas, eps and weight decay.
    """
    norm, limit = None, config.max_grad_norm
    if limit is not None and grads:
        gradient_norm = optim.gradient_norm(grads)
        if not bool((optim.clip_factor(gradient_norm, limit) == 1).all()):
            norm, grads = gradient_norm, {name: grad.contiguous() for name, grad in grads.items()}
            optim.clip_(grads, norm, limit)
    after: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    first = students.optimizer_steps == 0 if optimizer == "adamw" else np.ones(len(learning_rates), bool)
    for name, grad in grads.items():
        value = students.params[name].detach()
        rate = _column(learning_rates, value)
        if first.all():
            after[name], slopes[name] = value - rate * grad, -rate
            continue
        moments = (students.exp_avg[name], students.exp_avg_sq[name])
        after[name], slopes[name] = _adamw(value, grad, moments, rate, students.optimizer_steps + 1, config)
        if first.any():
            plain = _column(first, value, torch.bool)
            after[name] = torch.where(plain, value - rate * grad, after[name])
            slopes[name] = torch.where(plain, -rate, slopes[name])
    return VirtualStep(after, slopes, dict(grads), norm, limit)


def pull_back(step: VirtualStep, gradient: Params) -> dict[str, Tensor]:
    """A gradient with respect to the stepped parameters as one with respect to the step's own gradient: ``J D v``."""
    cotangents = {name: step.slopes[name] * value for name, value in gradient.items()}
    if step.norm is None or step.limit is None:
        return cotangents
    return optim.clip_pull_back_(cotangents, step.clipped, step.norm, step.limit)


def _adamw(
    value: Tensor,
    grad: Tensor,
    moments: tuple[Tensor, Tensor],
    rate: Tensor,
    steps: np.ndarray,
    config: OptimizerConfig,
) -> tuple[Tensor, Tensor]:
    """One tensor after its step number ``steps`` ``[N]``, and the elementwise derivative by the gradient."""
    (beta1, beta2), decay = config.betas, config.weight_decay if value.dim() > 2 else 0.0
    first, second = _column(1 - beta1**steps, value), _column(1 - beta2**steps, value)
    # In place where a tensor is our own: on embeddings every new one costs more than its arithmetic.
    mean = torch.lerp(moments[0], grad, 1 - beta1)
    root = (beta2 * moments[1]).addcmul_(grad, grad, value=1 - beta2).div_(second).sqrt_()
    below = root + config.eps
    step, ratio = rate / first, mean.div_(below)
    after = (value * (1 - rate * decay)).addcmul_(step, ratio, value=-1.0)
    # A row of the embeddings that no batch has shown yet: the root of 0 would give NaN, and its mean is 0.
    bend = (grad * ((1 - beta2) / second)).div_(root).masked_fill_(~(root > 0), 0.0)
    return after, bend.mul_(ratio).sub_(1 - beta1).mul_(step).div_(below)


def _column(values: np.ndarray | Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``[N]`` as ``[N, 1, ...]`` beside ``like`` ``[N, ...]``, in its type where no other is given."""
    column = torch.as_tensor(values, dtype=dtype or like.dtype, device=like.device)
    return column.view(-1, *(1,) * (like.dim() - 1))
