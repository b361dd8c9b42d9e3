"""Influence as environments give it: feedback rows that are drawn, features, scores and the rule that follows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents import make_rule
from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.mdp.influence.rows import feedback_choice, row_influence, scaled_influence
from kd_env.mdp.influence.samples import sample_influence
from kd_env.mdp.influence.virtual_step import VIRTUAL_OPTIMIZERS
from kd_env.numerics.optim import learning_rate_factor

VIEWS = ("native", "subset", "discrete", "box")
FEATURES = ["progress", "row_influence", "influence", "row_student"]


def options_of(tiny: dict[str, Any], **changes: Any) -> dict[str, Any]:
    rows = {"decision": "sample_weighting", "updates_per_step": 1, "batch_size": 6, "budget": 8, "features": FEATURES}
    return {**tiny, **rows, "precision": "fp64", **changes}


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    return build_problem(env_config(**options_of(tiny)))


def stepped(problem: Any, count: int, steps: int, **options: Any) -> DistillVectorEnv:
    env = DistillVectorEnv(count, problem=problem, autoreset_mode="disabled", **options)
    env.reset(seed=3)
    for _ in range(steps):
        env.step(env.decision.effect(np.ones((count, env.batch_size))))
    return env


@pytest.mark.parametrize("optimizer", VIRTUAL_OPTIMIZERS)
def test_is_the_influence_of_the_next_update(optimizer: str, problem: Any) -> None:
    """On the next batch, with the learning rate of that update, along feedback rows that no other replica shares."""
    env = stepped(problem, 2, 3, influence={"optimizer": optimizer, "rows": 9})
    state, config = env.run.started(), problem.config.optimizer_config
    chosen = feedback_choice(env.problem, state)
    assert chosen.shape == (2, 9) and all(len(set(rows)) == 9 for rows in chosen)
    rates = config.learning_rate * learning_rate_factor(state.updates, state.budget, config.warmup)
    assert rates[0] < config.learning_rate
    expected = sample_influence(
        env.problem, state, state.next_rows[:, 0], chosen, learning_rates=rates, optimizer=optimizer
    )
    found = env.row_influence()
    assert found.dtype == np.float64 and found.shape == (2, 6) and found.any()
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("limit", [None, 1.0])
def test_predicts_what_a_heavier_row_does(limit: float | None, problem: Any) -> None:
    """Through the environment alone: every evaluated row in the gradient, one row heavier, the loss that info tells."""
    env = DistillEnv(problem=problem, influence={"rows": 32}, optimizer={"max_grad_norm": limit})
    env.reset(seed=0)  # by the loss without a temperature, whose drop the influence is
    for _ in range(4):
        env.step(np.zeros(6, np.float32))
    state, found = env.get_state(), env.row_influence()[0]

    def loss(weights: np.ndarray) -> float:
        env.set_state(state)
        return float(env.step(env.decision.effect(weights[None]))[4]["raw_loss"])

    drops = [(loss(np.ones(6)) - loss(np.ones(6) + 1e-4 * np.eye(6)[row])) / 1e-4 for row in range(6)]
    np.testing.assert_allclose(drops, found, rtol=0.02, atol=0.01 * np.abs(found).max())


def test_feedback_rows_are_drawn_anew_by_seed_and_update_alone(problem: Any) -> None:
    env = stepped(problem, 3, 2)
    state = env.run.started()
    first = feedback_choice(problem, state)
    assert first.shape == (3, 6) and len({tuple(row) for row in first}) == 3
    np.testing.assert_array_equal(feedback_choice(problem, state), first)
    # One replica alone, another number of steps behind it, and the same episode seed.
    alone = state._replace(seeds=state.seeds[1:2], updates=state.updates[1:2])
    np.testing.assert_array_equal(feedback_choice(problem, alone), first[1:2])
    later = feedback_choice(problem, state._replace(updates=state.updates + 1))
    assert not any(np.array_equal(a, b) for a, b in zip(first, later, strict=True))
    seen = {
        int(row)
        for spent in range(40)
        for row in feedback_choice(problem, state._replace(updates=state.updates * spent)).flat
    }
    assert seen == set(range(32))


def test_a_fork_has_the_same_influence_and_nothing_is_changed(problem: Any) -> None:
    env = stepped(problem, 2, 2)
    saved = env.get_state()
    first = env.row_influence()
    np.testing.assert_array_equal(env.row_influence(), first)
    after = env.get_state()
    for name, value in saved.run.params.items():
        assert torch.equal(value, after.run.params[name])
    other = DistillVectorEnv(2, problem=problem, autoreset_mode="disabled")
    other.set_state(saved)
    np.testing.assert_array_equal(other.row_influence(), first)
    singles = [DistillEnv(problem=problem) for _ in range(2)]
    for place, single in enumerate(singles):
        single.reset(seed=3 + place)
        for _ in range(2):
            single.step(np.zeros(6, np.float32))
        np.testing.assert_allclose(single.row_influence()[0], first[place], rtol=1e-6)


def test_a_broken_student_has_none_and_disturbs_no_other(problem: Any) -> None:
    env = stepped(problem, 2, 2)
    whole = env.row_influence()
    state = env.get_state()
    state.run.params["classifier.weight"][0, 0] = float("nan")
    env.set_state(state)
    found = env.row_influence()
    assert not found[0].any()
    np.testing.assert_allclose(found[1], whole[1], rtol=1e-9)
    observation = env.run.observation()
    assert env.observation_space.contains(observation)


def test_after_the_last_update_there_is_none_to_come(problem: Any) -> None:
    assert not stepped(problem, 1, 8).row_influence().any()


# -- features and score


def test_the_feature_is_the_scaled_influence(problem: Any) -> None:
    env = stepped(problem, 2, 2)
    found, raw = env.run.observation(), env.row_influence()
    layout = env.observation_layout
    expected = np.array([[max(-1.0, min(1.0, s / (3 * np.std(row)))) for s in row] for row in raw])
    rows = found[:, layout["row_influence"].slice]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    np.testing.assert_allclose(found[:, layout["influence"].start], expected.mean(-1), rtol=1e-5)
    assert (layout["row_influence"].low, layout["row_influence"].high) == (-1.0, 1.0)
    assert env.row_features == ("row_influence", "row_student")
    assert "row_influence" not in env_config(decision="sample_weighting").features


def test_scaled_influence_of_equal_rows_is_zero() -> None:
    found = scaled_influence(np.array([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [-1e-9, 0.0, 1e-9], [100.0, 0.0, 1.0]]))
    np.testing.assert_allclose(found[:3], [[0, 0, 0], [0, 0, 0], [-0.40824829, 0, 0.40824829]])
    assert found[3, 0] == pytest.approx(100 / 3 / np.std([100, 0, 1])) and scaled_influence(np.eye(20))[0, 0] == 1.0


def test_an_observation_asks_once(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env, calls = stepped(problem, 1, 1), []

    def counted(*given: Any) -> np.ndarray:
        calls.append(given)
        return row_influence(*given)

    monkeypatch.setattr("kd_env.mdp.observations.base.row_influence", counted)
    env.run.observation()
    assert len(calls) == 1
    DistillVectorEnv(1, problem=problem, features=["progress"]).reset(seed=0)
    assert len(calls) == 1, "who does not ask does not pay"


@pytest.mark.parametrize("view", ["discrete", "box"])
def test_the_score_keeps_the_rows_of_high_influence(view: str, problem: Any) -> None:
    env = stepped(problem, 2, 2, action_view=view, score="influence")
    influence = env.row_influence()
    action = np.array([3, 3]) if view == "discrete" else np.array([[0.0, 0.0]] * 2, np.float32)
    weights = env.step(action)[4]["row_weights"][:, 0]
    np.testing.assert_array_equal(weights, np.where(influence >= np.sort(influence)[:, 3:4], 2.0, 0.0))


# -- the rule


def lgtm_by_hand(influence: np.ndarray) -> np.ndarray:
    return np.array([[1 + max(-1.0, min(1.0, s / (3 * np.std(row)))) for s in row] for row in influence])


@pytest.mark.parametrize("view", VIEWS)
def test_lgtm_weighs_rows_by_their_influence(view: str, problem: Any) -> None:
    """The same weights in every view, through actions of the native one; in a vector and in a single environment."""
    env = stepped(problem, 2, 2, action_view=view)
    rule = make_rule("lgtm", env)
    expected = lgtm_by_hand(env.row_influence())
    actions, _ = rule.predict(env.run.observation())
    if view == "native":
        assert env.action_space.contains(actions)
    np.testing.assert_allclose(env.step(actions)[4]["row_weights"][:, 0], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected) > 0.1
    single = DistillEnv(problem=problem, action_view=view)
    observation, _ = single.reset(seed=3)
    expected = lgtm_by_hand(single.row_influence())
    weights = single.step(make_rule("lgtm", single).predict(observation)[0])[4]["row_weights"]
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)


def test_lgtm_without_differences_is_uniform(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = stepped(problem, 2, 0)
    monkeypatch.setattr(env, "row_influence", lambda: np.full((2, 6), 1e-5))
    assert not np.asarray(make_rule("lgtm", env).predict(env.run.observation())[0]).any()


def test_lgtm_where_it_cannot_be(problem: Any, tiny_problem: Any) -> None:
    with pytest.raises(ValueError, match="choose a rule for 'knowledge_selection'"):
        make_rule("lgtm", DistillEnv(problem=tiny_problem))
    env = stepped(problem, 2, 0)
    with pytest.raises(ValueError, match="2 replicas; it got 1"):
        make_rule("lgtm", env).predict(env.run.observation()[0])

    class Mute:
        decision, action_view, term_names, observation_layout = "sample_weighting", "native", (), {}

        @property
        def unwrapped(self) -> Any:
            return self

        def encode_samples(self, weights: Any) -> Any:
            return weights

    with pytest.raises(ValueError, match="tells the influence of its rows"):
        make_rule("lgtm", Mute())


# -- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"influence": {"row": 4}}, "Did you mean 'rows'"),
        ({"influence": {"clip": 1}}, "influence.clip=1 must be true or false"),
        ({"influence": {"clip": False}}, "influence.clip=False is only for influence.optimizer='sgd'.*Set it to True"),
        ({"influence": {"learning_rate": 0.1}}, "influence.learning_rate=0.1 is only for .*Set it to None"),
        ({"influence": {"learning_rate": 0.0, "optimizer": "sgd"}}, "influence.learning_rate=0.0 must be above 0"),
        ({"optimizer": {"max_grad_norm": 0.0}}, "optimizer.max_grad_norm=0.0 would scale .*null .* means no clipping"),
        ({"optimizer": {"max_grad_norm": -1}}, "optimizer.max_grad_norm=-1 must be above 0"),
        ({"influence": {"rows": 0}}, "influence.rows=0 must be a whole number of at least 1"),
        ({"influence": {"rows": 4.0}}, "influence.rows=4.0"),
        ({"influence": {"optimizer": "adam"}}, "influence.optimizer: 'adam'. Did you mean 'adamw'"),
        ({"influence": 16}, "influence=16 must be a mapping"),
        (
            {"influence": {"rows": 33}},
            "draws 33 feedback rows .* only 32 are evaluated .*evaluation_rows=32.*at most 32",
        ),
        ({"evaluation_rows": 64, "influence": {"rows": 33}}, "33 .* only 32 .*raise evaluation_rows and feedback_rows"),
        ({"batch_size": 40}, "draws 40 feedback rows .*by default batch_size.* only 32"),
        (
            {"batch_size": 40, "features": ["progress"], "score": "influence", "action_view": "box"},
            "draws 40 feedback rows",
        ),
        ({"evaluation_rows": 64, "features": ["progress"], "influence": {"rows": 33}}, "draws 33 feedback rows"),
        ({"feedback_labels": "none"}, "Unknown value of feedback_labels: 'none'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str, tiny: dict[str, Any]) -> None:
    """Before any work: no teacher has been loaded when rows are missing."""
    unread = {**options_of(tiny), "teacher": tiny["teacher"], **change}
    with pytest.raises(ValueError, match=message):
        build_problem(env_config(**unread))


def test_too_few_feedback_rows_are_no_matter_until_influence_is_asked_for(tiny: dict[str, Any], problem: Any) -> None:
    wide = {"batch_size": 40, "features": ["progress"]}
    env = DistillEnv(problem=problem, **wide)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="draws 40 feedback rows"):
        env.row_influence()
    few = DistillEnv(problem=problem, **wide, influence={"rows": 32})
    few.reset(seed=0)
    assert few.row_influence().shape == (1, 40)
    assert few.problem.config.influence_config.optimizer == "adamw"
    kept = with_options(few.problem, influence={"optimizer": "sgd"}).config.influence_config
    assert (kept.rows, kept.optimizer) == (32, "sgd"), "an option that is not named stays"
    with pytest.raises(ValueError, match="draws 40 feedback rows"):
        with_options(problem, batch_size=40)


def test_the_optimizers_are_those_of_the_virtual_step(tiny: dict[str, Any]) -> None:
    for name in VIRTUAL_OPTIMIZERS:
        config = env_config(influence={"optimizer": name})
        assert env_config(**config.to_dict()) == config
