"""Every registered environment keeps Gymnasium's and SB3's promises, and ours."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import kd_env
from kd_env import DistillEnv, DistillVectorEnv
from kd_env.testing import check_environment

IDS = sorted(name for name in gym.registry if name.startswith("kd_env/"))
VIEWS = ("native", "discrete", "box")


def test_three_ids_are_registered() -> None:
    """The list of ids below is the registry itself, and not empty."""
    for name in ("KnowledgeSelection", "TeacherWeighting", "SampleWeighting", "TutorToken"):
        assert {f"kd_env/{name}{suffix}-v0" for suffix in ("", "Discrete", "Continuous")} <= set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_checkers_pass_without_warnings(name: str, tiny: dict[str, Any], tiny_text: dict[str, Any]) -> None:
    """Gymnasium's and SB3's checkers, finite observations, exact restore."""
    options = {**tiny, "updates_per_step": 1} if "SampleWeighting" in name else tiny
    check_environment(gym.make(name, **(tiny_text if "TutorToken" in name else options)))


def test_the_tutors_environment_needs_no_arguments() -> None:
    """The embedded text has a packaged masked language model."""
    env = gym.make("kd_env/TutorTokenDiscrete-v0")
    env.reset(seed=0)
    assert env.step(3)[4]["updated"]


@pytest.mark.parametrize("view", VIEWS)
def test_views_and_cls_features(view: str, tiny: dict[str, Any]) -> None:
    """Each view of the general id, with every optional feature."""
    features = [*tiny["features"], "teacher_entropy", "agreement", "teacher_cls", "student_cls", "gradient_cosines"]
    check_environment(gym.make("kd_env/KnowledgeSelection-v0", **{**tiny, "features": features}, action_view=view))


def test_regression(tiny_regression: dict[str, Any]) -> None:
    """A regression task has no entropies, and works."""
    check_environment(gym.make("kd_env/KnowledgeSelection-v0", **tiny_regression))


@pytest.mark.parametrize("name", [name for name in IDS if "TutorToken" not in name and "Divergence" not in name])
def test_defaults_fit_scores(name: str, tiny_regression: dict[str, Any]) -> None:
    """What is left out has a meaning for the task, in every environment that has tasks of scores."""
    chosen = ("terms", "features", "updates_per_step", "teacher")
    options = {key: value for key, value in tiny_regression.items() if key not in chosen}
    env = gym.make(name, **options, teachers=[{"name": "only", "path": tiny_regression["teacher"]}])
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[0]).all()
    layout = env.unwrapped.observation_layout  # type: ignore[attr-defined]
    assert {"progress", "gap"} < set(layout) and not any("entropy" in feature for feature in layout)


def test_torchrl_specs(tiny: dict[str, Any]) -> None:
    """TorchRL's own checker."""
    from torchrl.envs import GymWrapper, check_env_specs

    check_env_specs(GymWrapper(gym.make("kd_env/KnowledgeSelectionDiscrete-v0", **tiny)))


def test_id_with_module_prefix_imports_the_package() -> None:
    """A tool that knows only an id needs no import of kd_env; the embedded task needs no files."""
    code = (
        "import gymnasium as gym;"
        "rows = dict(max_train_rows=64, feedback_rows=32, selection_rows=32, evaluation_rows=32);"
        "env = gym.make('kd_env:kd_env/KnowledgeSelectionDiscrete-v0', **rows);"
        "print(env.reset(seed=0)[0].shape, env.action_space.n)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("6")


def test_steps_outside_an_episode_are_refused(tiny_problem: Any) -> None:
    """Before the first reset and after the end."""
    env = DistillEnv(problem=tiny_problem)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(env.action_space.sample())
    env.reset(seed=0)
    for _ in range(4):
        ended = env.step(np.ones(3, np.int8))[2]
    assert ended
    with pytest.raises(RuntimeError, match="has ended"):
        env.step(np.ones(3, np.int8))


@pytest.mark.parametrize(
    ("view", "action"),
    [
        ("native", [1, 1]),
        ("native", [2, 0, 0]),
        ("discrete", 5),
        ("box", [0.0, 0.0, 0.0, np.nan]),
        ("box", [0.0, 0.0, 1.5, 0.0]),
    ],
)
def test_bad_actions_are_refused(view: str, action: Any, tiny_problem: Any) -> None:
    """Wrong shape, value outside the space, NaN: an error that says so, and the episode is unharmed."""
    env = DistillEnv(problem=tiny_problem, action_view=view)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action space"):
        env.step(action)
    assert env.step(env.action_space.sample())[4]["updates"] == 2


def test_ansi_rendering_is_one_line(tiny_problem: Any) -> None:
    """With the weights, the losses and the gap."""
    env = DistillEnv(problem=tiny_problem, render_mode="ansi")
    env.reset(seed=0)
    env.step(np.array([1, 0, 1], np.int8))
    text = env.render()
    assert text is not None and "\n" not in text
    assert "hard_label=1.00 soft_label=0.00" in text and "update 2/8" in text


def test_vector_rendering(tiny_problem: Any) -> None:
    """One line per replica."""
    envs = DistillVectorEnv(2, problem=tiny_problem, render_mode="ansi")
    envs.reset(seed=0)
    lines = envs.render()
    assert lines is not None and len(lines) == 2


def test_saved_student_gives_the_same_logits(tiny: dict[str, Any], tmp_path: Any) -> None:
    """Hugging Face layout, read back by transformers; an existing folder is not overwritten."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    env = DistillEnv(**tiny)
    env.reset(seed=3)
    env.step(np.ones(3, np.int8))
    env.save_student(tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert tokenizer.vocab_size == model.config.vocab_size
    table = env.problem.selection
    batch = table.gather(np.arange(len(table)))
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    np.testing.assert_allclose(env.predict(table)[0], logits.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="not empty"):
        env.save_student(tmp_path / "student")


def test_public_names_resolve() -> None:
    """Everything in ``__all__`` is there, and a wrong name is an AttributeError."""
    for name in kd_env.__all__:
        assert getattr(kd_env, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = kd_env.nothing


@pytest.mark.parametrize("options", [{"reward": "final_metric"}, {"evaluate_every": 0}])
def test_a_step_limit_inside_is_evaluated(options: dict[str, Any], tiny_problem: Any) -> None:
    """The last step before the environment's own truncation has its reward, single and stacked."""
    env = DistillEnv(problem=tiny_problem, **options, max_episode_steps=2)
    envs = DistillVectorEnv(1, problem=tiny_problem, **options, max_episode_steps=2)
    assert env.episode_steps == envs.episode_steps == 2
    env.reset(seed=0)
    envs.reset(seed=0)
    for step in range(2):
        _, reward, terminated, truncated, _ = env.step(np.ones(3, np.int8))
        assert envs.step(np.ones((1, 3), np.int8))[1][0] == pytest.approx(reward)
        assert (truncated, reward != 0.0, terminated) == (step == 1, step == 1, False)


def test_reading_the_seed_does_not_replace_the_generator(tiny_problem: Any) -> None:
    """Also after a state was restored, and with a generator of another kind."""
    env = DistillEnv(problem=tiny_problem)
    env.np_random = np.random.Generator(np.random.Philox(3))
    env.reset()
    state = env.get_state()
    expected = env.reset()[0]
    other = DistillEnv(problem=tiny_problem)
    other.set_state(state)
    assert other.np_random_seed == -1
    np.testing.assert_array_equal(other.reset()[0], expected)
