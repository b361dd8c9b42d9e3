"""Networks of the knowledge selector and what they learn from (KS; Wang et al. 2022, Findings of EMNLP).

Shapes: M transitions, O observation components, S components of the encoded state, A action components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from agents.common.networks import mlp
from agents.knowledge_selector.interface import STUDENT, TEACHER


class StateEncoder(nn.Module):
    """The state: teacher's and student's [CLS], each through its own 2-layer MLP; other features as they are.

    With ``squash`` the outputs of the MLPs pass a tanh, so that no feature outweighs the others.
    """

    def __init__(
        self,
        layout: Mapping[str, tuple[int, int]],
        size: int,
        use_other_features: bool,
        generator: torch.Generator,
        squash: bool = True,
    ) -> None:
        super().__init__()
        self._squash = squash
        self._parts = [slice(*layout[TEACHER]), slice(*layout[STUDENT])]
        sizes = [part.stop - part.start for part in self._parts]
        self.teacher, self.student = (mlp(n, [size], size, output_gain=1.0, generator=generator) for n in sizes)
        others = [i for k, v in layout.items() if k not in (TEACHER, STUDENT) for i in range(*v)]
        self._others = others if use_other_features else []
        self.num_outputs = 2 * size + len(self._others)

    def forward(self, observations: Tensor) -> Tensor:
        """States ``[..., S]`` of observations ``[..., O]``."""
        teacher, student = (observations[..., part] for part in self._parts)
        parts = [self.teacher(teacher), self.student(student)]
        if self._squash:
            parts = [torch.tanh(part) for part in parts]
        if self._others:
            parts.append(observations[..., self._others])
        return torch.cat(parts, dim=-1)


class Selector(nn.Module):
    """Actor and critic with their encoders; the target networks are a second one.

    Args:
        layout: of the observation.
        actions: components A.
        hidden: sizes of the two hidden layers of the actor and of the critic, which have three layers each.
        encoder_size: outputs of each [CLS] encoder.
        use_other_features: whether features beside the two [CLS] vectors are part of the state.
        num_critics: heads of the critic, on one pair of encoders.
        share_encoders: one pair of encoders, trained by the critic alone; else each network trains its own.
        squash: whether encoders end in a tanh.
        generator: source of the initial weights (on the CPU).
    """

    def __init__(
        self,
        layout: Mapping[str, tuple[int, int]],
        actions: int,
        *,
        hidden: Sequence[int],
        encoder_size: int,
        use_other_features: bool,
        num_critics: int,
        share_encoders: bool,
        squash: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shared = share_encoders
        self.critic_encoder = StateEncoder(layout, encoder_size, use_other_features, generator, squash)
        size = self.critic_encoder.num_outputs
        self.critics = nn.ModuleList(
            mlp(size + actions, hidden, 1, output_gain=1.0, generator=generator) for _ in range(num_critics)
        )
        self.actor_encoder = (
            self.critic_encoder
            if share_encoders
            else StateEncoder(layout, encoder_size, use_other_features, generator, squash)
        )
        self.actor = mlp(size, hidden, actions, output_gain=0.01, generator=generator)

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the actor's loss trains."""
        return [*self.actor.parameters(), *(() if self.shared else self.actor_encoder.parameters())]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's loss trains."""
        return [*self.critics.parameters(), *self.critic_encoder.parameters()]

    def logits(self, observations: Tensor) -> Tensor:
        """The actor before its sigmoid, ``[..., A]``."""
        state = self.actor_encoder(observations)
        outputs: Tensor = self.actor(state.detach() if self.shared else state)
        return outputs

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a) of every critic, ``[..., C]``."""
        inputs = torch.cat([self.critic_encoder(observations), actions], dim=-1)
        return torch.cat([critic(inputs) for critic in self.critics], dim=-1)


def select(logits: Tensor, hard: bool) -> Tensor:
    """The deterministic policy mu: ``sigmoid(logits)``, thresholded at 0.5 where ``hard``."""
    return (logits > 0).to(logits.dtype) if hard else torch.sigmoid(logits)


def critic_target(rewards: Tensor, terminated: Tensor, next_values: Tensor, gamma: float | Tensor) -> Tensor:
    """TD target ``r + gamma * Q'(s', mu'(s'))``, ``[M]``; nothing follows a terminated step.

    Args:
        rewards: ``[M]``.
        terminated: ``[M]`` bool.
        next_values: ``[M, C]`` of every target critic; the smallest counts (Fujimoto et al. 2018; C is 1 in KS).
        gamma: discount, one or ``[M]`` (``gamma**k`` where ``rewards`` sum k steps).
    """
    following = next_values.amin(dim=-1)
    return rewards + gamma * torch.where(terminated, torch.zeros_like(following), following)


def critic_loss(selector: Selector, observations: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared TD error, summed over the critics."""
    return (selector.q(observations, actions) - targets[:, None]).square().mean(0).sum()


def actor_loss(
    selector: Selector, observations: Tensor, hard: bool, hard_gradient: str, logit_penalty: float
) -> Tensor:
    """``-mean Q(s, mu(s)) + logit_penalty * mean logit^2``; only its gradient in the actor's parameters is meant.

    Args:
        selector: both networks.
        observations: ``[M, O]``.
        hard: whether actions are thresholded.
        hard_gradient: ``straight_through``: the critic sees the thresholded action, whose gradient is handed to the
            sigmoid as if there were no threshold (Bengio et al. 2013); ``soft``: the critic sees the sigmoid.
        logit_penalty: see :class:`agents.knowledge_selector.config.KnowledgeSelectorConfig`.
    """
    logits = selector.logits(observations)
    actions = torch.sigmoid(logits)
    if hard and hard_gradient == "straight_through":
        actions = select(logits, hard=True) + actions - actions.detach()
    return -selector.q(observations, actions)[:, 0].mean() + logit_penalty * logits.square().mean()
