"""AdamW on stacked students, in place, with a learning rate and a step count of its own for every replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from kd_env.config.optimizer import OptimizerConfig

CLIP_EPS = 1e-6
"""As in ``torch.nn.utils.clip_grad_norm_``."""


def learning_rate_factor(update: np.ndarray, budget: np.ndarray, warmup: float) -> np.ndarray:
    """Linear warm-up over ``round(warmup * budget)`` updates, then linear decay; in (0, 1] inside the budget, then 0.

    Args:
        update: ``[N]`` number of updates already spent (0 for the first).
        budget: ``[N]``.
        warmup: share of the budget, in [0, 1].
    """
    rise = np.round(warmup * budget)
    up = (update + 1.0) / np.maximum(rise, 1.0)
    down = (budget - update) / np.maximum(budget - rise, 1.0)
    return np.asarray(np.clip(np.where(update < rise, up, down), 0.0, 1.0))


def gradient_norm(grads: Mapping[str, Tensor]) -> Tensor:
    """Norm over all tensors of each replica, ``[N]``."""
    if len(next(iter(grads.values()))) == 1:
        norms = [norm[None] for norm in torch._foreach_norm(list(grads.values()))]
    else:
        norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return total


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """``min(1, limit / (norm + 1e-6))``, ``[N]``: what :func:`clip_` multiplies gradients of norms ``[N]`` with."""
    return (limit / (norm + CLIP_EPS)).clamp(max=1.0)


def clip_(grads: Mapping[str, Tensor], norm: Tensor, limit: float | None) -> None:
    """Scale the gradients of each replica to a norm of at most ``limit``, in place; None leaves them.

    Args:
        grads: name -> ``[N, ...]``.
        norm: ``[N]``, of :func:`gradient_norm`.
        limit: the largest norm.
    """
    if limit is None:
        return
    factor = clip_factor(norm, limit)
    if len(factor) == 1:
        torch._foreach_mul_(list(grads.values()), factor[0])
        return
    for grad in grads.values():
        grad.mul_(_column(factor, grad))


def clip_pull_back_(
    cotangents: Mapping[str, Tensor], clipped: Mapping[str, Tensor], norm: Tensor, limit: float
) -> dict[str, Tensor]:
    """Pull a gradient by clipped gradients back to one by the gradients before :func:`clip_`, in place.

    Where a replica is clipped, ``g' = f g`` with ``f = c / (||g|| + eps)``, and a cotangent u becomes
    ``f (u - g (g.u) / (||g|| (||g|| + eps)))``, jointly over all tensors: every one of them is in the norm, so that
    those without a cotangent get one, too. The other replicas keep theirs.

    Args:
        cotangents: u, name -> ``[N, ...]``; some of the names of ``clipped``. Overwritten.
        clipped: g', name -> ``[N, ...]``.
        norm: ``||g||`` ``[N]`` over all of them before clipping.
        limit: c.
    """
    if not cotangents:
        return {}
    factor = clip_factor(norm, limit)
    # A matrix product sums without a tensor for the products, which would cost as much as the rest.
    dots = [(clipped[n].flatten(1)[:, None] @ u.flatten(1)[..., None]).flatten() for n, u in cotangents.items()]
    along = torch.stack(dots).sum(0) / (factor * norm * (norm + CLIP_EPS))
    along = torch.where(factor < 1, along, torch.zeros_like(along))
    pulled_back = {}
    for name, grad in clipped.items():
        share = _column(along, grad)
        u = cotangents.get(name)
        pulled_back[name] = grad * -share if u is None else u.mul_(_column(factor, u)).addcmul_(grad, share, value=-1.0)
    return pulled_back


def _column(values: Tensor, like: Tensor) -> Tensor:
    """``[N]`` as ``[N, 1, ...]`` beside ``like`` ``[N, ...]``."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def adamw_(
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    exp_avg: Mapping[str, Tensor],
    exp_avg_sq: Mapping[str, Tensor],
    *,
    steps: np.ndarray,
    learning_rates: np.ndarray,
    apply: np.ndarray,
    non_finite: Tensor,
    config: OptimizerConfig,
    block: int | None = None,
) -> None:
    """One AdamW update of the replicas in ``apply`` with PyTorch's fused kernel, in place.

    Tensors with one axis per replica (biases, layer norms) are not decayed.

    Args:
        params: name -> ``[N, ...]``, contiguous.
        grads: name -> ``[N, ...]``; parameters whose names are missing are left alone.
        exp_avg: first moments, name -> ``[N, ...]``.
        exp_avg_sq: second moments, name -> ``[N, ...]``.
        steps: ``[N]`` int64, updates applied so far (the kernel uses steps + 1).
        learning_rates: ``[N]``.
        apply: ``[N]`` bool.
        non_finite: ``[N]`` float32 on the device, 1 where the gradient is not finite; such replicas stay as they are.
            Where the host would have to wait for it, many that all make the same step are updated in one call, and
            theirs is one without a gradient: they are lost in any case.
        config: betas, eps and weight decay.
        block: replicas of a block; None is all. The kernel rounds the last numbers of a tensor otherwise than the
            others, so that each block is updated to the bit as it would be without the other blocks.
    """
    size = len(apply) if block is None else block
    for rows in (slice(start, start + size) for start in range(0, len(apply), size)):
        parts = (
            [{name: tree[name][rows] for name in grads} for tree in (params, grads, exp_avg, exp_avg_sq)]
            if size < len(apply)
            else [params, grads, exp_avg, exp_avg_sq]
        )
        _adamw_block(parts, steps[rows], learning_rates[rows], apply[rows], non_finite[rows], config)


def _adamw_block(
    trees: Sequence[Mapping[str, Tensor]],
    steps: np.ndarray,
    learning_rates: np.ndarray,
    apply: np.ndarray,
    non_finite: Tensor,
    config: OptimizerConfig,
) -> None:
    params, grads = trees[:2]
    decayed = [name for name in grads if params[name].dim() > 2]
    plain = [name for name in grads if params[name].dim() <= 2]
    one_call, flag = _same_step(steps, learning_rates, apply), non_finite[0]
    if len(apply) == 1:
        one_call = bool(apply[0])
    elif one_call and not waits_for(non_finite):
        one_call = not bool(non_finite.any())  # the kernel knows one flag for all
    elif one_call and len(apply) < 8:  # fewer calls of the kernel than of what one call needs beside
        one_call = False
    elif one_call:
        for grad in grads.values():
            grad.masked_fill_(_column(non_finite, grad) > 0, 0.0)
        flag = torch.zeros_like(flag)
    for group, decay in ((decayed, config.weight_decay), (plain, 0.0)):
        if not group:
            continue
        if one_call:  # one walk over the stacked tensors; a call for each replica costs more than its arithmetic
            stacked = [[tree[name] for name in group] for tree in trees]
            _fused(stacked, int(steps[0]), float(learning_rates[0]), decay, flag, config)
            continue
        views_by_tree = [[tree[name].unbind(0) for name in group] for tree in trees]
        for replica in np.flatnonzero(apply):
            tensors = [[view[replica] for view in views] for views in views_by_tree]
            rate = float(learning_rates[replica])
            _fused(tensors, int(steps[replica]), rate, decay, non_finite[replica], config)


def _same_step(steps: np.ndarray, learning_rates: np.ndarray, apply: np.ndarray) -> bool:
    """Whether all of several replicas make the same kind of step, so that one call of the kernel may do for all."""
    alike = len({*steps.tolist()}) == len({*learning_rates.tolist()}) == 1
    return len(apply) > 1 and bool(apply.all()) and alike


def waits_for(values: Tensor) -> bool:
    """Whether the host has to wait for values that it looks at."""
    return values.device.type != "cpu"


def _fused(
    tensors: list[list[Tensor]],
    done: int,
    learning_rate: float,
    decay: float,
    non_finite: Tensor,
    config: OptimizerConfig,
) -> None:
    params, grads, exp_avg, exp_avg_sq = tensors
    step = torch.full((), float(done + 1), dtype=torch.float32, device=params[0].device)
    torch._fused_adamw_(
        params,
        grads,
        exp_avg,
        exp_avg_sq,
        [],
        [step] * len(params),
        lr=learning_rate,
        beta1=config.betas[0],
        beta2=config.betas[1],
        weight_decay=decay,
        eps=config.eps,
        amsgrad=False,
        maximize=False,
        found_inf=non_finite,
    )
