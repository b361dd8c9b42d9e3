"""The arithmetic below the agents against slow loops: returns, advantages, collecting, distributions, spaces."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from identity import ScriptedVectorEnv

from agents.common.networks import make_head
from agents.common.normalizer import ObservationNormalizer
from agents.common.rollout import (
    Collector,
    discounted_returns,
    generalized_advantages,
    normalize_advantages,
    successor_values,
)
from agents.common.storage import space_from_json, space_to_json

# -- returns and advantages against loops


def slow_advantage(t: int, n: int, r: Any, v: Any, nxt: Any, term: Any, trunc: Any, gamma: float, lam: float) -> float:
    total, factor = 0.0, 1.0
    for k in range(t, len(r)):
        follow = 0.0 if term[k, n] else nxt[k, n]
        total += factor * (r[k, n] + gamma * follow - v[k, n])
        if term[k, n] or trunc[k, n]:
            break
        factor *= gamma * lam
    return total


def slow_return(t: int, n: int, r: Any, nxt: Any, term: Any, trunc: Any, gamma: float) -> float:
    total, factor = 0.0, 1.0
    for k in range(t, len(r)):
        total += factor * r[k, n]
        factor *= gamma
        if term[k, n]:
            return total
        if trunc[k, n]:
            return total + factor * nxt[k, n]
    return total + factor * nxt[-1, n]


def random_case(ends: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    shape = (13, 6)
    rewards, values, last = rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=6)
    hit = rng.random(shape) < 0.3
    hit[-1, :2] = True  # an end in the very last row, beside replicas that are open there
    kind = rng.integers(0, 3, shape)
    none = np.zeros(shape, dtype=bool)
    term, trunc = {
        "none": (none, none),
        "terminated": (hit, none),
        "truncated": (none, hit),
        "both at once": (hit, hit),
        "mixed": (hit & (kind != 1), hit & (kind != 0)),
    }[ends]
    at = np.argwhere(trunc & ~term)
    return rewards, values, last, term, trunc, at, rng.normal(size=len(at))


@pytest.mark.parametrize("ends", ["none", "terminated", "truncated", "both at once", "mixed"])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.0)])
def test_advantages_and_returns_equal_a_loop(ends: str, gamma: float, lam: float) -> None:
    rewards, values, last, term, trunc, at, final = random_case(ends)
    following = successor_values(values, last, at, final)
    for t, n in itertools.product(range(13), range(6)):  # what follows each step, written out
        expected = last[n] if t == 12 else values[t + 1, n]
        for (tt, nn), value in zip(at, final, strict=True):
            expected = value if (tt, nn) == (t, n) else expected
        assert following[t, n] == expected
    advantages = generalized_advantages(rewards, values, following, term, trunc, gamma, lam)
    returns = discounted_returns(rewards, following, term, trunc, gamma)
    for t, n in itertools.product(range(13), range(6)):
        slow = slow_advantage(t, n, rewards, values, following, term, trunc, gamma, lam)
        assert advantages[t, n] == pytest.approx(slow, rel=1e-12)
        assert returns[t, n] == pytest.approx(slow_return(t, n, rewards, following, term, trunc, gamma), rel=1e-12)


def test_gae_with_lambda_one_is_the_return_minus_the_value() -> None:
    rewards, values, last, term, trunc, at, final = random_case("mixed")
    following = successor_values(values, last, at, final)
    gae = generalized_advantages(rewards, values, following, term, trunc, 0.9, 1.0)
    assert np.allclose(gae, discounted_returns(rewards, following, term, trunc, 0.9) - values, rtol=1e-12)


def test_per_step_normalization_groups_by_step_of_the_episode() -> None:
    rng = np.random.default_rng(0)
    advantages = rng.normal(size=(9, 5)) * 10.0 ** rng.integers(-3, 3, (9, 1))
    index = np.tile(np.arange(9)[:, None] % 4, (1, 5))
    index[8, :] = 7  # a step that only two valid transitions have: too few for a mean of their own
    valid = np.ones((9, 5), dtype=bool)
    valid[8, 2:] = False
    result = normalize_advantages(advantages, "per_step", index, valid)
    whole = advantages[valid]
    for step in range(8):
        group = (index == step) & valid
        members = advantages[group]
        if len(members) == 0:
            continue
        base = members if len(members) >= 4 else whole
        assert np.allclose(result[group], (members - base.mean()) / (base.std() + 1e-8), rtol=1e-9)
    assert (result[~valid] == 0).all()
    batch = normalize_advantages(advantages, "batch", index, valid)
    assert np.allclose(batch[valid], (whole - whole.mean()) / (whole.std() + 1e-8))
    assert (normalize_advantages(advantages, "none", index, valid) == np.where(valid, advantages, 0)).all()


def test_equal_advantages_stay_zero() -> None:
    same = np.full((3, 8), 0.1)
    index = np.tile(np.arange(3)[:, None], (1, 8))
    assert np.abs(normalize_advantages(same, "per_step", index, np.ones((3, 8), dtype=bool))).max() < 1e-6


# -- collecting


def zeros(observations: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    return torch.zeros(len(observations), 1, dtype=torch.int64), np.zeros(len(observations), dtype=np.int64)


def test_collector_across_staggered_ends_of_every_kind() -> None:
    script = [[(2, "terminated"), (3, "truncated")], [(3, "truncated"), (2, "both")], [(9, "terminated")]]
    collector = Collector(ScriptedVectorEnv(script))
    collector.reset(0)
    first = collector.collect(zeros, n_steps=4)
    assert first.step_index.tolist() == [[0, 0, 0], [1, 1, 1], [0, 2, 2], [1, 0, 3]]
    assert first.observations[3].tolist() == [[0, 1, 1], [1, 1, 0], [2, 0, 3]]
    assert np.argwhere(first.terminated).tolist() == [[1, 0]]
    assert np.argwhere(first.truncated).tolist() == [[2, 1]]
    assert first.truncated_at.tolist() == [[2, 1]]
    assert first.truncated_observations.tolist() == [[1, 0, 3]]  # not [1, 1, 0], where the next episode begins
    assert first.last_observations.tolist() == [[0, 1, 2], [1, 1, 1], [2, 0, 4]]
    assert first.episode_returns.tolist() == [0 + 1, 100 + 101 + 102]
    assert first.episode_lengths.tolist() == [2, 3]
    second = collector.collect(zeros, n_steps=1)  # episodes go on where the last rollout stopped
    assert second.step_index.tolist() == [[2, 1, 4]]
    assert second.episode_returns.tolist() == [10 + 11 + 12, 110 + 111]
    assert second.truncated_at.tolist() == [[0, 0]]  # replica 1 was truncated and terminated: nothing follows


def test_whole_episodes_mark_what_comes_after_them() -> None:
    script = [[(2, "terminated")], [(5, "terminated")]]
    collector = Collector(ScriptedVectorEnv(script))
    collector.reset(0)
    rollout = collector.collect(zeros, episodes=1)
    assert rollout.valid.tolist() == [[True, True], [True, True], [False, True], [False, True], [False, True]]
    assert rollout.episode_lengths.tolist() == [2, 5]
    assert not collector.at_start
    with pytest.raises(ValueError, match="not both"):
        collector.collect(zeros)


def test_normalizer_does_not_depend_on_the_cut() -> None:
    data = np.random.default_rng(1).normal(3.0, 2.0, (7, 4, 3)).astype(np.float32)
    whole, parts = ObservationNormalizer(3), ObservationNormalizer(3)
    whole.update(data)
    for row in data:
        parts.update(row)
    flat = data.reshape(-1, 3).astype(np.float64)
    for normalizer in (whole, parts):
        assert np.allclose(normalizer.mean, flat.mean(0), rtol=1e-12)
        assert np.allclose(normalizer.variance, flat.var(0), rtol=1e-12)
    assert np.allclose(whole(data).reshape(-1, 3).std(0), 1.0, atol=1e-3)
    assert np.abs(whole(np.full((1, 3), 1e9, np.float32))).max() == 10.0


# -- distributions


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_discrete_heads_are_distributions(space: Any) -> None:
    head = make_head(space)
    outputs = torch.randn(head.num_outputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if isinstance(space, spaces.Discrete):
        raw = [[i] for i in range(3)]
    elif isinstance(space, spaces.MultiDiscrete):
        raw = [list(pair) for pair in itertools.product(range(2), range(3))]
    else:
        raw = [list(bits) for bits in itertools.product((0.0, 1.0), repeat=3)]
    actions = torch.tensor(raw).to(torch.float64 if isinstance(space, spaces.MultiBinary) else torch.int64)
    rows = outputs.expand(len(raw), -1)
    log_probs = head.log_prob(rows, actions)
    assert log_probs.exp().sum().item() == pytest.approx(1.0)
    assert head.entropy(outputs).item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item())
    assert (head.mode(outputs) == actions[log_probs.argmax()]).all()
    drawn = head.sample(outputs.expand(20_000, -1), torch.Generator().manual_seed(1))
    for action, log_prob in zip(actions, log_probs, strict=True):
        share = (drawn == action).all(-1).double().mean().item()
        assert share == pytest.approx(log_prob.exp().item(), abs=0.015)
    assert all(space.contains(action) for action in head.to_env(actions))


def test_gaussian_head_scales_to_the_box_and_clips() -> None:
    space = spaces.Box(np.array([0.0, -4.0], np.float32), np.array([1.0, 4.0], np.float32))
    head = make_head(space, log_std_init=-0.3)
    mean = torch.tensor([[0.5, -0.5]])
    reference = torch.distributions.Normal(mean, torch.full((2,), -0.3).exp())
    action = torch.tensor([[0.1, 3.0]])
    assert head.log_prob(mean, action).item() == pytest.approx(reference.log_prob(action).sum().item(), rel=1e-6)
    assert head.entropy(mean).item() == pytest.approx(reference.entropy().sum().item(), rel=1e-6)
    assert head.to_env(head.mode(mean)).tolist() == [[0.75, -2.0]]
    assert head.to_env(action)[0, 1] == 4.0
    drawn = head.sample(mean.expand(20_000, 2), torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.std(0), torch.full((2,), -0.3).exp(), atol=0.02)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([np.inf, 0.1], np.float32)),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(5),
    ],
)
def test_spaces_survive_json(space: Any) -> None:
    assert space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))) == space
