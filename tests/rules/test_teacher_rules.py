"""Rules that weigh teachers: their weights against slow obvious versions, every view, effects, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from teacher_env import FakeEffect, TeacherEnv, TeacherVectorEnv
from terms import TermsVectorEnv

from agents import RULES, Agent, agent_kind, load_agent, make_agent, make_rule

OPTIONS: dict[str, dict[str, Any]] = {
    "single_teacher": {"teacher": "middle"},
    "fixed_weights": {"weights": {"big": 0.5, "small": 2.0}},
    "route": {"order": ["small", "middle", "big"]},
}
NAMES = [name for name, rule in RULES.items() if rule.decision == "teacher_weighting"]
VIEWS = ("simplex", "native", "subset", "discrete", "box")
CASES = [
    (name, view, weighting)
    for name in NAMES
    for view in VIEWS
    for weighting in ("batch", "sample")
    if (view, weighting) != ("discrete", "sample")
    and (weighting == "sample" or name not in ("dynamic_soft_instance", "router"))
]
TEACHERS = ("small", "middle", "big")


def made(name: str, env: Any, **options: Any) -> Any:
    return make_rule(name, env, **{**OPTIONS.get(name, {}), **options})


def chosen(name: str, env: TeacherVectorEnv, steps: int = 3, **options: Any) -> np.ndarray:
    """Weights ``[steps, N, (B,) T]`` of a rule."""
    rule = made(name, env, **options)
    observations, _ = env.reset(seed=0)
    found = []
    for _ in range(steps):
        actions, _ = rule.predict(observations, None, None, deterministic=True)
        found.append(env.decode(actions))
        observations, *_ = env.step(actions)
    return np.array(found)


@pytest.mark.parametrize(("name", "view", "weighting"), CASES)
def test_every_rule_acts_in_every_view(name: str, view: str, weighting: str, tmp_path: Path) -> None:
    env = TeacherVectorEnv(3, view=view, weighting=weighting)
    rule = made(name, env)
    assert agent_kind(name) == "rule"
    assert isinstance(rule, Agent)
    assert rule.learn(100) is rule
    observations, _ = env.reset(seed=0)
    rule.predict(observations)
    rule.save(tmp_path / "rule")
    twin = load_agent(tmp_path / "rule", env)
    first, second = (env.decode(one.predict(observations)[0]) for one in (rule, twin))
    assert np.array_equal(first, second)
    assert first.shape == (3, *env.shape)
    assert (first >= 0).all()
    single = TeacherEnv(view=view, weighting=weighting)
    action, _ = made(name, single).predict(single.reset(seed=0)[0])
    assert isinstance(action, FakeEffect) or single.action_space.contains(action)
    single.step(action)
    assert isinstance(single.taken, FakeEffect) == isinstance(action, FakeEffect)


@pytest.mark.parametrize(("name", "view", "weighting"), CASES)
def test_a_rule_does_the_same_in_every_view(name: str, view: str, weighting: str) -> None:
    reference = TeacherVectorEnv(3, view="simplex", weighting=weighting)
    env = TeacherVectorEnv(3, view=view, weighting=weighting)
    assert np.allclose(chosen(name, reference), chosen(name, env), atol=1e-6)


@pytest.mark.parametrize("weighting", ["batch", "sample"])
def test_constant_rules(weighting: str) -> None:
    env = TeacherVectorEnv(3, weighting=weighting)
    expected = {
        "average": [1 / 3, 1 / 3, 1 / 3],
        "single_teacher": [0, 1, 0],
        "best_teacher": [0, 0, 1],
        "no_teacher": [0, 0, 0],
        "fixed_weights": [2.0, 0, 0.5],
    }
    for name, weights in expected.items():
        assert np.allclose(chosen(name, env), weights), name


@pytest.mark.parametrize("weighting", ["batch", "sample"])
def test_route_goes_from_teacher_to_teacher(weighting: str) -> None:
    """Each stage's teacher alone, in the given order, for its share of the six steps."""
    env = TeacherVectorEnv(2, weighting=weighting)
    for options, names in [
        ({}, ["small", "small", "middle", "middle", "big", "big"]),
        ({"order": ["big", "small"]}, ["big"] * 3 + ["small"] * 3),
        ({"order": ["small", "big", "small"], "shares": [1, 4, 1]}, ["small", *["big"] * 4, "small"]),
    ]:
        found = chosen("route", env, 6, **options)
        expected = np.array([np.eye(3)[TEACHERS.index(name)] for name in names])
        assert np.array_equal(found, np.broadcast_to(expected.reshape(6, *([1] * (found.ndim - 2)), 3), found.shape))


def test_views_that_can_say_it_get_an_action() -> None:
    for name, views in {"average": VIEWS, "best_teacher": ("subset", "discrete"), "mt_bert": ()}.items():
        for view in VIEWS:
            env = TeacherVectorEnv(view=view, weighting="batch")
            action, _ = made(name, env).predict(env.reset(seed=0)[0])
            assert isinstance(action, FakeEffect) == (view not in views), (name, view)
    gated = TeacherVectorEnv(view="box", gate=True)
    assert (made("average", gated).predict(gated.reset(seed=0)[0])[0] == 1).all()


@pytest.mark.parametrize("weighting", ["batch", "sample"])
@pytest.mark.parametrize("normalize", [False, True])
def test_mt_bert(weighting: str, normalize: bool) -> None:
    env = TeacherVectorEnv(4, weighting=weighting)
    rule = make_rule("mt_bert", env, normalize=normalize)
    observations, _ = env.reset(seed=5)
    weights = env.decode(rule.predict(observations)[0])
    for place in np.ndindex(env.losses.shape[:-1]):
        row = [1 / (1 + np.expm1(loss)) for loss in env.losses[place]]
        total = sum(row) if normalize else 1.0
        assert np.allclose(weights[place], [w / total for w in row], rtol=1e-6)


def weights_on(name: str, losses: list[list[float]], weighting: str, **options: Any) -> np.ndarray:
    """Weights ``[R, T]`` of a rule where R rows (or batches, one a replica) have the given losses."""
    by_row = weighting == "sample"
    counts = {"count": 1, "rows": len(losses)} if by_row else {"count": len(losses)}
    env = TeacherVectorEnv(**counts, weighting=weighting, teachers=TEACHERS[: len(losses[0])])
    observations = env.reset(seed=0)[0]
    place = env.observation_layout["row_teacher_losses" if by_row else "teacher_losses"]
    observations[:, place.start : place.stop] = np.log1p(losses).reshape(len(observations), -1)
    return env.decode(make_rule(name, env, **options).predict(observations)[0]).reshape(len(losses), -1)


CROSS_ENTROPIES = [[0.0, 0.3, 2.5], [1.2, 1.2, 0.1], [0.05, 4.0, 40.0]]


@pytest.mark.parametrize("weighting", ["batch", "sample"])
@pytest.mark.parametrize("temperature", [0.001, 0.5, 1.0, 3.0])
def test_softmax_of_losses(weighting: str, temperature: float) -> None:
    found = weights_on("softmax", CROSS_ENTROPIES, weighting, temperature=temperature)
    for row, losses in zip(found, CROSS_ENTROPIES, strict=True):
        powers = [math.exp((min(losses) - loss) / temperature) for loss in losses]
        assert row == pytest.approx([power / sum(powers) for power in powers], rel=1e-4)


@pytest.mark.parametrize("weighting", ["batch", "sample"])
def test_ca_mkd(weighting: str) -> None:
    found = weights_on("ca_mkd", CROSS_ENTROPIES, weighting)
    for row, losses in zip(found, CROSS_ENTROPIES, strict=True):
        total = sum(math.exp(loss) for loss in losses)
        assert row == pytest.approx([(1 - math.exp(loss) / total) / 2 for loss in losses], rel=1e-4, abs=1e-12)
        assert row.sum() == pytest.approx(1)


def test_ca_mkd_leaves_one_out_where_softmax_follows_one() -> None:
    """A teacher whose loss is far above loses its weight to all others alike, the mediocre one included."""
    losses = [[0.1, 3.0, 40.0]]
    assert weights_on("ca_mkd", losses, "sample")[0] == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert weights_on("softmax", losses, "sample")[0] == pytest.approx([0.948, 0.052, 0.0], abs=1e-3)
    two = [[0.1, 3.0], [2.0, 0.7]]
    np.testing.assert_allclose(weights_on("ca_mkd", two, "sample"), weights_on("softmax", two, "sample"))


def test_rules_of_losses_need_no_feedback() -> None:
    assert not RULES["softmax"].looks_at_feedback and not RULES["ca_mkd"].looks_at_feedback


def test_random_rules_have_their_distributions() -> None:
    env = TeacherVectorEnv(50)
    simplex = chosen("random_simplex", env, 10).reshape(-1, 3)
    assert np.allclose(simplex.sum(axis=1), 1)
    assert np.allclose(simplex.mean(axis=0), 1 / 3, atol=0.02)
    assert np.allclose(simplex.var(axis=0), 2 / 36, atol=0.01)  # Dirichlet(1, 1, 1)
    subsets = chosen("random_subset", env, 10).reshape(-1, 3)
    on = subsets > 0
    assert np.allclose(on.mean(axis=0), 0.5, atol=0.05)
    assert np.allclose(np.cov(on.T)[np.triu_indices(3, 1)], 0, atol=0.03)
    assert np.allclose(subsets[on], (1 / np.maximum(on.sum(axis=1), 1)).repeat(on.sum(axis=1)))
    assert (~on.any(axis=1)).any()


@pytest.mark.parametrize("name", ["random_simplex", "random_subset"])
@pytest.mark.parametrize("weighting", ["batch", "sample"])
def test_a_replica_draws_the_same_whatever_their_number(name: str, weighting: str) -> None:
    one, other = (chosen(name, TeacherVectorEnv(count, weighting=weighting), seed=3) for count in (2, 5))
    assert np.array_equal(one, other[:, :2])
    assert not np.array_equal(one[:, 0], one[:, 1])
    assert not np.array_equal(one, chosen(name, TeacherVectorEnv(2, weighting=weighting), seed=4))


def batch_of(env: TeacherVectorEnv, uncertainties: list[Any]) -> np.ndarray:
    """Observations in which the student has the given entropies."""
    observations = env.reset(seed=0)[0]
    place = env.observation_layout["row_student" if env.weighting == "sample" else "student_on_batch"]
    view = observations[:, place.start : place.stop].reshape(len(observations), *place.shape)
    view[..., 1] = uncertainties
    observations[:, place.start : place.stop] = view.reshape(len(observations), -1)
    return observations


def test_dynamic_hard_gives_the_uncertain_half_to_the_small_teacher() -> None:
    env = TeacherVectorEnv(1, rows=5, teachers=("small", "big"))
    observations = batch_of(env, [[0.9, 0.1, 0.5, 0.4, 0.7]])
    weights = env.decode(make_rule("dynamic_hard", env).predict(observations)[0])[0]
    assert weights.argmax(axis=1).tolist() == [0, 1, 1, 1, 0]  # floor(5 / 2) rows learn from the small one
    assert (weights.sum(axis=1) == 1).all()
    turned = env.decode(make_rule("dynamic_hard", env, order=["big", "small"]).predict(observations)[0])[0]
    assert turned.argmax(axis=1).tolist() == [1, 0, 0, 0, 1]
    three = TeacherVectorEnv(1, rows=6, teachers=TEACHERS)
    weights = three.decode(
        make_rule("dynamic_hard", three).predict(batch_of(three, [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]))[0]
    )
    assert weights[0].argmax(axis=1).tolist() == [2, 2, 1, 1, 0, 0]
    equal = env.decode(make_rule("dynamic_hard", env).predict(batch_of(env, [[0.5] * 5]))[0])[0]
    assert equal.sum(axis=0).tolist() == [2, 3]


def test_dynamic_hard_by_batch() -> None:
    env = TeacherVectorEnv(4, weighting="batch", view="discrete")
    actions, _ = make_rule("dynamic_hard", env, order=["big", "small", "middle"]).predict(
        batch_of(env, [0.0, 0.4, 0.9, 1.0])
    )
    assert [TEACHERS[action - 1] for action in actions] == ["middle", "small", "big", "big"]


def test_dynamic_soft_interpolates_between_neighbours() -> None:
    two = TeacherVectorEnv(2, weighting="batch", teachers=("small", "big"))
    weights = two.decode(make_rule("dynamic_soft", two).predict(batch_of(two, [0.25, 1.0]))[0])
    assert np.allclose(weights, [[0.25, 0.75], [1, 0]])
    three = TeacherVectorEnv(4, weighting="batch")
    rule = make_rule("dynamic_soft", three, order=["middle", "big", "small"])
    weights = three.decode(rule.predict(batch_of(three, [0.0, 0.25, 0.5, 1.0]))[0])
    assert np.allclose(weights, [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1], [0, 1, 0]])


def test_dynamic_soft_by_row_and_with_the_mean_of_the_batch() -> None:
    env = TeacherVectorEnv(1, rows=3, teachers=("small", "big"))
    observations = batch_of(env, [[0.0, 0.3, 0.9]])
    mean, each = (
        env.decode(make_rule(name, env).predict(observations)[0])[0]
        for name in ("dynamic_soft", "dynamic_soft_instance")
    )
    assert np.allclose(mean, [[0.4, 0.6]] * 3)
    assert np.allclose(each, [[0, 1], [0.3, 0.7], [0.9, 0.1]])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("single_teacher", {"teacher": "midle"}, "Did you mean 'middle'"),
        ("fixed_weights", {"weights": {"bigg": 1.0}}, "Did you mean 'big'"),
        ("fixed_weights", {"weights": {"big": -1.0}}, "at least 0"),
        ("fixed_weights", {"weights": {"big": float("nan")}}, "finite"),
        ("fixed_weights", {"weights": {"big": 0.0}}, "no_teacher"),
        ("fixed_weights", {"weights": [0.5, 0.5]}, "numbers by name"),
        ("fixed_weights", {"weights": {"big": "much"}}, "numbers by name"),
        ("dynamic_soft", {"order": ["small", "big"]}, "name every teacher once.*small, middle, big"),
        ("dynamic_hard", {"order": ["small", "big", "big"]}, "name every teacher once"),
        ("route", {"order": ["small", "bgi"]}, "Did you mean 'big'"),
        ("route", {"order": "small"}, "write .small."),
        ("route", {"order": ["small", "middle", "big"], "shares": [1, 1]}, "must be 3 finite numbers above 0"),
        ("route", {"order": []}, "at least 1 stage"),
        ("route", {"order": ["small", "big"], "shares": [1000, 1]}, "6 steps has none in stage 2"),
        ("mt_bert", {"normalise": True}, "Did you mean 'normalize'"),
        ("softmax", {"temperature": 0.0}, "temperature=0.0 is not allowed.*at least 0.001"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule(name, TeacherVectorEnv(), **options)


@pytest.mark.parametrize("weighting", ["batch", "sample"])
def test_missing_features_are_named_as_the_weighting_needs_them(weighting: str) -> None:
    prefix = "row_" if weighting == "sample" else ""
    without = (f"{prefix}teacher_losses",)
    with pytest.raises(ValueError, match=f"reads the feature '{prefix}teacher_losses'"):
        make_rule("mt_bert", TeacherVectorEnv(weighting=weighting, without=without))
    with pytest.raises(ValueError, match="weighting='sample', or use 'dynamic_soft'"):
        make_rule("dynamic_soft_instance", TeacherVectorEnv(weighting="batch"))


def test_a_single_teacher_is_refused_where_it_is_weighed_against_others() -> None:
    with pytest.raises(ValueError, match=r"has one \(small\); name at least two"):
        make_rule("ca_mkd", TeacherVectorEnv(teachers=("small",)))


def test_dynamic_rules_need_classes() -> None:
    env = TeacherVectorEnv()
    env.observation_layout["row_student"] = env.observation_layout["row_student"]._replace(shape=(4, 1))
    with pytest.raises(ValueError, match="which regression has not"):
        make_rule("dynamic_soft", env)


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_rules_of_the_other_decision_are_refused_with_the_remedy(name: str, rule: Any) -> None:
    other = TermsVectorEnv() if rule.decision == "teacher_weighting" else TeacherVectorEnv()
    own = {"fixed": {"weights": {"soft_label": 1.0}}, "stages": {"terms": ["soft_label"]}}
    options = {**OPTIONS, **own}.get(name, {})
    with pytest.raises(ValueError, match=f"make an env of '{rule.decision}', or choose a rule for"):
        make_agent(name, other, seed=0, **options)
