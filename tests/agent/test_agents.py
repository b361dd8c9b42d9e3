"""Our own agents: learning on identity environments, storage, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from identity import KINDS, IdentityEnv, identity_vector_env

from agents import Agent, agent_kind, agent_names, load_agent, make_agent
from agents.policy_gradient.actor_critic import ActorCritic
from agents.policy_gradient.on_policy import OnPolicyAgent
from agents.policy_gradient.reinforce import Reinforce

CLASSES = [Reinforce, ActorCritic]


# -- learning


def score(agent: Any, kind: str) -> float:
    """Mean reward of the deterministic policy."""
    env = identity_vector_env(kind, 32)
    observations, _ = env.reset(seed=1000)
    total = 0.0
    for _ in range(8):
        observations, rewards, *_ = env.step(agent.predict(observations, deterministic=True)[0])
        total += rewards.mean() / 8
    return total


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_identity_is_solved(cls: type[OnPolicyAgent], kind: str, count: int) -> None:
    env = IdentityEnv(kind) if count == 1 else identity_vector_env(kind, count)
    goal = -0.04 if kind == "box" else 0.97
    agent = cls(env, seed=0, learning_rate=1e-2, ent_coef=0.0)
    assert score(agent, kind) < goal - 0.1
    for _ in range(20):
        agent.learn(800, reset_num_timesteps=False)
        if score(agent, kind) > goal:
            return
    pytest.fail(f"score {score(agent, kind)} after {agent.num_timesteps} steps")


def test_reinforce_without_a_learned_baseline() -> None:
    """The mean over episodes stands in for it: solved all the same, and no value network has a say."""
    env = identity_vector_env("discrete", 16)
    agent = Reinforce(env, seed=0, learning_rate=1e-2, ent_coef=0.0, learned_baseline=False)
    before = [parameter.clone() for parameter in agent.value.parameters()]
    other = Reinforce(identity_vector_env("discrete", 16), seed=0, learning_rate=1e-2, ent_coef=0.0)
    for parameter in other.value.parameters():
        parameter.data.fill_(3.0)  # opinions of any size
    other.config = agent.config
    for one in (agent, other):
        one.learn(640)
    assert all(torch.equal(a, b) for a, b in zip(agent.policy.parameters(), other.policy.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(agent.value.parameters(), before, strict=True))
    assert score(agent.learn(8000, reset_num_timesteps=False), "discrete") > 0.95


def test_truncated_identity_is_solved_too() -> None:
    agent = ActorCritic(identity_vector_env("discrete", 8, truncate=True), seed=0, learning_rate=1e-2)
    assert score(agent.learn(8000), "discrete") > 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_predict_takes_one_observation_or_a_batch(cls: type[OnPolicyAgent], kind: str) -> None:
    env = identity_vector_env(kind, 3)
    agent = cls(env, seed=0)
    observations, _ = env.reset(seed=0)
    for deterministic in (False, True):
        actions, state = agent.predict(observations, deterministic=deterministic)
        assert state is None
        assert env.action_space.contains(actions)
        assert env.single_action_space.contains(agent.predict(observations[0], deterministic=deterministic)[0])
    one = [agent.predict(o, deterministic=True)[0] for o in observations]
    assert np.allclose(agent.predict(observations, deterministic=True)[0], np.stack(one), atol=1e-6)
    with pytest.raises(ValueError, match="expected"):
        agent.predict(observations[:, :1])


def parameters(agent: OnPolicyAgent) -> list[torch.Tensor]:
    optimizers = (agent.policy_optimizer, agent.value_optimizer)
    moments = [v for o in optimizers for s in o.state_dict()["state"].values() for _, v in sorted(s.items())]
    return [*agent.policy.parameters(), *agent.value.parameters(), *moments, torch.tensor(agent.normalizer.mean)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_a_loaded_agent_continues_bit_equal(cls: type[OnPolicyAgent], kind: str, tmp_path: Path) -> None:
    env = identity_vector_env(kind, 3, length=5)
    options = {"n_steps": 7} if cls is ActorCritic else {"episodes_per_update": 5}  # ends inside and across rollouts
    agent = cls(env, seed=4, **options).learn(60)
    agent.predict(env.observation_space.sample())
    agent.save(tmp_path / "agent")
    twin_env = copy.deepcopy(env)
    twin = cls.load(tmp_path / "agent", twin_env, force_reset=False)
    assert twin.config == agent.config
    history: list[list[dict[str, float]]] = [[], []]
    agent.learn(60, history[0].append, reset_num_timesteps=False)
    twin.learn(60, history[1].append, reset_num_timesteps=False)
    for a, b in zip(parameters(agent), parameters(twin), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*history, strict=True):
        assert {**a, "fps": 0} == {**b, "fps": 0}
    observations = env.reset(seed=9)[0]
    assert np.array_equal(agent.predict(observations)[0], twin.predict(observations)[0])


@pytest.mark.parametrize("cls", CLASSES)
def test_acting_does_not_change_learning(cls: type[OnPolicyAgent]) -> None:
    runs = []
    for look in (False, True):
        env = identity_vector_env("discrete", 4)
        agent = cls(env, seed=0).learn(64)
        if look:
            agent.predict(np.zeros((50, 3), np.float32))
        runs.append(parameters(agent.learn(64, reset_num_timesteps=False)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("cls", CLASSES)
def test_global_generators_are_left_alone(cls: type[OnPolicyAgent]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    cls(identity_vector_env("multi_discrete", 2), seed=0).learn(40)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("cls", CLASSES)
def test_callback_gets_plain_floats_and_can_stop(cls: type[OnPolicyAgent]) -> None:
    seen: list[dict[str, float]] = []

    def stop_after_two(metrics: dict[str, float]) -> bool:
        seen.append(metrics)
        return len(seen) < 2

    agent = cls(identity_vector_env("discrete", 4), seed=0)
    agent.learn(100_000, stop_after_two)
    assert len(seen) == 2
    assert agent.num_timesteps == seen[-1]["timesteps"] < 100_000
    assert all(type(value) is float and np.isfinite(value) for metrics in seen for value in metrics.values())
    assert {"return_mean", "episodes", "fps", "policy_loss", "value_loss", "entropy"} <= set(seen[0])


@pytest.mark.parametrize("cls", CLASSES)
def test_progress_bar_shows_the_return(cls: type[OnPolicyAgent], capsys: pytest.CaptureFixture[str]) -> None:
    cls(identity_vector_env("discrete", 4), seed=0).learn(64, progress_bar=True)
    assert "return_mean" in capsys.readouterr().err


@pytest.mark.parametrize("cls", CLASSES)
def test_reward_transform_decides_what_is_learned_but_not_what_is_reported(cls: type[OnPolicyAgent]) -> None:
    shapes = []

    def negate(rewards: np.ndarray) -> np.ndarray:
        shapes.append(rewards.shape)
        return -rewards

    seen: list[dict[str, float]] = []
    env = identity_vector_env("multi_binary", 8)
    agent = cls(env, seed=0, learning_rate=1e-2, reward_transform=negate).learn(8000, seen.append)
    assert score(agent, "multi_binary") < 0.1
    assert all(0 <= metrics["return_mean"] <= 8 for metrics in seen)
    assert shapes[0][1] == 8
    with pytest.raises(ValueError, match="reward_transform gave shape"):
        cls(env, seed=0, reward_transform=lambda rewards: rewards[:1]).learn(1)


# -- storage and refusals


@pytest.mark.parametrize("name", ["reinforce", "actor_critic"])
def test_names_make_and_load_agents(name: str, tmp_path: Path) -> None:
    env = identity_vector_env("box", 2)
    agent = make_agent(name, env, seed=3, hidden_sizes=[16])
    assert agent_kind(name) == "agent"
    assert isinstance(agent, Agent)
    agent.save(tmp_path / "a")
    assert not [path for path in (tmp_path / "a").iterdir() if path.suffix not in (".json", ".safetensors")]
    acting = load_agent(tmp_path / "a")
    observations = env.reset(seed=0)[0]
    one, two = (x.predict(observations, deterministic=True)[0] for x in (agent, acting))
    assert np.array_equal(one, two)
    with pytest.raises(ValueError, match="no env to learn in"):
        acting.learn(10)


def test_spaces_are_checked_on_load(tmp_path: Path) -> None:
    make_agent("reinforce", identity_vector_env("discrete", 2), seed=0).save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"Discrete\(3\).*MultiBinary\(3\)"):
        load_agent(tmp_path / "a", identity_vector_env("multi_binary", 2))
    with pytest.raises(ValueError, match="observation space"):
        load_agent(tmp_path / "a", identity_vector_env("multi_discrete", 2))
    with pytest.raises(ValueError, match="'reinforce', not 'actor_critic'"):
        ActorCritic.load(tmp_path / "a")


def test_running_episodes_need_as_many_replicas(tmp_path: Path) -> None:
    ActorCritic(identity_vector_env("discrete", 2), seed=0).learn(10).save(tmp_path / "a")
    with pytest.raises(ValueError, match="2 replicas, the env has 3"):
        ActorCritic.load(tmp_path / "a", identity_vector_env("discrete", 3), force_reset=False)
    more = ActorCritic.load(tmp_path / "a", identity_vector_env("discrete", 3))
    assert more.learn(30, reset_num_timesteps=False).num_timesteps > 30


def test_a_crash_while_saving_keeps_the_old_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Reinforce(identity_vector_env("discrete", 2), seed=0)
    agent.save(tmp_path / "a")
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    agent.learn(20)
    with monkeypatch.context() as patch:
        patch.setattr("agents.common.storage.write_header", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            agent.save(tmp_path / "a")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    agent.save(tmp_path / "a")
    assert load_agent(tmp_path / "a").num_timesteps == agent.num_timesteps  # type: ignore[attr-defined]


def test_a_users_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no saved agent"):
        Reinforce(identity_vector_env("discrete", 2), seed=0).save(tmp_path)
    with pytest.raises(ValueError, match=r"agent\.json is missing"):
        load_agent(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1.0}, "Did you mean 'learning_rate'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"advantage_normalization": "step"}, "per_step"),
        ({"hidden_sizes": []}, "hidden_sizes"),
        ({"n_steps": 0}, "n_steps=0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent("actor_critic", identity_vector_env("discrete", 2), seed=0, **options)


def test_unknown_agents_get_near_matches() -> None:
    with pytest.raises(ValueError, match="Did you mean 'actor_critic'"):
        make_agent("actor_critc", identity_vector_env("discrete", 2), seed=0)
    assert {"reinforce", "actor_critic", "sb3/ppo", "all", "greedy"} <= set(agent_names())


def test_envs_that_agents_cannot_take_are_refused() -> None:
    later = SyncVectorEnv([lambda: IdentityEnv("discrete")], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="SAME_STEP"):
        Reinforce(later, seed=0)
    with pytest.raises(ValueError, match="flat 1-D Box"):
        Reinforce(gym.make("FrozenLake-v1"), seed=0)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_ordinary_gymnasium_env_works(cls: type[OnPolicyAgent]) -> None:
    env = gym.make("CartPole-v1", max_episode_steps=20)
    seen: list[dict[str, float]] = []
    cls(env, seed=0).learn(50, seen.append)
    assert seen[-1]["length_mean"] <= 20
