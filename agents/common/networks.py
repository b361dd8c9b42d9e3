"""Multi-layer perceptrons and action distributions for the four basic action spaces.

A head turns the outputs of a network into a distribution over *raw* actions (tensors), and raw actions into what the
environment takes. Sampling uses an explicit generator. Shapes: outputs ``[..., P]``, raw actions ``[..., A]``,
log-probabilities and entropies ``[...]`` (summed over the A components, which are independent).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from agents.common.base import ActionSpace, Array


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, *, output_gain: float, generator: torch.Generator
) -> nn.Sequential:
    """Tanh network with orthogonal weights (Saxe et al. 2014) and zero biases.

    Args:
        inputs: size O of the input.
        hidden: sizes of the hidden layers.
        outputs: size of the output.
        output_gain: gain of the last layer; 0.01 makes the first policy nearly uniform.
        generator: source of the initial weights (on the CPU).
    """
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        # nn.Linear alone would draw from the global generator and change what a user's own code draws.
        linear: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        last = i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, gain=output_gain if last else math.sqrt(2.0), generator=generator)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if not last:
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


class ActionHead(nn.Module, ABC):
    """Distribution over the raw actions of one space."""

    num_outputs: int
    """Network outputs P that describe the distribution."""

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Raw actions ``[..., A]`` drawn with ``generator``."""

    @abstractmethod
    def mode(self, outputs: Tensor) -> Tensor:
        """Most probable raw actions ``[..., A]``."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of raw actions, ``[...]``."""

    @abstractmethod
    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy in nats, ``[...]``."""

    @abstractmethod
    def to_env(self, actions: Tensor) -> Array:
        """What the environment takes for raw actions ``[N, A]``."""


class GaussianHead(ActionHead):
    """Diagonal Gaussian with a standard deviation that does not depend on the state, for ``Box``.

    Raw actions live in [-1, 1] where the box is bounded and are scaled to it; what falls outside is clipped on the way
    to the environment, while its log-probability stays that of the unclipped action, as usual for policy gradients.
    """

    def __init__(self, space: spaces.Box, log_std_init: float) -> None:
        super().__init__()
        self.num_outputs = int(space.shape[0])
        self.log_std = nn.Parameter(torch.full((self.num_outputs,), float(log_std_init)))
        self._space = space
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        self._centre = np.where(bounded, (space.low / 2 + space.high / 2), 0.0)
        self._half = np.where(bounded, (space.high / 2 - space.low / 2), 1.0)

    def _std(self) -> Tensor:
        # An entropy bonus on a clipped Gaussian would otherwise widen it without end.
        return self.log_std.clamp(-5.0, 1.0).exp()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Mean plus noise."""
        noise = torch.randn(outputs.shape, generator=generator, device=outputs.device)
        return outputs + self._std() * noise

    def mode(self, outputs: Tensor) -> Tensor:
        """The mean."""
        return outputs

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Sum of the log-densities of the components."""
        std = self._std()
        z = (actions - outputs) / std
        return (-0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """The same for every state."""
        value = (self._std().log() + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return value.expand(outputs.shape[:-1])

    def to_env(self, actions: Tensor) -> Array:
        """Scaled to the box and clipped to it."""
        raw = actions.detach().cpu().numpy() * self._half + self._centre
        clipped: Array = np.clip(raw, self._space.low, self._space.high).astype(self._space.dtype)
        return clipped


class CategoricalHead(ActionHead):
    """Independent categoricals, for ``Discrete`` (one) and ``MultiDiscrete``."""

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__()
        single = isinstance(space, spaces.Discrete)
        self._single = single
        self._sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]
        self._start: NDArray[np.int64] = np.atleast_1d(np.asarray(space.start, dtype=np.int64))
        self._dtype = space.dtype
        self.num_outputs = sum(self._sizes)

    def _log_probs(self, outputs: Tensor) -> list[Tensor]:
        return [F.log_softmax(part, dim=-1) for part in torch.split(outputs, self._sizes, dim=-1)]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One index a component, counted from 0."""
        drawn = [
            torch.multinomial(lp.exp().reshape(-1, lp.shape[-1]), 1, generator=generator).reshape(lp.shape[:-1])
            for lp in self._log_probs(outputs)
        ]
        return torch.stack(drawn, dim=-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """The most probable index of each component."""
        return torch.stack([lp.argmax(-1) for lp in self._log_probs(outputs)], dim=-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Sum over the components."""
        parts = [lp.gather(-1, actions[..., i : i + 1]).squeeze(-1) for i, lp in enumerate(self._log_probs(outputs))]
        return torch.stack(parts, dim=-1).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Sum over the components."""
        return torch.stack([-(lp.exp() * lp).sum(-1) for lp in self._log_probs(outputs)], dim=-1).sum(-1)

    def to_env(self, actions: Tensor) -> Array:
        """``[N]`` for ``Discrete``, ``[N, A]`` for ``MultiDiscrete``, counted from the space's start."""
        raw: Array = (actions.cpu().numpy() + self._start).astype(self._dtype)
        return raw[..., 0] if self._single else raw


class BernoulliHead(ActionHead):
    """Independent coins, for ``MultiBinary``."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        super().__init__()
        self.num_outputs = int(space.shape[0])
        self._dtype = space.dtype

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Zeros and ones."""
        return torch.bernoulli(torch.sigmoid(outputs), generator=generator)

    def mode(self, outputs: Tensor) -> Tensor:
        """One where it is the more probable."""
        return (outputs > 0).to(outputs.dtype)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Sum over the components."""
        return -F.binary_cross_entropy_with_logits(outputs, actions, reduction="none").sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Sum over the components."""
        p = torch.sigmoid(outputs)
        return (F.softplus(outputs) - outputs * p).sum(-1)

    def to_env(self, actions: Tensor) -> Array:
        """Zeros and ones in the space's type."""
        return actions.cpu().numpy().astype(self._dtype)


def make_head(space: ActionSpace, log_std_init: float = -0.5) -> ActionHead:
    """The distribution for an action space; ``log_std_init`` is the first log standard deviation of a Gaussian."""
    if isinstance(space, spaces.Box):
        return GaussianHead(space, log_std_init)
    if isinstance(space, spaces.MultiBinary):
        return BernoulliHead(space)
    return CategoricalHead(space)


class Policy(nn.Module):
    """An actor with its distribution; the critic is another network, so that it can learn faster than the actor."""

    def __init__(
        self, size: int, space: ActionSpace, hidden: Sequence[int], log_std_init: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.head = make_head(space, log_std_init)
        self.network = mlp(size, hidden, self.head.num_outputs, output_gain=0.01, generator=generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Outputs ``[..., P]`` that describe the distribution at ``observations [..., O]``."""
        outputs: Tensor = self.network(observations)
        return outputs
