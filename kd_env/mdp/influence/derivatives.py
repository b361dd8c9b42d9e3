"""Directional derivatives of per-sample losses, in forward mode and by central differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp

from kd_env.numerics import optim

Params = Mapping[str, Tensor]
SampleLosses = Callable[[dict[str, Tensor]], Tensor]
"""Per-sample losses ``[N, B]`` as a function of (some of) the students' parameters, name -> ``[N, ...]``."""


def directional_losses(losses: SampleLosses, params: Params, direction: Params) -> Tensor:
    """``<grad l_i, direction>`` of every sample, ``[N, B]``, by one forward-mode product.

    Args:
        losses: per-sample losses; their forward pass must have forward derivatives (``eager=True``).
        params: name -> ``[N, ...]``; the point.
        direction: name -> ``[N, ...]``; tensors that are not named stay as they are.
    """
    if not direction:  # no tensor is read by both losses
        return torch.zeros_like(losses({}))
    with torch.no_grad():
        return along(losses, params, direction)


def along(losses: SampleLosses, params: Params, direction: Params) -> Tensor:
    """``<grad l_i, direction>`` of every sample, ``[N, B]``, with a graph.

    It can be differentiated by tensors that the losses read beside the parameters. For the arguments see
    :func:`directional_losses`; the direction names one tensor at least.
    """
    point = {name: params[name].detach() for name in direction}
    _ready_forward_mode()
    derivatives: Tensor = jvp(losses, (point,), (dict(direction),))[1]
    return derivatives


def finite_difference_influence(
    losses: SampleLosses, params: Params, direction: Params, *, radius: float = 0.01
) -> Tensor:
    """``<grad l_i, v>`` of every sample by central differences, as LGTM's released code: two perturbed forward passes.

    ``(l_i(s + R v) - l_i(s - R v)) / (2 R)`` with ``R = radius / ||v||`` for every student. The code takes the feedback
    gradient for v, which is right for SGD up to the factor learning rate / B, and the teacher's loss for l.

    Args:
        losses: any per-sample losses ``[N, B]`` as a function of the students' parameters.
        params: name -> ``[N, ...]``.
        direction: name -> ``[N, ...]``, v.
        radius: length of the perturbation.

    Returns:
        ``[N, B]``; 0 where the direction is 0.
    """
    with torch.no_grad():
        return central_differences(losses, params, direction, radius=radius)


def central_differences(losses: SampleLosses, params: Params, direction: Params, *, radius: float) -> Tensor:
    """Central differences of per-sample losses, ``[N, B]``, with a graph; see :func:`finite_difference_influence`."""
    # Without the bound a zero direction gives NaN instead of no influence.
    norm = optim.gradient_norm(direction)
    step = radius / norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)
    steps = {name: step.view(-1, *(1,) * (v.dim() - 1)) for name, v in direction.items()}
    above, below = (
        losses({name: params[name] + sign * steps[name] * v for name, v in direction.items()}) for sign in (1.0, -1.0)
    )
    return (above - below) / (2 * step[:, None])


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine between the influences ``[N, B]`` of each student's samples, ``[N]``; 0 where one of them is all zero."""
    # Influences shrink with the learning rate: their squares leave the range of float32, and a usual eps hides them.
    unit = [F.normalize(values.double(), dim=-1, eps=1e-100) for values in (first, second)]
    return (unit[0] * unit[1]).sum(-1).to(first.dtype)


@cache
def _ready_forward_mode() -> None:
    """The first product of a process, on a number: torch compiles rules then, by a way that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
