"""Rules that weigh rows: their weights against slow obvious versions, every view, storage, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import Agent, agent_kind, load_agent, make_rule
from agents.rules.sample_weighting import SAMPLE_RULES
from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.decisions.sample_weighting.measures import wrong_rows

NAMES = [rule.name for rule in SAMPLE_RULES]
VIEWS = ("native", "subset", "discrete", "box")


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    """Batches of 5 rows, episodes of 4 steps, and two of five labels wrong."""
    return build(tiny)


def build(tiny: dict[str, Any], **changes: Any) -> Any:
    options = {key: value for key, value in tiny.items() if key not in ("features", "updates_per_step")}
    sizes = {"batch_size": 5, "budget": 4, "precision": "fp64", "label_noise": 0.4}
    return build_problem(env_config(**{**options, **sizes, **changes}, decision="sample_weighting"))


def chosen(name: str, problem: Any, view: str = "native", count: int = 3, **options: Any) -> np.ndarray:
    """Weights ``[steps, N, B]`` that a rule applied in an episode."""
    env = DistillVectorEnv(count, problem=problem, action_view=view, autoreset_mode="disabled")
    rule = make_rule(name, env, **options)
    observations, _ = env.reset(seed=0)
    found = []
    for _ in range(4):
        observations, *_, info = env.step(rule.predict(observations, None, None, deterministic=True)[0])
        found.append(info["row_weights"][:, 0])
    return np.array(found)


def with_rows(env: DistillVectorEnv, name: str, entry: int, values: list[float], progress: float = 0.0) -> np.ndarray:
    """One observation in which a feature of the rows has the given values."""
    observations = env.reset(seed=0)[0][:1].copy()
    place = env.observation_layout[name]
    view = observations[:, place.slice].reshape(1, *place.shape)
    view[0, :, entry] = values
    observations[:, place.slice] = view.reshape(1, -1)
    observations[:, env.observation_layout["progress"].start] = progress
    return observations


@pytest.fixture(scope="module")
def env(problem: Any) -> DistillVectorEnv:
    return DistillVectorEnv(1, problem=problem)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_does_the_same_in_every_view(name: str, problem: Any, tmp_path: Path) -> None:
    reference = chosen(name, problem)
    assert (reference >= 0).all() and (np.ptp(reference) > 0) == (name != "uniform")
    for view in VIEWS[1:]:
        np.testing.assert_allclose(chosen(name, problem, view), reference, rtol=1e-6)
    if name != "random_weights":
        np.testing.assert_allclose(reference.mean(-1), 1.0, rtol=1e-5)
    # A single env takes what a rule says, and a rule comes back from its folder.
    single = DistillEnv(problem=problem, action_view="box")
    rule = make_rule(name, single, seed=2)
    assert agent_kind(name) == "rule" and isinstance(rule, Agent) and rule.learn(100) is rule
    observation, _ = single.reset(seed=0)
    rule.save(tmp_path / "rule")
    twin = load_agent(tmp_path / "rule", single)
    state = single.get_state()
    first = single.step(rule.predict(observation)[0])[4]["row_weights"]
    single.set_state(state)
    np.testing.assert_array_equal(single.step(twin.predict(observation)[0])[4]["row_weights"], first)


@pytest.mark.parametrize("view", VIEWS)
def test_uniform_is_an_action_of_every_view(view: str, problem: Any) -> None:
    env = DistillVectorEnv(2, problem=problem, action_view=view)
    actions, _ = make_rule("uniform", env).predict(env.reset(seed=0)[0])
    assert env.action_space.contains(np.asarray(actions))
    assert (chosen("uniform", problem, view) == 1.0).all()


def test_random_weights_have_their_distribution(problem: Any) -> None:
    found = chosen("random_weights", problem, count=40)
    assert abs(found.mean() - 1.0) < 0.06 and abs(found.var() - 1.0 / 3.0) < 0.04
    assert found.min() >= 0 and found.max() <= 2
    np.testing.assert_array_equal(chosen("random_weights", problem, count=2), found[:, :2])


def test_self_paced_keeps_more_and_more_of_the_easy_rows(env: DistillVectorEnv) -> None:
    rule = make_rule("self_paced", env, start=0.4, end=1.0, full_at=0.6)
    losses = [0.9, 0.1, 0.5, 0.7, 0.3]
    for progress, kept in ((0.0, [1, 4]), (0.2, [1, 2, 4]), (0.4, [1, 2, 3, 4]), (0.6, range(5)), (1.0, range(5))):
        weights = rule.weights(with_rows(env, "row_student", 0, losses, progress))[0]
        expected = np.zeros(5)
        expected[list(kept)] = 5 / len(list(kept))
        np.testing.assert_allclose(weights, expected)


def test_focal(env: DistillVectorEnv) -> None:
    p = np.array([0.9, 0.5, 0.0, 1.0, 0.2])
    for gamma in (0.0, 1.0, 2.0):
        expected = (1 - p) ** gamma
        found = make_rule("focal", env, gamma=gamma).weights(with_rows(env, "row_student", 2, list(p)))[0]
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)
    assert not make_rule("focal", env).weights(with_rows(env, "row_student", 2, [1.0] * 5)).any()


@pytest.mark.parametrize(
    ("name", "feature", "entry", "sign"),
    [
        ("dynamic_entropy", "row_student", 1, 1.0),
        ("dynamic_margin", "row_margin", 0, -1.0),
        ("dynamic_confidence", "row_confidence", 0, -1.0),
    ],
)
def test_dynamic_selection_keeps_the_uncertain_rows(
    name: str, feature: str, entry: int, sign: float, env: DistillVectorEnv
) -> None:
    values = np.array([0.2, 0.9, 0.4, 0.7, 0.6])
    observations = with_rows(env, feature, entry, list(values))
    for share, kept in ((0.4, 2), (0.6, 3), (0.01, 1), (1.0, 5)):
        weights = make_rule(name, env, share=share).weights(observations)[0]
        expected = np.zeros(5)
        expected[np.argsort(-sign * values)[:kept]] = 5 / kept
        np.testing.assert_allclose(weights, expected)
    equal = make_rule(name, env, share=0.4).weights(with_rows(env, feature, entry, [0.5] * 5))[0]
    assert equal.tolist() == [2.5, 2.5, 0, 0, 0]


def test_agree_keeps_the_rows_whose_label_the_teacher_finds_likely(env: DistillVectorEnv) -> None:
    losses = np.array([0.1, 0.69, 0.7, 3.0, 0.5])
    observations = with_rows(env, "row_teacher_losses", 0, list(np.log1p(losses)))
    for options, kept in (({}, [0, 1, 4]), ({"threshold": 0.6}, [0, 4]), ({"threshold": 5.0}, range(5))):
        expected = np.zeros(5)
        expected[list(kept)] = 5 / len(list(kept))
        np.testing.assert_allclose(make_rule("agree", env, **options).weights(observations)[0], expected)
    # A teacher that agrees with no label of the batch says nothing: all rows count.
    np.testing.assert_array_equal(make_rule("agree", env, threshold=0.05).weights(observations), np.ones((1, 5)))


def test_the_oracle_keeps_the_rows_whose_label_is_true(problem: Any) -> None:
    wrong = wrong_rows(problem)
    assert wrong is not None and wrong.mean() == pytest.approx(0.4, abs=0.02)
    env = DistillVectorEnv(20, problem=problem, autoreset_mode="disabled")
    rule = make_rule("oracle", env)
    observations, _ = env.reset(seed=0)
    for _ in range(4):
        observations, *_, info = env.step(rule.predict(observations)[0])
        right = ~wrong[info["rows"]]
        np.testing.assert_allclose(info["row_weights"][:, 0], 5.0 * right / np.maximum(right.sum(-1, keepdims=True), 1))
        np.testing.assert_array_equal(info["skipped"], ~right.any(-1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("agree", {"threshold": 0.0}, "threshold=0.0 is not allowed; it must be above 0 and finite, or null"),
        ("self_paced", {"start": 0.0}, r"start=0.0 is not allowed; it must be in \(0, 1\]"),
        ("self_paced", {"start": 0.6, "end": 0.5}, "end=0.5"),
        ("self_paced", {"full_at": float("nan")}, "full_at=nan"),
        ("focal", {"gamma": -1.0}, "gamma=-1.0"),
        ("dynamic_margin", {"share": 1.5}, "share=1.5"),
        ("dynamic_entropy", {"shares": 0.5}, "Did you mean 'share'"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str, env: DistillVectorEnv) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule(name, env, **options)


def test_what_the_env_lacks_is_named(problem: Any, tiny_problem: Any, tiny_regression: dict[str, Any]) -> None:
    few = DistillVectorEnv(1, problem=problem, features=["progress", "row_length"])
    with pytest.raises(ValueError, match="reads the feature 'row_margin'"):
        make_rule("dynamic_margin", few)
    with pytest.raises(ValueError, match="make an env of 'sample_weighting', or choose a rule for"):
        make_rule("uniform", DistillVectorEnv(1, problem=tiny_problem))
    options = {**tiny_regression, "decision": "sample_weighting", "updates_per_step": 1, "batch_size": 5, "budget": 4}
    options["features"] = ["progress", "row_student"]
    scores = build_problem(env_config(**options))
    assert (chosen("self_paced", scores)[0] > 0).sum() == 3 * 2  # rint(2.5) rows of each replica
    losses = DistillVectorEnv(1, problem=scores, features=["row_student", "row_teacher_losses"])
    for name in ("focal", "dynamic_entropy", "agree"):
        with pytest.raises(ValueError, match="which regression has not"):
            make_rule(name, losses)


def test_what_agree_and_the_oracle_cannot_know_is_said(tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'oracle' knows which train labels are wrong, and none .* label_noise"):
        make_rule("oracle", DistillVectorEnv(1, problem=build(tiny, label_noise=0.0)))
    learning = build(tiny, teacher_updates="prokt", teacher_source="online")
    with pytest.raises(ValueError, match=r"set env\.teacher_updates=none, or leave 'agree' out"):
        make_rule("agree", DistillVectorEnv(1, problem=learning))
