"""Stable-Baselines3 through our adapter: every algorithm, the ends of episodes, storage, refusals."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from identity import IdentityEnv, ScriptedVectorEnv, identity_vector_env
from teacher_env import TeacherVectorEnv

from agents import load_agent, make_agent
from agents.common.base import spaces_of
from agents.sb3.agent import SB3Agent, make_sb3
from agents.sb3.algorithms import ALGORITHMS, check_actions, defaults

pytest.importorskip("stable_baselines3")

KIND = {"Box": "box", "Discrete": "discrete", "MultiDiscrete": "multi_discrete", "MultiBinary": "multi_binary"}
PAIRS = [(name, action) for name, entry in ALGORITHMS.items() for action in entry.actions]


def small(name: str) -> dict[str, Any]:
    """Options that make an algorithm learn within a few steps."""
    if ALGORITHMS[name].family == "off":
        return {"learning_starts": 16, "batch_size": 8}
    return {"n_delta": 1, "n_eval_episodes": 1} if name == "ars" else {"n_steps": 8}


def needs(name: str) -> None:
    pytest.importorskip(ALGORITHMS[name].package)


# -- the adapter


def test_adapter_tells_the_two_ends_apart() -> None:
    from agents.sb3.adapter import VectorEnvToSB3

    script = [[(2, "terminated")], [(2, "truncated"), (9, "truncated")], [(2, "both")], [(5, "truncated")]]
    env = VectorEnvToSB3(ScriptedVectorEnv(script))
    assert env.reset().tolist() == [[n, 0, 0] for n in range(4)]
    _, rewards, dones, infos = env.step(np.zeros(4))
    assert rewards.tolist() == [0, 100, 200, 300]
    assert not dones.any()
    assert infos[1] == {"step": 1}
    observations, _, dones, infos = env.step(np.zeros(4))
    assert dones.tolist() == [True, True, True, False]
    assert observations.tolist() == [[0, 1, 0], [1, 1, 0], [2, 1, 0], [3, 0, 2]]
    for n in range(3):
        assert infos[n]["terminal_observation"].tolist() == [n, 0, 2]
        assert infos[n]["TimeLimit.truncated"] is (n == 1)
        assert infos[n]["step"] == 2  # of the ended episode
        assert (infos[n]["episode"]["r"], infos[n]["episode"]["l"]) == (200 * n + 1, 2)
        assert env.reset_infos[n] == {"step": 0}
    assert infos[3] == {"step": 2}
    _, _, dones, infos = env.step(np.zeros(4))  # statistics begin anew
    _, _, dones, infos = env.step(np.zeros(4))
    assert infos[0]["episode"]["r"] == 10 + 11


def test_adapter_seeds_replicas_one_after_another() -> None:
    from agents.sb3.adapter import VectorEnvToSB3

    adapter = VectorEnvToSB3(identity_vector_env("box", 3))
    adapter.seed(5)
    expected, _ = identity_vector_env("box", 3).reset(seed=5)
    assert np.array_equal(adapter.reset(), expected)
    assert not np.array_equal(adapter.reset(), expected)  # the seeds hold for one reset


def test_masks_come_from_the_env_or_allow_everything() -> None:
    from agents.sb3.adapter import VectorEnvToSB3

    env = identity_vector_env("multi_discrete", 2)
    adapter = VectorEnvToSB3(env)
    assert np.stack(adapter.env_method("action_masks")).tolist() == [[True] * 5] * 2
    env.action_masks = lambda: np.array([[True, False] * 2 + [True], [False, True] * 2 + [False]])
    assert adapter.env_method("action_masks", indices=1)[0].tolist() == [False, True, False, True, False]
    with pytest.raises(AttributeError, match=r"call it on `\.env`"):
        adapter.env_method("render")


def test_masks_are_obeyed_while_learning() -> None:
    needs("maskableppo")
    env = identity_vector_env("discrete", 2)
    env.action_masks = lambda: np.array([[True, False, True]] * 2)
    taken: list[int] = []
    step = env.step
    env.step = lambda actions: (taken.extend(actions.tolist()), step(actions))[1]
    make_sb3("maskableppo", env, seed=0, n_steps=32).learn(64)
    assert set(taken) == {0, 2}


# -- every algorithm


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_every_pair_learns_acts_and_loads(name: str, action: str, tmp_path: Path) -> None:
    needs(name)
    env = identity_vector_env(KIND[action], 2)
    seen: list[dict[str, float]] = []
    agent = make_agent(f"sb3/{name}", env, seed=0, **small(name)).learn(48, seen.append)
    assert seen[-1]["timesteps"] == agent.num_timesteps >= 48
    assert all(type(v) is float for v in seen[-1].values())
    assert {"episodes", "fps", "return_mean", "length_mean"} <= set(seen[-1])
    observations, _ = env.reset(seed=0)
    actions, _ = agent.predict(observations, deterministic=True)
    assert env.action_space.contains(actions)
    assert env.single_action_space.contains(agent.predict(observations[0])[0])
    agent.save(tmp_path / "a")
    assert not [path for path in (tmp_path / "a").iterdir() if path.suffix not in (".json", ".safetensors")]
    acting = load_agent(tmp_path / "a")
    assert np.array_equal(acting.predict(observations, deterministic=True)[0], actions)
    with pytest.raises(ValueError, match="no env to learn in"):
        acting.learn(10)


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "sac", "td3", "trpo", "crossq", "recurrentppo"])
def test_a_loaded_agent_continues_bit_equal(name: str, tmp_path: Path) -> None:
    needs(name)
    env = identity_vector_env(KIND[ALGORITHMS[name].actions[0]], 2, length=5)
    agent = make_sb3(name, env, seed=0, **small(name)).learn(46)
    agent.save(tmp_path / "a")
    twin_env = copy.deepcopy(env)
    agent.learn(32, reset_num_timesteps=False)
    twin = SB3Agent.load(tmp_path / "a", twin_env, force_reset=False)
    twin.learn(32, reset_num_timesteps=False)
    assert twin.num_timesteps == agent.num_timesteps
    pairs = zip(agent.model.policy.state_dict().values(), twin.model.policy.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_ppo_solves_identity_and_the_callback_can_stop() -> None:
    best: list[float] = []

    def good_enough(metrics: dict[str, float]) -> bool:
        best.append(metrics["return_mean"])
        return metrics["return_mean"] < 0.9 * 8

    agent = make_sb3("ppo", identity_vector_env("discrete", 8), seed=0, n_steps=32, learning_rate=3e-3)
    agent.learn(40_000, good_enough)
    assert best[-1] >= 0.9 * 8
    assert agent.num_timesteps == len(best) * 256 < 40_000


@pytest.mark.parametrize("name", ["dqn", "ars"])
def test_other_kinds_of_learning_stop_too(name: str) -> None:
    needs(name)
    calls: list[float] = []
    agent = make_sb3(name, identity_vector_env("discrete", 2), seed=0, **small(name))
    agent.learn(5000, lambda metrics: calls.append(metrics["timesteps"]) or False)
    assert len(calls) == 1
    assert agent.num_timesteps == calls[0] < 5000


def test_single_env_is_wrapped() -> None:
    agent = make_sb3("ppo", IdentityEnv("discrete"), seed=0, n_steps=16).learn(32)
    assert agent.num_timesteps == 32


# -- options


def test_reward_transform_reaches_the_rollout_of_on_policy_algorithms() -> None:
    shapes = []

    def negate(rewards: np.ndarray) -> np.ndarray:
        shapes.append(rewards.shape)
        return -rewards

    env = identity_vector_env("discrete", 8)
    agent = make_sb3("ppo", env, seed=0, n_steps=32, learning_rate=1e-2, reward_transform=negate).learn(2500)
    assert shapes[0] == (32, 8)
    observations, _ = env.reset(seed=0)
    hits = np.mean(agent.predict(observations, deterministic=True)[0] == observations.argmax(axis=1))
    assert hits == 0
    with pytest.raises(ValueError, match="keeps no rollout"):
        make_sb3("dqn", env, seed=0, reward_transform=negate)


def test_defaults_fit_short_episodes() -> None:
    values = defaults("ppo", 16, 40, {})
    assert (values["gamma"], values["n_steps"]) == (1.0, 40)
    assert (16 * 40) % values["batch_size"] == 0
    assert 32 <= values["batch_size"] <= 160
    agent = make_sb3("ppo", identity_vector_env("discrete", 4, length=12), seed=0)
    assert agent.model.n_steps == 12  # the env's episode
    assert agent.model.gamma == 1.0
    with pytest.raises(ValueError, match=r"batch_size=7 does not divide .* = 64 steps"):
        make_sb3("ppo", identity_vector_env("discrete", 4), seed=0, n_steps=16, batch_size=7)


@pytest.mark.parametrize(
    ("name", "kind", "view"),
    [
        ("dqn", "multi_binary", "discrete"),
        ("qrdqn", "box", "discrete"),
        ("sac", "discrete", "box"),
        ("td3", "multi_binary", "box"),
        ("ddpg", "multi_binary", "box"),
        ("tqc", "discrete", "box"),
        ("crossq", "multi_discrete", "box"),
        ("maskableppo", "box", "native"),
    ],
)
def test_wrong_pairs_are_refused_with_the_view_that_works(name: str, kind: str, view: str) -> None:
    needs(name)
    with pytest.raises(ValueError, match=f"sb3/{name} takes only .*action_view='{view}'"):
        make_agent(f"sb3/{name}", identity_vector_env(kind, 1), seed=0)


def test_bad_names_and_options_are_refused() -> None:
    env = identity_vector_env("discrete", 2)
    with pytest.raises(ValueError, match="Did you mean 'ppo'"):
        make_agent("sb3/poo", env, seed=0)
    with pytest.raises(ValueError, match="goal-conditioned"):
        make_agent("sb3/her", env, seed=0)
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        make_sb3("ppo", env, seed=0, learning_rates=1e-3)
    with pytest.raises(ValueError, match="plain values"):
        make_sb3("ppo", env, seed=0, learning_rate=lambda _: 1e-3)


def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install sb3-contrib"):
        make_agent("sb3/tqc", identity_vector_env("box", 2), seed=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_actions_outside_the_table_are_refused(name: str) -> None:
    needs(name)
    for kind in KIND:
        space = spaces_of(identity_vector_env(KIND[kind], 1)).action
        if kind in ALGORITHMS[name].actions:
            check_actions(name, space)
        else:
            with pytest.raises(ValueError, match="action_view="):
                check_actions(name, space)


@pytest.mark.parametrize(
    ("name", "view", "weighting", "remedy"),
    [
        ("dqn", "subset", "sample", "action_view='discrete' and weighting='batch'."),
        ("dqn", "simplex", "batch", "action_view='discrete'."),
        ("maskableppo", "simplex", "batch", "action_view='discrete' or action_view='subset'."),
        ("sac", "subset", "sample", "action_view='simplex'."),
    ],
)
def test_envs_that_weigh_teachers_have_other_views(name: str, view: str, weighting: str, remedy: str) -> None:
    """There ``native`` is a Box, and ``discrete`` is for whole batches: the remedy has to work."""
    needs(name)
    with pytest.raises(ValueError, match=f"{re.escape(remedy)}$"):
        make_sb3(name, TeacherVectorEnv(view=view, weighting=weighting), seed=0)


def test_zip_files_need_trust(tmp_path: Path) -> None:
    env = identity_vector_env("discrete", 2)
    agent = make_sb3("ppo", env, seed=0, n_steps=8)
    agent.model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="trust=True"):
        SB3Agent.from_zip("ppo", tmp_path / "model.zip", env)
    loaded = SB3Agent.from_zip("ppo", tmp_path / "model.zip", env, trust=True)
    observations, _ = env.reset(seed=0)
    one, two = (x.predict(observations, deterministic=True)[0] for x in (agent, loaded))
    assert np.array_equal(one, two)
    loaded.save(tmp_path / "ours")
    again = SB3Agent.load(tmp_path / "ours", env)
    assert np.array_equal(again.predict(observations, deterministic=True)[0], one)


def test_loading_checks_spaces_and_kind(tmp_path: Path) -> None:
    make_sb3("a2c", identity_vector_env("discrete", 2), seed=0).save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"Discrete\(3\).*MultiBinary\(3\)"):
        load_agent(tmp_path / "a", identity_vector_env("multi_binary", 2))
    make_agent("reinforce", identity_vector_env("discrete", 2), seed=0).save(tmp_path / "b")
    with pytest.raises(ValueError, match="not one of SB3"):
        SB3Agent.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ppo", {"learning_rate": "lin_3e-4"}, "sb3/ppo: learning_rate='lin_3e-4' must be a number"),
        ("ppo", {"ent_coef": "auto"}, "sb3/ppo: ent_coef='auto' must be a number"),
        ("ppo", {"n_steps": 8.5}, "n_steps=8.5 must be a whole number"),
        ("ppo", {"n_steps": 0}, "n_steps=0 must be at least 1"),
        ("ppo", {"n_epochs": 0}, "n_epochs=0 must be at least 1"),
        ("ppo", {"gamma": 1.5}, r"gamma=1.5 must lie in \[0, 1\]"),
        ("ppo", {"policy_kwargs": 5}, "policy_kwargs=5 must be options by name or null"),
        ("ppo", {"policy_kwargs": {"activation_fn": "rleu"}}, "Did you mean 'relu'"),
        ("ppo", {"policy_kwargs": {"layers": [8]}}, "sb3/ppo cannot be made with .*unexpected keyword argument"),
        ("ppo", {"policy": "MlpPolciy"}, "MlpPolciy"),
        ("ppo", {"verbose": True}, "verbose=True must be a whole number"),
        ("sac", {"ent_coef": "automatic"}, "ent_coef='automatic' must be a number, auto or auto_<first value>"),
        ("td3", {"action_noise_std": "a"}, "action_noise_std='a' must be a number or null"),
        ("dqn", {"train_freq": "often"}, "train_freq='often' must be"),
    ],
)
def test_values_that_sb3_would_stumble_over(name: str, options: dict[str, Any], message: str) -> None:
    """One line before any work, where SB3 has a traceback or learns nothing."""
    kind = {"sac": "box", "td3": "box"}.get(name, "discrete")
    with pytest.raises(ValueError, match=message):
        make_sb3(name, identity_vector_env(kind, 2), seed=0, **options)


def test_values_that_sb3_takes(tmp_path: Path) -> None:
    """Names of activations, which survive storage; lists, texts and null where the algorithm has them."""
    env = identity_vector_env("discrete", 2)
    agent = make_sb3("ppo", env, seed=0, n_steps=8, policy_kwargs={"activation_fn": "relu", "net_arch": [8]})
    assert "ReLU" in str(agent.model.policy.mlp_extractor) and agent.hyperparameters["policy_kwargs"] == {
        "activation_fn": "relu",
        "net_arch": [8],
    }
    agent.save(tmp_path / "agent")
    assert "ReLU" in str(load_agent(tmp_path / "agent").model.policy.mlp_extractor)  # type: ignore[attr-defined]
    make_sb3("sac", identity_vector_env("box", 2), seed=0, ent_coef="auto_0.1", target_entropy="auto")
    make_sb3("dqn", env, seed=0, train_freq=[4, "step"], learning_rate=1)
    make_sb3("ppo", env, seed=0, clip_range_vf=None, target_kl=0.1, normalize_advantage=False)
