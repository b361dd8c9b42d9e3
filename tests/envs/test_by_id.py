"""What other libraries do with environments: make them by id, render, copy, seed with NumPy's integers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from kd_env.envs.env import DistillEnv
from kd_env.envs.environments import TutorTokenEnv
from kd_env.envs.vector import DistillVectorEnv

IDS = (
    "kd_env/KnowledgeSelection-v0",
    "kd_env/TeacherWeighting-v0",
    "kd_env/SampleWeighting-v0",
    "kd_env/TutorToken-v0",
)


@pytest.mark.parametrize("name", IDS)
def test_unknown_keywords_are_errors_of_type_and_of_value(name: str) -> None:
    """TorchRL tries frameskip and goes on after a TypeError with Python's words; users catch ValueError."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'") as caught:
        gym.make(name, frameskip=1)
    assert isinstance(caught.value, ValueError) and "Unknown environment option 'frameskip'" in str(caught.value)
    with pytest.raises(ValueError, match=r"Unknown student option 'hiden_size'.*Did you mean 'hidden_size'"):
        gym.make(name, student={"hiden_size": 8})


def test_stable_baselines3_makes_it_by_id() -> None:
    """With the render mode that it asks for."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO("MlpPolicy", "kd_env/KnowledgeSelection-v0", n_steps=2, batch_size=2, n_epochs=1, device="cpu")
    model.learn(2)
    envs = make_vec_env("kd_env:kd_env/KnowledgeSelectionContinuous-v0", n_envs=1, env_kwargs={"budget": 2})
    envs.reset()
    envs.step(np.zeros((1, *envs.action_space.shape)))
    assert envs.render().shape == (600, 640, 3)


@pytest.mark.parametrize("kind", ["labels", "tokens"])
def test_pictures_show_the_course_of_an_episode(kind: str, tiny_problem: Any, tutor_problem: Any) -> None:
    """Each step changes it; a new episode begins an empty one, which is the same for every first step alike."""
    env: Any = (
        DistillEnv(problem=tiny_problem, render_mode="rgb_array")
        if kind == "labels"
        else TutorTokenEnv(problem=tutor_problem, render_mode="rgb_array")
    )
    assert "rgb_array" in env.metadata["render_modes"]
    with pytest.raises(RuntimeError, match="reset"):
        env.render()
    env.reset(seed=0)
    pictures = [env.render()]
    for _ in range(2):
        env.step(np.ones(env.action_space.shape, env.action_space.dtype))
        pictures.append(env.render())
    for picture in pictures:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3
        assert picture.shape == pictures[0].shape
    assert (pictures[0] != pictures[1]).any() and (pictures[1] != pictures[2]).any()
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), pictures[0])


def test_every_replica_has_its_picture(tiny_problem: Any) -> None:
    """Of its own episode; a state that is put back begins a new course."""
    envs = DistillVectorEnv(2, problem=tiny_problem, render_mode="rgb_array")
    envs.reset(seed=0)
    fresh = envs.render()
    envs.step(np.array([[1, 1, 1], [0, 0, 0]], np.int8))
    assert fresh is not None
    first, second = envs.render() or ()
    assert (first != second).any() and (first != fresh[0]).any()
    envs.set_state(envs.get_state())
    assert ((envs.render() or ())[0] != first).any()


@pytest.mark.parametrize("kind", ["single", "vector", "tokens", "token vector"])
def test_pickles_go_on_where_they_were(kind: str, tiny: dict[str, Any], tiny_text: dict[str, Any]) -> None:
    """As options and a state, before and after the first reset; copies in this process share nothing."""
    env: Any = {
        "single": lambda: DistillEnv(**tiny),
        "vector": lambda: DistillVectorEnv(2, **tiny, autoreset_mode="disabled"),
        "tokens": lambda: TutorTokenEnv(**tiny_text),
        "token vector": lambda: DistillVectorEnv(2, decision="tutor_token", **tiny_text),
    }[kind]()
    fresh = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(_flat(fresh.reset(seed=3)[0]), _flat(env.reset(seed=3)[0]))
    env.step(env.action_space.sample())
    written = pickle.dumps(env)
    assert b"classifier" not in written[:200] and len(written) < 1_000_000
    twins = [pickle.loads(written), copy.deepcopy(env)]
    action = env.action_space.sample()
    observation, reward, *_ = env.step(action)
    for twin in twins:
        assert type(twin) is type(env) and getattr(twin, "autoreset_mode", 0) == getattr(env, "autoreset_mode", 0)
        np.testing.assert_array_equal(twin.step(action)[1], reward)
        np.testing.assert_array_equal(_flat(twin.run.observation()), _flat(env.run.observation()))
    assert observation is not None


def _flat(observation: Any) -> Any:
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return np.concatenate([np.ravel(part) for part in parts])


def test_integers_of_numpy_are_seeds_and_options(tiny_problem: Any, tiny: dict[str, Any]) -> None:
    """As Python's own; what is no whole number of at least 0 is refused."""
    env, envs = DistillEnv(problem=tiny_problem), DistillVectorEnv(2, problem=tiny_problem)
    np.testing.assert_array_equal(env.reset(seed=np.int64(5))[0], env.reset(seed=5)[0])
    for seeds in ([np.int32(5), np.uint8(6)], np.array([5, 6]), np.int64(5)):
        np.testing.assert_array_equal(envs.reset(seed=seeds)[0], envs.reset(seed=5)[0])
    for seed in (True, 1.5, -1, "1"):
        with pytest.raises(ValueError, match="must be a whole number of at least 0"):
            env.reset(seed=seed)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must be a whole number of at least 0"):
            envs.reset(seed=[seed, 1])  # type: ignore[list-item]
    numbers = {"budget": np.int64(4), "learning_rate": np.float32(0.5), "layer_map": np.array([[1, 2]])}
    config = DistillEnv(**{**tiny, **numbers}).problem.config
    assert (config.budget, config.optimizer_config.learning_rate, config.layer_map) == (4, 0.5, ((1, 2),))


@pytest.mark.parametrize("state", [None, "x", {}, (1, 2)])
def test_what_is_no_state_is_refused(state: Any, tiny_problem: Any, tutor_problem: Any) -> None:
    """With what gives one."""
    for env in (
        DistillEnv(problem=tiny_problem),
        DistillVectorEnv(2, problem=tiny_problem),
        TutorTokenEnv(tutor_problem),
    ):
        with pytest.raises(ValueError, match=r"get_state\(\) of an environment gives, got " + type(state).__name__):
            env.set_state(state)


def test_what_is_no_render_mode_is_refused(tiny: dict[str, Any]) -> None:
    """An array, too, which is compared with names element by element."""
    for mode in ("video", 5, np.zeros(3)):
        with pytest.raises(ValueError, match=r"Unknown value of render_mode.*ansi, rgb_array"):
            DistillEnv(**tiny, render_mode=mode)
