"""Reinforced teacher selection: it learns, credits the action that caused the reward, and says what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teacher_env import TeacherVectorEnv
from terms import TermsVectorEnv

from agents import load_agent, make_agent
from agents.common.rollout import Collector
from agents.policy_gradient.teacher_selector import TeacherSelector, step_means


def score(agent: Any, env: TeacherVectorEnv) -> float:
    """Mean reward of the deterministic policy, by what the actions deserve."""
    observations, _ = env.reset(seed=99)
    total = 0.0
    for _ in range(env.episode_steps):
        observations, rewards, *_ = env.step(agent.predict(observations, deterministic=True)[0])
        total += rewards.mean() / env.episode_steps
    return total


@pytest.mark.parametrize("baseline", ["none", "mean", "learned"])
def test_it_selects_the_good_teachers_of_each_row(baseline: str, tmp_path: Path) -> None:
    agent = make_agent("teacher_selector", TeacherVectorEnv(16, rows=2), seed=0, baseline=baseline)
    judge = TeacherVectorEnv(32, rows=2)
    assert score(agent, judge) < 0.7
    metrics: list[dict[str, float]] = []
    agent.learn(6000, metrics.append)
    assert score(agent, judge) > 0.95
    assert (metrics[-1]["value_loss"] > 0) == (baseline == "learned")
    agent.save(tmp_path / "a")
    larger = load_agent(tmp_path / "a", TeacherVectorEnv(2, rows=9))
    assert score(larger, TeacherVectorEnv(32, rows=9)) > 0.95


@pytest.mark.parametrize("baseline", ["none", "mean", "learned"])
def test_a_reward_that_comes_a_step_late_teaches_nothing(baseline: str) -> None:
    scores = []
    for delay in (False, True):
        env = TeacherVectorEnv(16, rows=2, delay=delay)
        agent = TeacherSelector(env, seed=0, baseline=baseline).learn(5000)
        scores.append(score(agent, TeacherVectorEnv(32, rows=2)))
    assert scores[0] > 0.9
    assert scores[1] < 0.75


def test_a_credit_that_reaches_further_finds_the_late_reward() -> None:
    env = TeacherVectorEnv(16, rows=2, delay=True)
    agent = TeacherSelector(env, seed=0, gamma=1.0, advantage_normalization="per_step").learn(10_000)
    assert score(agent, TeacherVectorEnv(32, rows=2)) > 0.9


def test_policies_are_logistic_and_read_the_row_alone() -> None:
    env = TeacherVectorEnv(3)
    agent = TeacherSelector(env, seed=0)
    shapes = {name: tuple(value.shape) for name, value in agent.policy.state_dict().items()}
    assert shapes == {"network.0.weight": (3, 6), "network.0.bias": (3,)}  # T x (losses and three about the student)
    agent.policy.network[0].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    observations, _ = env.reset(seed=0)
    others = agent.rows.other_index
    changed = observations.copy()
    changed[:, others] += 1.0
    outputs = [agent.policy(torch.from_numpy(given)) for given in (observations, changed)]
    assert torch.equal(*outputs)
    wider = TeacherSelector(env, seed=0, use_other_features=True)
    assert wider.policy.network[0].weight.shape == (3, 9)


def test_one_choice_a_batch() -> None:
    env = TeacherVectorEnv(16, weighting="batch")
    agent = TeacherSelector(env, seed=0, per_batch=True, baseline="mean")
    assert agent.policy.network[0].weight.shape == (3, 9)
    agent.learn(5000)
    assert score(agent, TeacherVectorEnv(32, weighting="batch")) > 0.95


def test_means_are_those_of_valid_returns_at_the_same_step() -> None:
    env = TeacherVectorEnv(2, length=3)
    collector = Collector(env)
    collector.reset(0)
    agent = TeacherSelector(env, seed=0)
    rollout = collector.collect(agent._act, n_steps=6)
    rollout.valid[4, 1] = False
    returns = np.arange(12.0).reshape(6, 2)
    expected = np.tile([[3.5], [(2 + 3 + 8) / 3], [7.5]], (2, 2))
    assert np.allclose(step_means(returns, rollout), expected)


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (lambda: TermsVectorEnv(), {}, "make an env of 'teacher_weighting'"),
        (lambda: TeacherVectorEnv(view="box"), {}, "action_view='subset'"),
        (lambda: TeacherVectorEnv(weighting="batch"), {}, "weighting='sample', or set per_batch=True"),
        (lambda: TeacherVectorEnv(), {"per_batch": True}, "weighting='batch', or set per_batch=False"),
        (lambda: TeacherVectorEnv(without=("row_student", "row_teacher_losses")), {}, "row_features is empty"),
        (lambda: TeacherVectorEnv(), {"baseline": "median"}, "baseline='median'.*none, mean, learned"),
        (lambda: TeacherVectorEnv(), {"row_shared": False}, "row_shared=False"),
        (lambda: TeacherVectorEnv(), {"base_line": "mean"}, "Did you mean 'baseline'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(env: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent("teacher_selector", env(), seed=0, **options)
