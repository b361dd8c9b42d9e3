"""The knowledge selector as published: its updates against a transcription that acts and learns on its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_knowledge_selector import tensors, vector_env
from torch import Tensor

from agents import load_agent, make_agent
from agents.knowledge_selector.published import PublishedSelector

REPLICAS, LENGTH, GAMMA, COEF, RATE = 2, 4, 0.9, 0.3, 0.02


def apply(w: dict[str, Tensor], name: str, x: Tensor, layers: int) -> Tensor:
    """An MLP with tanh between its layers."""
    for i in range(layers):
        x = x @ w[f"{name}.{2 * i}.weight"].T + w[f"{name}.{2 * i}.bias"]
        x = torch.tanh(x) if i < layers - 1 else x
    return x


def state_of(w: dict[str, Tensor], o: Tensor) -> Tensor:
    """Both [CLS] vectors, each through its own 2-layer MLP; the progress, the last component, is not part of it."""
    return torch.cat(
        [apply(w, "critic_encoder.teacher", o[:, :1], 2), apply(w, "critic_encoder.student", o[:, 1:2], 2)], -1
    )


def mu(w: dict[str, Tensor], o: Tensor) -> Tensor:
    return torch.sigmoid(apply(w, "actor", state_of(w, o).detach(), 3))


def q(w: dict[str, Tensor], o: Tensor, a: Tensor) -> Tensor:
    return apply(w, "critics.0", torch.cat([state_of(w, o), a], -1), 3)[:, 0]


def published(start: dict[str, Tensor], phases: int) -> dict[str, Tensor]:
    """The algorithm of the paper on its own environment, in float64; the parameters afterwards."""
    w = {name: value.detach().double().clone().requires_grad_() for name, value in start.items()}
    actor = torch.optim.Adam([value for name, value in w.items() if name.startswith("actor.")], lr=RATE)
    critic = torch.optim.Adam([value for name, value in w.items() if name.startswith("critic")], lr=RATE)
    env = vector_env("soft", REPLICAS, length=LENGTH)
    low, high = env.single_action_space.low, env.single_action_space.high  # type: ignore[attr-defined]
    observations, _ = env.reset(seed=0)
    previous = None
    for phase in range(phases):
        o = torch.as_tensor(observations).double()
        a = mu(w, o).detach()
        observations, rewards, terminated, _, _ = env.step((low + a.numpy() * (high - low)).astype(np.float32))
        following = torch.as_tensor(observations).double()
        r = torch.as_tensor(rewards)
        if phase % LENGTH:
            assert previous is not None
            r = r - COEF * torch.nn.functional.cosine_similarity(a, previous, dim=-1)
        previous = a
        with torch.no_grad():
            y = r + GAMMA * q(w, following, mu(w, following)) * ~torch.as_tensor(terminated)
        critic.zero_grad()
        (q(w, o, a) - y).square().mean().backward()
        critic.step()
        actor.zero_grad()
        (-q(w, o, mu(w, o)).mean()).backward()
        actor.step()
    return w


@pytest.mark.parametrize("phases", [1, 6])
def test_a_phase_is_one_update_of_the_paper(phases: int) -> None:
    """Also across the end of an episode: what is learned in one phase acts in the next."""
    env = vector_env("soft", REPLICAS, length=LENGTH)
    agent = PublishedSelector(
        env, seed=0, gamma=GAMMA, exploration_coef=COEF, learning_rate=RATE, critic_learning_rate=RATE
    )
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():  # the actor is nearly constant at first, and biases are 0: a wrong one would not show
        for parameter in agent.selector.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
    agent.target = copy.deepcopy(agent.selector).requires_grad_(False)
    wanted = published({n: p for n, p in agent.selector.named_parameters()}, phases)
    agent.learn(phases * REPLICAS)
    assert agent.num_updates == phases and len(agent.replay) == 0
    for name, parameter in agent.selector.named_parameters():
        apart = (parameter.detach().double() - wanted[name].detach()).abs()
        # Adam divides by the size of the gradient: single entries whose gradient is near 0 differ in float32.
        assert (apart > 2e-5).double().mean() < 0.02 and apart.max() < RATE / 4, name


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_it_acts_without_noise_and_is_kept(mode: str, tmp_path: Path) -> None:
    """Asked for a sample it says the same; saved and loaded it goes on bit-equal."""
    env = vector_env(mode, REPLICAS, length=LENGTH)
    agent: Any = make_agent("knowledge_selector_published", env, seed=3, mode=mode)
    agent.learn(12)
    observations, _ = env.reset(seed=1)
    assert np.array_equal(agent.predict(observations)[0], agent.predict(observations, deterministic=True)[0])
    agent.save(tmp_path / "agent")
    twin = vector_env(mode, REPLICAS, length=LENGTH)
    other: Any = load_agent(tmp_path / "agent", twin)
    assert isinstance(other, PublishedSelector)
    for one in (agent, other):
        one.learn(8)
    assert all(torch.equal(value, tensors(other)[name]) for name, value in tensors(agent).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exploration_noise": 0.2}, "exploration_noise=0.2 is no part of the published"),
        ({"td_steps": 10}, "td_steps=10 is no part"),
        ({"num_critics": 2}, "agent=knowledge_selector"),
        ({"max_grad_norm": 1.0}, "max_grad_norm=1.0 is no part"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
    ],
)
def test_what_is_not_published_is_refused(options: dict[str, Any], message: str) -> None:
    """Named, with the agent that has it."""
    with pytest.raises(ValueError, match=message):
        PublishedSelector(vector_env("soft", 1), **options)
