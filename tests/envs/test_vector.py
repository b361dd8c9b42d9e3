"""The stacked environment does what N single ones do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from kd_env import DistillEnv, DistillVectorEnv
from kd_env.decisions.options import env_config
from kd_files.manifest import MANIFEST

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def plant_divergence(env: Any, replica: int) -> None:
    """Make the next loss of one replica NaN."""
    state = env.get_state()
    with torch.no_grad():
        state.run.params["classifier.weight"][replica] = float("nan")
    env.set_state(state)


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("view", ["native", "discrete", "box"])
def test_equals_single_environments_across_staggered_ends(view: str, tiny_problem: Any) -> None:
    """Unequal budgets, a planted divergence, a masked reset and autoresets: everything as in separate environments."""
    count = 3
    envs = DistillVectorEnv(count, problem=tiny_problem, action_view=view)
    singles = [DistillEnv(problem=tiny_problem, action_view=view) for _ in range(count)]
    observation, _ = envs.reset(seed=[5, 6, 7])
    for index, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=5 + index)[0], observation[index])
    mask = np.array([False, True, False])
    observation, _ = envs.reset(options={"reset_mask": mask, "budget": 5})
    np.testing.assert_allclose(singles[1].reset(options={"budget": 5})[0], observation[1], **TIGHT)
    envs.action_space.seed(0)
    ends = 0
    for step in range(12):
        if step == 6:
            plant_divergence(envs, 2)
            plant_divergence(singles[2], 0)
        actions = envs.action_space.sample()
        observation, rewards, terminated, truncated, info = envs.step(actions)
        for index, env in enumerate(singles):
            mine, reward, ended, cut, own = env.step(actions[index])
            assert (ended, cut) == (terminated[index], truncated[index])
            np.testing.assert_allclose(reward, rewards[index], **TIGHT)
            if ended:
                ends += 1
                np.testing.assert_allclose(info["final_obs"][index], mine, rtol=1e-6, atol=1e-6)
                for name in own:
                    np.testing.assert_allclose(info["final_info"][name][index], own[name], rtol=1e-6, atol=1e-6)
                mine, own = env.reset()
            np.testing.assert_allclose(observation[index], mine, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(info["loss"][index], own["loss"], **TIGHT)
    assert ends >= 6


def test_make_vec_truncates_inside(tiny: dict[str, Any]) -> None:
    """``gymnasium.make_vec`` passes the limit as a keyword and applies no TimeLimit."""
    envs = gym.make_vec("kd_env/KnowledgeSelection-v0", num_envs=2, max_episode_steps=3, **tiny)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    _, info = envs.reset(seed=0)
    for _ in range(3):
        assert not info.get("_final_obs", np.zeros(2)).any()
        _, _, terminated, truncated, info = envs.step(np.ones((2, 3), np.int8))
    assert truncated.all() and not terminated.any()
    assert info["_final_obs"].all() and info["final_info"]["updates"].tolist() == [6, 6]
    assert info["updates"].tolist() == [0, 0]


def test_autoreset_continues_the_generator(tiny_problem: Any) -> None:
    """The episode after an autoreset is the one that ``reset()`` would have started."""
    envs = DistillVectorEnv(2, problem=tiny_problem)
    envs.reset(seed=1)
    for _ in range(4):
        observation, _, ended, _, _ = envs.step(np.ones((2, 3), np.int8))
    assert ended.all()
    other = DistillVectorEnv(2, problem=tiny_problem)
    other.reset(seed=1)
    np.testing.assert_array_equal(observation, other.reset()[0])


def test_disabled_autoreset_waits(tiny_problem: Any) -> None:
    """A finished replica must be reset before the next step, and only it is."""
    envs = DistillVectorEnv(2, problem=tiny_problem, autoreset_mode="disabled")
    envs.reset(seed=0)
    envs.reset(options={"reset_mask": np.array([True, False]), "budget": 2})
    _, _, ended, _, info = envs.step(np.ones((2, 3), np.int8))
    assert ended.tolist() == [True, False] and "final_obs" not in info
    with pytest.raises(RuntimeError, match="reset_mask"):
        envs.step(np.ones((2, 3), np.int8))
    envs.reset(options={"reset_mask": ended})
    assert envs.step(np.ones((2, 3), np.int8))[4]["updates"].tolist() == [2, 4]


def test_fork_across_a_reset(tiny_problem: Any) -> None:
    """A state replays bit for bit: also across an autoreset, after the original went on, and in another environment."""
    envs = DistillVectorEnv(2, problem=tiny_problem, action_view="box")
    envs.reset(seed=4)
    envs.action_space.seed(2)
    envs.step(envs.action_space.sample())
    state = envs.get_state()
    actions = [envs.action_space.sample() for _ in range(7)]
    first = [envs.step(action) for action in actions]
    other = DistillVectorEnv(2, problem=tiny_problem, action_view="box")
    for target in (envs, other, other):
        target.set_state(state)
        for action, expected in zip(actions, first, strict=True):
            again = target.step(action)
            for mine, theirs in zip(again[:4], expected[:4], strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_states_of_other_problems_are_refused(tiny_problem: Any) -> None:
    """Another configuration, or another number of replicas."""
    envs = DistillVectorEnv(2, problem=tiny_problem)
    envs.reset(seed=0)
    state = envs.get_state()
    with pytest.raises(ValueError, match="another problem"):
        DistillVectorEnv(2, problem=tiny_problem, budget=6).set_state(state)
    with pytest.raises(ValueError, match="2 replicas"):
        DistillVectorEnv(3, problem=tiny_problem).set_state(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mask": np.array([True])}, "2 booleans"),
        ({"reset_mask": np.array([False, False])}, "no replica"),
        ({"budget": 0}, "budget"),
        ({"budgets": 3}, "Unknown reset option"),
    ],
)
def test_bad_reset_options(options: dict[str, Any], message: str, tiny_problem: Any) -> None:
    """Named, with what is allowed."""
    envs = DistillVectorEnv(2, problem=tiny_problem)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        envs.reset(options=options)


def test_worker_processes_equal_stacked_replicas(tiny: dict[str, Any], tmp_path: Any) -> None:
    """Processes follow the same trajectories, autoreset included; sharing teacher outputs is required."""
    from kd_env.envs import make_vector

    with pytest.raises(ValueError, match="cache_dir"):
        make_vector(env_config(**tiny), 2, "processes")
    config = env_config(**tiny, cache_dir=str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # of this process; only the workers have one
    stacked, workers = make_vector(config, 2, "stacked"), make_vector(config, 2, "processes")
    try:
        assert torch.get_num_threads() == 3
        np.testing.assert_allclose(stacked.reset(seed=3)[0], workers.reset(seed=3)[0], atol=1e-5)
        for _ in range(5):
            action = np.array([[1, 1, 0], [0, 1, 1]], np.int8)
            mine, theirs = stacked.step(action), workers.step(action)
            np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(mine[2], theirs[2])
        stacked.reset(seed=4)
        workers.reset(seed=4)
        influence = stacked.unwrapped.row_influence()
        assert influence.shape == (2, 4) and influence.any()
        np.testing.assert_allclose(workers.unwrapped.row_influence(), influence, atol=1e-2 * np.abs(influence).max())
        effect = stacked.unwrapped.decision.actions.decode(action)  # what a rule may give in place of actions
        mine, theirs = stacked.step(effect), workers.step(effect)
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(theirs[4]["weights"], [[1, 1, 0], [0, 1, 1]])
        with pytest.raises(ValueError, match="of 1 replicas, the environment has 2"):
            workers.step(stacked.unwrapped.decision.actions.decode(action[:1]))
        assert workers.unwrapped.action_names == stacked.unwrapped.action_names
        with pytest.raises(ValueError, match="stacked"):
            workers.unwrapped.get_state()
        workers.unwrapped.save_state(tmp_path / "state")
        assert all((tmp_path / "state" / part / MANIFEST).is_file() for part in ("", "0", "1"))
        first = [workers.step(action) for _ in range(3)]
        workers.reset(seed=9)
        workers.unwrapped.load_state(tmp_path / "state")
        for before, after in zip(first, [workers.step(action) for _ in range(3)], strict=True):
            assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])
        (tmp_path / "state" / "1").rename(tmp_path / "state" / "one")
        with pytest.raises(ValueError, match="of 1 processes, this environment has 2"):
            workers.unwrapped.load_state(tmp_path / "state")
    finally:
        torch.set_num_threads(threads)
        workers.close()


def test_vectorization_rule() -> None:
    """A fixed rule on device, size of an update and N."""
    from kd_env.envs import choose_vectorization

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_vectorization("auto", device=cpu, arithmetic=1e5, num_envs=16) == "stacked"
    assert choose_vectorization("auto", device=cpu, arithmetic=3e8, num_envs=4) == "processes"
    assert choose_vectorization("auto", device=gpu, arithmetic=3e8, num_envs=4) == "stacked"
    assert choose_vectorization("stacked", device=cpu, arithmetic=3e8, num_envs=4) == "stacked"
    with pytest.raises(ValueError, match="Did you mean 'stacked'"):
        choose_vectorization("staked", device=cpu, arithmetic=1e5, num_envs=2)


def test_stacked_dropout_is_refused(tiny: dict[str, Any]) -> None:
    """There is no generator per replica."""
    with pytest.raises(ValueError, match=r"dropout=0\.1"):
        DistillVectorEnv(2, **{**tiny, "student": {**tiny["student"], "dropout": 0.1}})


@pytest.mark.parametrize("actions", [[[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]])
def test_gradient_cosines_equal_those_of_singles(actions: list[list[int]], tiny: dict[str, Any]) -> None:
    """Also where one replica skips, or has fewer updates left in the step than the other."""
    options = {**tiny, "features": ["gradient_cosines", "gap"], "precision": "fp64"}
    envs = DistillVectorEnv(2, **options)
    singles = [DistillEnv(problem=envs.problem) for _ in range(2)]
    envs.reset(seed=0)
    envs.reset(options={"reset_mask": np.array([True, False]), "budget": 3})
    for index, env in enumerate(singles):
        env.reset(seed=index)
    singles[0].reset(options={"budget": 3})
    for step in range(2):
        observation, _, _, _, info = envs.step(np.array(actions, np.int8))
        for index, env in enumerate(singles):
            if step == 0 or index == 1:
                np.testing.assert_allclose(
                    env.step(np.array(actions[index], np.int8))[0], observation[index], atol=1e-6
                )
            else:
                final = info["final_obs"][0]
                np.testing.assert_allclose(env.step(np.array(actions[0], np.int8))[0], final, atol=1e-6)
