"""PGPE: pairs on the same student, steps as in the paper, and learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from identity import KINDS, IdentityEnv, identity_vector_env

import kd_env  # noqa: F401 - registers the environments
from agents import load_agent, make_agent
from agents.policy_gradient.parameter_exploring import ParameterExploring

ROWS = {"budget": 3, "label_noise": 0.3, "batch_size": 4, "evaluation_rows": 16, "max_train_rows": 64}


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_solved(kind: str) -> None:
    agent = ParameterExploring(identity_vector_env(kind, 8), seed=0)
    goal, env = -0.05 if kind == "box" else 0.95, identity_vector_env(kind, 32)
    for _ in range(20):
        agent.learn(800, reset_num_timesteps=False)
        observations, total = env.reset(seed=1000)[0], 0.0
        for _ in range(8):
            observations, rewards, *_ = env.step(agent.predict(observations)[0])
            total += rewards.mean() / 8
        if total > goal:
            return
    pytest.fail(f"score {total} after {agent.num_timesteps} steps")


def rows_env(count: int = 4) -> Any:
    return gym.make_vec("kd_env/SampleWeighting-v0", num_envs=count, **ROWS)


def test_an_update_is_the_mean_of_noise_weighted_by_half_the_difference_of_partners() -> None:
    """Against single episodes, one policy at a time."""
    agent = ParameterExploring(rows_env(), seed=3, episodes_per_update=8)
    before = {name: weight.clone() for name, weight in agent._explored.items()}
    draws = torch.Generator().manual_seed(3 + 1)
    agent.learn(1)
    single, lone = rows_env(2), ParameterExploring(rows_env(2), seed=3)
    steps: list[tuple[float, dict[str, torch.Tensor]]] = []
    for part in range(2):
        noise = {name: torch.randn((2, *w.shape), generator=draws) for name, w in before.items()}
        for m in range(2):
            returns = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    for name, weight in lone._explored.items():
                        weight.copy_(before[name] + sign * 0.3 * noise[name][m])
                observations, _ = single.reset(seed=[3 + 4 * part + m] * 2)
                total = 0.0
                for _ in range(3):
                    observations, rewards, *_ = single.step(lone.predict(observations)[0])
                    total += float(rewards[0])
                returns.append(total)
            steps.append(((returns[0] - returns[1]) / 2, {name: z[m] for name, z in noise.items()}))
    scale = np.sqrt(np.mean([u**2 for u, _ in steps]))
    assert agent.num_timesteps == 24 and scale > 0
    for name, weight in agent._explored.items():
        expected = before[name] + 0.2 * torch.stack([float(u / scale) * z[name] for u, z in steps]).mean(0)
        torch.testing.assert_close(weight, expected, rtol=0, atol=2e-4)


def test_no_component_of_the_policy_is_left_unexplored() -> None:
    agent = ParameterExploring(rows_env(), seed=0)
    before = [weight.clone() for weight in agent._explored.values()]
    agent.learn(1)
    assert all(not torch.equal(a, b) for a, b in zip(before, agent._explored.values(), strict=True))
    assert {name.split(".")[0] for name, _ in agent.policy.named_parameters()} == {"network", "head"}


def test_equal_returns_teach_nothing() -> None:
    agent = ParameterExploring(rows_env(), seed=0, reward_transform=np.zeros_like)
    before = {name: weight.clone() for name, weight in agent._explored.items()}
    said: list[dict[str, float]] = []
    agent.learn(1, lambda metrics: bool(said.append(metrics)) or True)
    assert said[0]["pair_difference"] == said[0]["step_norm"] == 0.0
    assert all(torch.equal(before[name], weight) for name, weight in agent._explored.items())


def test_a_training_that_goes_on_is_as_one_without_a_stop(tmp_path: Path) -> None:
    whole = ParameterExploring(rows_env(), seed=1, episodes_per_update=4).learn(24)
    ParameterExploring(rows_env(), seed=1, episodes_per_update=4).learn(12).save(tmp_path / "half")
    half: Any = load_agent(tmp_path / "half", rows_env())
    half.learn(12, reset_num_timesteps=False)
    assert half.num_timesteps == whole.num_timesteps == 24
    for name, weight in whole._explored.items():
        assert torch.equal(weight, half._explored[name])
    observations = rows_env().reset(seed=9)[0]
    assert np.array_equal(whole.predict(observations)[0], half.predict(observations, deterministic=False)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0.0}, "std=0.0 is not allowed; it must be above 0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"episodes_per_update": 1}, "episodes_per_update=1 is not allowed; it must be at least 2"),
        ({"hidden_sizes": [0]}, "hidden_sizes"),
        ({"ent_coef": 0.1}, "'ent_coef'"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent("pgpe", identity_vector_env("box", 2), seed=0, **options)


def test_pairs_need_an_even_number_of_replicas() -> None:
    with pytest.raises(ValueError, match=r"num_envs=3.*num_envs=8"):
        make_agent("pgpe", identity_vector_env("box", 3), seed=0)
    with pytest.raises(ValueError, match="num_envs=1"):
        make_agent("pgpe", IdentityEnv("box"), seed=0)
