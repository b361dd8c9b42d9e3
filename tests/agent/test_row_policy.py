"""Policies that are shared by the rows of a batch: learning, other batch sizes, storage, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from identity import identity_vector_env
from teacher_env import TeacherEnv, TeacherVectorEnv

from agents import load_agent, make_agent
from agents.common.networks import make_head
from agents.policy_gradient.actor_critic import ActorCritic
from agents.policy_gradient.on_policy import OnPolicyAgent
from agents.policy_gradient.reinforce import Reinforce
from agents.policy_gradient.row_policy import RowHead, RowNormalizer, RowPolicy, RowValue
from agents.policy_gradient.rows import read_rows

CLASSES = [Reinforce, ActorCritic]
VIEWS = [("subset", False), ("box", False), ("box", True), ("multi", False)]


def score(agent: Any, env: TeacherVectorEnv, seed: int = 99) -> float:
    """Mean reward of the deterministic policy."""
    observations, _ = env.reset(seed=seed)
    total = 0.0
    for _ in range(env.episode_steps):
        observations, rewards, *_ = env.step(agent.predict(observations, deterministic=True)[0])
        total += rewards.mean() / env.episode_steps
    return total


def options(view: str, gate: bool, rows: int) -> dict[str, Any]:
    few = {"teachers": ("a", "b")} if view == "box" else {}
    return {"view": view, "gate": gate, "rows": rows, **few}


@pytest.mark.parametrize(("view", "gate"), VIEWS)
@pytest.mark.parametrize("cls", CLASSES)
def test_what_a_row_says_is_learned_and_holds_at_another_batch_size(
    cls: type[OnPolicyAgent], view: str, gate: bool, tmp_path: Path
) -> None:
    here = options(view, gate, 2 if view == "box" else 4)
    there = options(view, gate, 7)
    agent = cls(TeacherVectorEnv(16, **here), seed=0, ent_coef=0.0, hidden_sizes=[32], learning_rate=2e-2)
    assert agent.config.row_shared is True
    goal = -0.05 if view == "box" else 0.97
    assert score(agent, TeacherVectorEnv(32, **here)) < goal - 0.15
    for _ in range(25):
        agent.learn(1000, reset_num_timesteps=False)
        if score(agent, TeacherVectorEnv(32, **here)) > goal:
            break
    else:
        pytest.fail(f"score {score(agent, TeacherVectorEnv(32, **here))} after {agent.num_timesteps} steps")
    agent.save(tmp_path / "a")
    # The gate and the values read means over rows, which other numbers of rows move: a little is lost there.
    assert score(load_agent(tmp_path / "a", TeacherVectorEnv(4, **there)), TeacherVectorEnv(32, **there)) > goal - 0.03


def test_a_policy_for_the_whole_observation_learns_more_slowly() -> None:
    scores = []
    for shared in (False, True):
        agent = Reinforce(TeacherVectorEnv(16), seed=0, row_shared=shared, ent_coef=0.0).learn(2000)
        assert agent.config.row_shared is shared
        scores.append(score(agent, TeacherVectorEnv(32)))
    assert scores[1] > scores[0] + 0.1


@pytest.mark.parametrize("cls", CLASSES)
def test_learning_goes_on_at_another_batch_size(cls: type[OnPolicyAgent], tmp_path: Path) -> None:
    cls(TeacherVectorEnv(8, rows=4), seed=0).learn(200).save(tmp_path / "a")
    more = cls.load(tmp_path / "a", TeacherVectorEnv(3, rows=6))
    before = [parameter.clone() for parameter in more.policy.parameters()]
    count = more.num_timesteps
    more.learn(60, reset_num_timesteps=False)
    assert more.num_timesteps >= count + 60
    assert not all(torch.equal(a, b) for a, b in zip(before, more.policy.parameters(), strict=True))
    more.save(tmp_path / "b")
    assert load_agent(tmp_path / "b").predict(np.zeros(1 + 6 * 6 + 2))[0].shape == (18,)
    with pytest.raises(ValueError, match=r"observations of 27 components, the env has 39.*force_reset=True"):
        cls.load(tmp_path / "a", TeacherVectorEnv(8, rows=6), force_reset=False)


@pytest.mark.parametrize(("view", "gate"), VIEWS)
@pytest.mark.parametrize("cls", CLASSES)
def test_a_loaded_agent_continues_bit_equal(cls: type[OnPolicyAgent], view: str, gate: bool, tmp_path: Path) -> None:
    env = TeacherVectorEnv(3, view=view, gate=gate)
    agent = cls(env, seed=4).learn(40)
    agent.save(tmp_path / "agent")
    twin_env = copy.deepcopy(env)
    twin = cls.load(tmp_path / "agent", twin_env, force_reset=False)
    assert twin.config == agent.config
    for one, world in ((agent, env), (twin, twin_env)):
        one.learn(40, reset_num_timesteps=False)
        world.reset(seed=1)
    for a, b in zip([*agent.policy.parameters()], [*twin.policy.parameters()], strict=True):
        assert torch.equal(a, b)
    for name, value in agent.normalizer.state().items():
        assert torch.equal(value, twin.normalizer.state()[name])
    observations = env.reset(seed=9)[0]
    actions, _ = agent.predict(observations)
    assert np.array_equal(actions, twin.predict(observations)[0])
    assert env.action_space.contains(actions)
    assert env.single_action_space.contains(agent.predict(observations[0])[0])


def test_rows_are_treated_alike_and_apart() -> None:
    env = TeacherVectorEnv(5, view="box", gate=True)
    agent = Reinforce(env, seed=0)
    agent.policy.network[-1].weight.data.normal_(0.0, 0.03, generator=torch.Generator().manual_seed(0))
    observations, _ = env.reset(seed=3)
    rows = read_rows(env)
    order = np.array([2, 0, 3, 1])
    moved = observations.copy()
    moved[:, rows.row_index] = observations[:, rows.row_index[order]]
    one, two = (agent.predict(given, deterministic=True)[0] for given in (observations, moved))
    assert np.allclose(one[:, :12].reshape(5, 4, 3)[:, order], two[:, :12].reshape(5, 4, 3), atol=1e-6)
    assert np.allclose(one[:, 12], two[:, 12], atol=1e-6)  # the gate reads a mean over rows
    changed = observations.copy()
    changed[:, rows.row_index[1]] += 1.0
    other = agent.predict(changed, deterministic=True)[0][:, :12].reshape(5, 4, 3) != one[:, :12].reshape(5, 4, 3)
    assert other[:, 1].all()
    assert not other[:, [0, 2, 3]].any()


def test_the_parts_agree_with_a_loop_over_rows() -> None:
    env = TeacherVectorEnv(5, view="box", gate=True)
    rows = read_rows(env)
    observations = torch.from_numpy(env.reset(seed=0)[0])
    policy = RowPolicy(rows, (8,), -0.5, torch.Generator().manual_seed(0))
    outputs = policy(observations)
    head = policy.head
    row, others = rows.row_index, rows.other_index
    assert sorted([*row.ravel(), *others]) == list(range(observations.shape[1]))
    for b in range(4):
        one = policy.network(torch.cat([observations[:, row[b]], observations[:, others]], dim=1))
        assert torch.allclose(outputs[:, 3 * b : 3 * b + 3], one)
    pooled = torch.cat([observations[:, others], sum(observations[:, row[b]] for b in range(4)) / 4], dim=1)
    assert torch.allclose(outputs[:, 12:], policy.gate(pooled))
    value = RowValue(rows, (8,), torch.Generator().manual_seed(1))
    assert torch.allclose(value(observations), value.network(pooled))
    # The whole action has the distribution of the flat head with the same deviations.
    flat = make_head(env.single_action_space, -0.5)
    actions = head.sample(outputs, torch.Generator().manual_seed(2))
    assert torch.allclose(head.log_prob(outputs, actions), flat.log_prob(outputs, actions), atol=1e-5)
    assert torch.allclose(head.entropy(outputs), flat.entropy(outputs), atol=1e-5)
    assert np.array_equal(head.to_env(actions), flat.to_env(actions))
    assert torch.equal(head.mode(outputs), outputs)
    assert sum(parameter.numel() for parameter in head.parameters()) == 3 + 1  # one deviation a teacher, and the gate's


def test_one_component_a_row() -> None:
    """As where an action weighs the samples themselves: B components for B rows."""
    env = TeacherVectorEnv(2, view="box", teachers=("only",), rows=5, decision="sample_weighting")
    env.weighting = "batch"  # says nothing where no teachers are weighed
    rows = read_rows(env)
    assert rows.structure.action == spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert RowHead(rows, 0.0).num_outputs == 5
    assert Reinforce(env, seed=0).learn(20).predict(env.reset(seed=0)[0])[0].shape == (2, 5)


def test_moments_are_shared_by_the_rows() -> None:
    env = TeacherVectorEnv(50)
    rows = read_rows(env)
    normalizer = RowNormalizer(rows)
    first, second = env.reset(seed=0)[0], env.reset(seed=1)[0]
    normalizer.update(first)
    normalizer.update(second)
    both = np.concatenate([first, second]).astype(np.float64)
    columns = both[:, rows.row_index].reshape(-1, 6)
    others = both[:, rows.other_index]
    normalized = normalizer(first)
    assert np.allclose(
        normalized[:, rows.row_index[2]], (first[:, rows.row_index[2]] - columns.mean(0)) / columns.std(0), atol=1e-5
    )
    with np.errstate(invalid="ignore"):
        expected = (first[:, rows.other_index[1:]] - others[:, 1:].mean(0)) / others[:, 1:].std(0)
    assert np.allclose(normalized[:, rows.other_index[1:]], expected, atol=1e-5)
    again = RowNormalizer(rows)
    again.restore(normalizer.state())
    assert np.array_equal(again(second), normalizer(second))


def test_rows_alone_are_enough() -> None:
    env = TeacherVectorEnv(4, without=("progress", "signal"))
    agent = ActorCritic(env, seed=0).learn(200)
    assert env.action_space.contains(agent.predict(env.reset(seed=0)[0])[0])


def test_envs_that_are_stepped_in_turn_have_rows_too() -> None:
    env = SyncVectorEnv([TeacherEnv] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert Reinforce(env, seed=0).config.row_shared is True
    assert Reinforce(TeacherEnv(), seed=0).learn(20).rows is not None


def test_other_envs_keep_their_policy() -> None:
    for env in (identity_vector_env("box", 2), TeacherVectorEnv(weighting="batch")):
        agent = make_agent("reinforce", env, seed=0)
        assert agent.config.row_shared is False  # type: ignore[attr-defined]
        assert not isinstance(agent.policy, RowPolicy)  # type: ignore[attr-defined]


class Odd(TeacherVectorEnv):
    """Bounds that differ between rows."""

    def __init__(self) -> None:
        super().__init__(view="box")
        high = np.linspace(1, 2, 12).astype(np.float32)
        self.single_action_space = spaces.Box(-high, high)


class Gaps(TeacherVectorEnv):
    """Observations with components of which the layout says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.single_observation_space = spaces.Box(-1, 1, (50,), np.float32)


class Wrong(TeacherVectorEnv):
    """A feature that is none of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.row_features = (*self.row_features, "signal")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: identity_vector_env("box", 2), "row_features is empty"),
        (lambda: TeacherVectorEnv(weighting="batch"), "weighting='sample'"),
        (lambda: TeacherVectorEnv(decision="knowledge_selection"), "selects knowledge for the whole batch"),
        (Odd, "not the same components for each of 4 rows"),
        (Gaps, "gaps in the observation of 50"),
        (Wrong, r"'signal' of the env has the shape \(2,\)"),
    ],
)
def test_rows_that_are_not_there_are_named(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reinforce(env(), seed=0, row_shared=True)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row_shared='yes'.*'auto'"):
        Reinforce(TeacherVectorEnv(), seed=0, row_shared="yes")
    agent = Reinforce(TeacherVectorEnv(), seed=0)
    with pytest.raises(ValueError, match="give the env"):
        Reinforce(agent.spaces, seed=0, row_shared=True)


def test_other_rows_are_refused_on_load_naming_both(tmp_path: Path) -> None:
    Reinforce(TeacherVectorEnv(), seed=0).save(tmp_path / "a")
    trained = (
        r"rows of row_teacher_losses \[3\], row_student \[3\] beside progress \[1\], signal \[2\].*MultiBinary\(3\)"
    )
    for env, present in [
        (TeacherVectorEnv(teachers=("a", "b")), r"row_teacher_losses \[2\].*MultiBinary\(2\)"),
        (TeacherVectorEnv(without=("signal",)), r"beside progress \[1\], with"),
        (TeacherVectorEnv(view="box"), r"Box\(-1.0, 1.0, \(3,\), float32\) a row"),
        (TeacherVectorEnv(weighting="batch"), "weighting='sample'"),
        (identity_vector_env("box", 2), "row_features is empty"),
    ]:
        with pytest.raises(
            ValueError, match=rf"trained on {trained} a row and no gate, (the env has|but here) .*{present}"
        ):
            load_agent(tmp_path / "a", env)
    Reinforce(TeacherVectorEnv(), seed=0, row_shared=False).save(tmp_path / "flat")
    with pytest.raises(ValueError, match="observation space"):
        load_agent(tmp_path / "flat", TeacherVectorEnv(rows=5))
    assert load_agent(tmp_path / "flat", TeacherVectorEnv()).config.row_shared is False  # type: ignore[attr-defined]
