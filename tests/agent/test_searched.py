"""The search of one constant action: what it finds, what it costs, and that a break changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents import load_agent, make_agent
from agents.rules.searched import Searched
from kd_env import DistillVectorEnv

TARGET = np.array([0.4, -0.6], np.float32)


class Bowl(gym.Env[Any, Any]):
    """Four steps; what an action costs is its distance from a target, and noise."""

    episode_steps = 4
    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space: Any, noise: float = 0.1) -> None:
        self.action_space, self.noise, self.step_count = action_space, noise, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return self.observation_space.low, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        distance = np.abs(np.resize(np.asarray(action, float), 2) - TARGET).sum()
        reward = -float(distance) + self.noise * self.np_random.normal()
        return self.observation_space.low, reward, self.step_count == 4, False, {}


def bowls(count: int, action_space: Any, noise: float = 0.1) -> SyncVectorEnv:
    made = [lambda: Bowl(action_space, noise)] * count
    return SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)


BOX = spaces.Box(-1, 1, (2,), np.float32)


def test_finds_a_good_constant_with_its_budget() -> None:
    steps = 16 * 4 * 4  # n log2(n) episodes of four steps for n = 16
    agent = Searched(bowls(4, BOX), seed=0).learn(steps)
    assert agent.num_timesteps == steps and agent.num_episodes == 64
    assert len(agent.actions) == 16
    assert sorted(agent.counts.tolist()) == [1] * 8 + [3] * 4 + [7] * 2 + [15] * 2
    true = -np.abs(agent.actions - TARGET).sum(-1)
    np.testing.assert_array_equal(agent.best, agent.actions[np.argmax(true)])
    action, _ = agent.predict(np.zeros((5, 3)))
    np.testing.assert_array_equal(action, np.tile(agent.best, (5, 1)))
    np.testing.assert_array_equal(agent.predict(np.zeros(3), deterministic=True)[0], agent.best)


def test_halves_as_a_slow_version_does() -> None:
    """Without noise the order is known from the first episode on: at every end the better half is left."""
    seen: list[float] = []
    agent = Searched(bowls(8, BOX, 0.0), seed=3, candidates=8).learn(
        8 * 3 * 4, lambda m: seen.append(m["candidates_left"])
    )
    assert seen == [4.0, 2.0, 2.0]
    order = np.argsort(np.abs(agent.actions - TARGET).sum(-1))
    assert sorted(np.flatnonzero(agent.counts > 1)) == sorted(order[:4])
    np.testing.assert_array_equal(agent.best, agent.actions[order[0]])


@pytest.mark.parametrize(
    ("space", "all_of_them"),
    [(spaces.Discrete(3, start=-1), 3), (spaces.MultiBinary(2), 4), (spaces.MultiDiscrete([2, 3]), 6)],
)
def test_small_spaces_are_searched_whole(space: Any, all_of_them: int) -> None:
    agent = Searched(bowls(2, space), seed=0).learn(64 * 6 * 4)
    assert len(agent.actions) == all_of_them
    assert all(space.contains(action) or space.contains(int(action)) for action in agent.actions)


def test_a_break_changes_nothing(tmp_path: Path) -> None:
    whole = Searched(bowls(3, BOX), seed=1).learn(200)
    part = Searched(bowls(3, BOX), seed=1)
    part.learn(200, lambda metrics: metrics["timesteps"] < 60)
    part.save(tmp_path / "a")
    again: Any = load_agent(tmp_path / "a", bowls(3, BOX))
    again.learn(200 - again.num_timesteps, reset_num_timesteps=False)
    assert again.num_timesteps == whole.num_timesteps
    np.testing.assert_array_equal(again.sums, whole.sums)
    np.testing.assert_array_equal(again.best, whole.best)
    assert not [path for path in (tmp_path / "a").iterdir() if path.suffix not in (".json", ".safetensors")]


def test_searches_students(tiny_problem: Any) -> None:
    """In an environment of ours: constant weights and gate, one episode a candidate at first."""
    envs = DistillVectorEnv(2, problem=tiny_problem, action_view="box")
    agent: Any = make_agent("searched", envs, seed=0)
    random = agent.best.copy()
    agent.learn(4 * 2 * envs.episode_steps)
    assert agent.num_episodes == 8 and len(agent.actions) == 4
    assert envs.single_action_space.contains(agent.best) and random.shape == agent.best.shape


def test_rows_share_the_action(tiny_set: dict[str, Any], tiny: dict[str, Any]) -> None:
    envs = DistillVectorEnv(
        2, **{**tiny_set, "decision": "teacher_weighting", "weighting": "sample", "updates_per_step": 1}
    )
    agent: Any = make_agent("searched", envs, seed=0)
    rows = agent.best.reshape(envs.unwrapped.batch_size, -1)
    assert (rows == rows[0]).all() and len(set(rows[0])) == 3
    with pytest.raises(ValueError, match="rule 'uniform'"):
        make_agent(
            "searched", DistillVectorEnv(2, **{**tiny, "decision": "sample_weighting", "updates_per_step": 1}), seed=0
        )


def test_what_was_not_tried_is_not_the_best() -> None:
    """Returns are below 0 here: a mean of no episode, 0, would win."""
    agent = Searched(bowls(2, BOX), seed=0).learn(64 * 6 * 4, lambda _: False)
    assert len(agent.actions) == 64 and agent.counts.sum() == 2
    tried = agent.actions[agent.counts > 0]
    assert (tried == agent.best).all(axis=1).any()


def test_weights_are_searched_and_no_learning_rate(tiny_problem: Any) -> None:
    envs = DistillVectorEnv(2, problem=tiny_problem, action_view="box")
    agent: Any = Searched(envs, seed=0).learn(64 * 6 * envs.episode_steps, lambda _: False)
    assert envs.unwrapped.action_names[-1] == "gate" and (agent.actions[:, -1] == 1.0).all()
    assert agent.actions[:, 0].min() < -0.5


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"candidates=64 is more than the 10 episodes"):
        Searched(bowls(2, BOX), candidates=64).learn(40)
    with pytest.raises(ValueError, match="candidates=1"):
        Searched(bowls(2, BOX), candidates=1)
    with pytest.raises(ValueError, match=r"holds 1 episodes of 4 steps.*8 or more"):
        Searched(bowls(2, BOX)).learn(5)
    endless: Any = gym.make("Pendulum-v1", max_episode_steps=-1)
    with pytest.raises(ValueError, match="known number of steps"):
        Searched(endless)
