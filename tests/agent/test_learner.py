"""What agents that learn have in common: steps, rewards of controls, the way back from a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identity import identity_vector_env

from agents import load_agent, make_agent

NAMES = ["reinforce", "actor_critic", "searched", "sb3/a2c"]


def made(name: str, **options: Any) -> Any:
    if name.startswith("sb3/"):
        pytest.importorskip("stable_baselines3")
    return make_agent(name, identity_vector_env("discrete", 2, length=5), seed=0, **options)


@pytest.mark.parametrize("steps", [0, -5, 2.5, True, None])
@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_no_whole_number_are_refused(name: str, steps: Any) -> None:
    agent = made(name)
    with pytest.raises(ValueError, match=rf"total_timesteps={steps} is not allowed; .* whole number of at least 1"):
        agent.learn(steps)
    assert agent.learn(np.int64(40)).num_timesteps >= 40


@pytest.mark.parametrize("name", NAMES)
def test_agents_learn_from_transformed_rewards(name: str, tmp_path: Path) -> None:
    seen: list[np.ndarray] = []
    log: list[dict[str, float]] = []
    agent = made(name, reward_transform=lambda rewards: (seen.append(rewards.copy()), 0 * rewards + 7)[1])
    agent.learn(40, log.append)
    assert seen and all(rewards.shape[1] == 2 and rewards.max() <= 1 for rewards in seen)
    assert max(metrics["return_mean"] for metrics in log if "return_mean" in metrics) <= 5  # those of the env
    agent.save(tmp_path / "agent")
    again: Any = load_agent(
        tmp_path / "agent", identity_vector_env("discrete", 2, length=5), reward_transform=lambda rewards: rewards[:1]
    )
    with pytest.raises(ValueError, match=r"reward_transform gave shape \(1, 2\) for rewards of shape"):
        again.learn(40)


@pytest.mark.parametrize("name", ["sb3/ppo", "sb3/dqn"])
def test_sb3_leaves_nothing_in_the_temporary_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SB3_LOGDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    log: list[dict[str, float]] = []
    agent = made(name, **({"n_steps": 8} if name == "sb3/ppo" else {"learning_starts": 8, "batch_size": 8}))
    agent.learn(48, log.append).learn(48, log.append, reset_num_timesteps=False)
    assert list(tmp_path.iterdir()) == []
    assert "policy_loss" in log[-1] or "loss" in log[-1]  # SB3's own values still arrive
