"""Weighing rows: every action counts and means what it says, and uniform weights are the plain run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import load_agent, make_agent
from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.decisions.sample_weighting.actions import SampleWeightingActions
from kd_env.decisions.sample_weighting.scores import SCORES
from kd_env.testing import check_environment

VIEWS = ("native", "subset", "discrete", "box")
PLAIN = {"term_scale": "none"}
SCORE = np.array([[0.4, 0.1, 0.3, 0.2]])


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    """One teacher in float64, batches of 4 rows."""
    options = {key: value for key, value in tiny.items() if key not in ("features", "updates_per_step")}
    return build_problem(env_config(**options, decision="sample_weighting", precision="fp64"))


def model(view: str) -> SampleWeightingActions:
    """Actions on batches of four rows, one teacher and a term of each kind."""
    return SampleWeightingActions(4, np.array([[True, True], [False, True]]), view, "student_loss")


def ended(env: DistillEnv) -> dict[str, torch.Tensor]:
    return {name: value[0].clone() for name, value in env.run.started().params.items()}


# -- actions


@pytest.mark.parametrize(
    ("view", "action", "weights"),
    [
        ("native", [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
        ("native", [1.0, -1.0, 0.5, -0.5], [2.0, 0.0, 1.5, 0.5]),
        ("subset", [1, 1, 1, 1], [1.0, 1.0, 1.0, 1.0]),
        ("subset", [0, 1, 0, 0], [0.0, 4.0, 0.0, 0.0]),
        ("subset", [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]),
        ("discrete", 0, [0.0, 0.0, 0.0, 0.0]),
        ("discrete", 1, [1.0, 1.0, 1.0, 1.0]),
        ("discrete", 2, [0.0, 2.0, 0.0, 2.0]),
        ("discrete", 3, [2.0, 0.0, 2.0, 0.0]),
        ("discrete", 4, [0.0, 4.0, 0.0, 0.0]),
        ("discrete", 5, [4.0, 0.0, 0.0, 0.0]),
        ("box", [1.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
        ("box", [-1.0, 1.0], [0.0, 0.0, 0.0, 0.0]),
        ("box", [0.0, 0.0], [2.0, 0.0, 2.0, 0.0]),
        ("box", [-0.5, -0.1], [0.0, 4.0, 0.0, 0.0]),
        ("box", [1.0, 0.5], np.exp([1.5, -1.5, 0.5, -0.5] / np.sqrt(1.25))),
        ("box", [0.5, -1.0], np.exp([0.0, 3.0, -1.0, 1.0] / np.sqrt(1.25)) * [0.0, 1.0, 1.0, 1.0]),
    ],
)
def test_weights_of_each_view(view: str, action: Any, weights: Any) -> None:
    """The table of the class; every entry of the loss table that exists has the weights of the rows."""
    chosen = model(view)
    effect = chosen.decode(np.asarray(action)[None], SCORE if chosen.ranks else None)
    expected = np.asarray(weights, dtype=np.float64)
    if view == "box" and expected.any():
        expected = expected * 4 / expected.sum()
    for teacher, term in ((0, 0), (0, 1), (1, 1)):
        np.testing.assert_allclose(effect.weights[0, teacher, term], expected, rtol=1e-6)
    assert effect.weights.shape == (1, 2, 2, 4) and not effect.weights[0, 1, 0].any()
    assert effect.update_scale.tolist() == [1.0]


def test_equal_scores_are_neither_tilted_nor_a_division_by_zero() -> None:
    """The earlier of equal rows is kept first."""
    effect = model("box").decode(np.array([[0.0, 1.0], [1.0, -1.0]]), np.full((2, 4), 0.1))
    np.testing.assert_array_equal(effect.weights[:, 0, 0], [[2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])


def test_encode_is_the_inverse_of_decode() -> None:
    """For weights that the view can express; others are refused with the way out."""
    ones, none = np.ones(4), np.zeros(4)
    for view, found in (
        ("native", (ones, none, [0.5, 2.0, 0.0, 1.0])),
        ("subset", (ones, none, [0.0, 2.0, 2.0, 0.0])),
        ("discrete", (ones, none)),
        ("box", (ones, none)),
    ):
        for weights in found:
            raw = model(view).encode(weights)
            assert view == "discrete" or model(view).space.contains(raw)
            effect = model(view).decode(np.asarray(raw)[None], SCORE)
            np.testing.assert_allclose(effect.weights[0, 0, 0], weights, rtol=1e-6)
    for view, weights, message in (
        ("native", [3.0, 1.0, 0.0, 0.0], "from 0 to 2"),
        ("subset", [1.0, 0.0, 1.0, 1.0], "B / kept"),
        ("box", [2.0, 2.0, 0.0, 0.0], "all rows or none"),
        ("discrete", [2.0, 2.0, 0.0, 0.0], "all rows or none"),
        ("native", [1.0, 1.0], r"shape \(2,\)"),
        ("native", [1.0, 1.0, -0.5, 1.0], "-0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            model(view).encode(weights)


def test_effects_are_checked() -> None:
    """What a rule says itself goes through the same checks."""
    for weights, message in (
        ([[1.0, np.nan, 1.0, 1.0]], "nan"),
        ([[1.0, np.inf, 1.0, 1.0]], "inf"),
        ([[1.0, 1e300, 1.0, 1.0]], "finite"),
        ([[1.0, -0.1, 1.0, 1.0]], "-0.1"),
        ([[1.0, 1.0]], r"shape \(1, 2\)"),
        ([1.0, 1.0, 1.0, 1.0], r"shape \(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model("box").effect(weights)
    np.testing.assert_array_equal(model("box").effect([[7.0, 0.0, 0.5, 1.0]]).weights[0, 1, 1], [7.0, 0.0, 0.5, 1.0])


# -- environments


@pytest.mark.parametrize("view", ["subset", "box"])
def test_conformance_with_every_feature_of_rows(view: str, tiny: dict[str, Any]) -> None:
    """Both checkers, exact restore; the other views are registered ids, which tests/envs/test_envs.py checks."""
    options = {**tiny, "updates_per_step": 1, "action_view": view}
    options |= {"score": "margin"} if view == "box" else {}
    options["features"] = ["gap", "row_margin", "row_confidence", "row_length", "row_seen", "margin", "seen"]
    check_environment(gym.make("kd_env/SampleWeighting-v0", **options), steps=10)


def test_without_arguments_it_is_the_embedded_task() -> None:
    """With its packaged teacher, offline, here on few of its rows; the reward is the drop of the loss."""
    env = DistillEnv(decision="sample_weighting", budget=3, max_train_rows=64, selection_rows=32)
    assert env.decision.name == "sample_weighting" and env.weighting == "sample" and env.teacher_names == ("toy",)
    assert {"row_student", "row_seen"} <= set(env.row_features) and env.action_space.shape == (16,)
    before = env.reset(seed=0)[1]["loss"]
    _, reward, _, _, info = env.step(env.action_space.sample())
    assert reward == pytest.approx(before - info["loss"], abs=1e-12)


@pytest.mark.parametrize(("view", "action"), [("native", np.zeros(4)), ("subset", np.ones(4)), ("box", [1.0, 0.0])])
def test_uniform_weights_are_the_plain_run_bit_for_bit(view: str, action: Any, tiny: dict[str, Any]) -> None:
    """Weight 1 on every row is knowledge selection with every term, in observations, rewards and parameters."""
    shared = {**tiny, "features": ["gap", "previous_action"], "updates_per_step": 1, "reward": "gap_closed"}
    plain = DistillEnv(**shared)
    rows = DistillEnv(**shared, decision="sample_weighting", action_view=view)
    for env in (plain, rows):
        env.reset(seed=1)
    raw = np.asarray(action, rows.action_space.dtype)
    for _ in range(8):
        expected, found = plain.step(np.ones(3, np.int8)), rows.step(raw)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]
    for name, value in ended(plain).items():
        assert torch.equal(value, ended(rows)[name]), name


def test_weights_multiply_the_whole_loss_of_each_row(problem: Any) -> None:
    """Against a gradient by hand: sum of w_b times every term of row b, over B."""
    env = DistillEnv(problem=problem, **PLAIN)
    env.reset(seed=2)
    state = env.run.started()
    batch = problem.train.gather(state.next_rows[0, 0])
    params = {name: p[0].clone().requires_grad_() for name, p in state.params.items()}
    student = problem.student.forward(params, batch, problem.student_signals)
    teacher = problem.reference
    with torch.no_grad():
        out = teacher.encoder.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), output_hidden_states=True
        )
    hard = torch.nn.functional.cross_entropy(student.logits, batch.labels, reduction="none")
    t, s = torch.log_softmax(out.logits / 2, -1), torch.log_softmax(student.logits / 2, -1)
    soft = 4 * (t.exp() * (t - s)).sum(-1)
    hidden = []
    for own, other in teacher.pairs:
        mapped = student.hidden_states[own] @ params[f"projections.hidden_states.layer_{own}"].T
        distance = (mapped - out.hidden_states[other]).square().mean(-1)
        hidden.append((distance * batch.attention_mask).sum(-1) / batch.attention_mask.sum(-1))
    action = np.array([0.5, -1.0, 1.0, -0.25], np.float32)
    weights = torch.as_tensor(action + 1.0).double()
    loss = (weights * (hard + soft + torch.stack(hidden).mean(0))).mean()
    gradient = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    norm = torch.sqrt(sum(g.square().sum() for g in gradient if g is not None))
    factor = min(1.0, float(1.0 / (norm + 1e-6)))
    info = env.step(action)[4]
    np.testing.assert_allclose(info["row_weights"], [weights.numpy()])
    for (name, moment), grad in zip(env.run.started().exp_avg.items(), gradient, strict=True):
        if grad is not None:
            torch.testing.assert_close(moment[0], 0.1 * factor * grad, rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.parametrize("view", VIEWS)
def test_every_component_of_the_action_changes_the_student(view: str, problem: Any) -> None:
    """One component at a time; in the discrete view every choice differs from every other."""
    env = DistillEnv(problem=problem, action_view=view, **PLAIN)

    def moved(action: np.ndarray) -> np.ndarray:
        env.reset(seed=3)
        env.step(action)
        return np.concatenate([value.flatten().numpy() for value in ended(env).values()])

    space = env.action_space
    if isinstance(space, spaces.Discrete):
        assert len({moved(np.asarray(choice)).tobytes() for choice in range(int(space.n))}) == int(space.n)
        return
    base = np.ones(space.shape, space.dtype) if view == "subset" else np.full(space.shape, 0.2, space.dtype)
    before = moved(base)
    for component in range(int(space.shape[0])):
        other = base.copy()
        other[component] = 0 if view == "subset" else 0.9
        assert np.abs(moved(other) - before).max() > 1e-9, env.action_names[component]


def test_an_empty_choice_is_no_update(problem: Any) -> None:
    """Parameters and moments stay, budget and data order go on."""
    env = DistillEnv(problem=problem, action_view="subset")
    env.reset(seed=0)
    before, rows = ended(env), env.run.started().next_rows.copy()
    info = env.step(np.zeros(4, np.int8))[4]
    assert info["skipped"] and info["updates"] == 1 and info["update_norm"] == 0
    assert all(torch.equal(value, ended(env)[name]) for name, value in before.items())
    assert not np.array_equal(env.run.started().next_rows, rows)


@pytest.mark.parametrize("view", VIEWS)
def test_vector_equals_singles(view: str, problem: Any) -> None:
    """Three stacked students against three single ones, across their ends; rows are padded to the longest replica."""
    options = {"action_view": view, "budget": 4}
    envs = DistillVectorEnv(3, problem=problem, **options)
    singles = [DistillEnv(problem=problem, **options) for _ in range(3)]
    observation, _ = envs.reset(seed=10)
    own = [env.reset(seed=10 + place)[0] for place, env in enumerate(singles)]
    envs.action_space.seed(0)
    for _ in range(6):
        np.testing.assert_allclose(observation, np.stack(own), rtol=1e-5, atol=1e-6)
        actions = envs.action_space.sample()
        observation, reward, terminated, _, info = envs.step(actions)
        for place, env in enumerate(singles):
            own[place], single, over, _, single_info = env.step(actions[place])
            np.testing.assert_allclose(reward[place], single, rtol=1e-9, atol=1e-12)
            assert over == terminated[place]
            if over:
                own[place] = env.reset()[0]
            else:
                np.testing.assert_allclose(info["row_weights"][place], single_info["row_weights"], rtol=1e-6)
                np.testing.assert_array_equal(info["rows"][place], single_info["rows"])


@pytest.mark.parametrize("view", ["native", "box"])
def test_a_fork_goes_on_alike(view: str, problem: Any) -> None:
    """Bit for bit, in another environment and after the first has gone on; counts of visits included."""
    one, other = (DistillEnv(problem=problem, action_view=view, budget=200) for _ in range(2))
    one.reset(seed=0)
    one.action_space.seed(0)
    actions = [one.action_space.sample() for _ in range(70)]  # more than an epoch of 44 batches
    for action in actions[:60]:
        one.step(action)
    state = one.get_state()
    ends = [one.step(action)[0] for action in actions[60:]]
    other.set_state(state)
    for action, expected in zip(actions[60:], ends, strict=True):
        np.testing.assert_array_equal(other.step(action)[0], expected)


# -- features and scores


def test_features_by_hand(tiny: dict[str, Any]) -> None:
    """Against counts that are kept and the predictions of the student, over several epochs with rows carried over."""
    features = ["row_margin", "row_confidence", "row_length", "row_seen", "margin", "confidence", "length", "seen"]
    options = {**tiny, "features": features, "updates_per_step": 1, "batch_size": 14, "budget": 60}
    env = DistillEnv(**options, decision="sample_weighting")
    observation, _ = env.reset(seed=0)
    assert len(env.problem.train) % 14, "no row would be carried over"
    seen: Counter[int] = Counter()
    for step in range(60):
        rows = env.run.started().next_rows[0, 0]
        part = {name: observation[place.slice].reshape(place.shape) for name, place in env.observation_layout.items()}
        counts = np.log1p([seen[int(row)] for row in rows])
        np.testing.assert_allclose(part["row_seen"][:, 0], counts, rtol=1e-6, err_msg=f"step {step}")
        if step % 20 == 0:
            p = np.sort(torch.softmax(torch.as_tensor(env.predict(env.problem.train)[0][rows]).double(), -1).numpy())
            expected = {
                "margin": p[:, 1] - p[:, 0],
                "confidence": p[:, 1],
                "length": env.problem.train.lengths[rows] / env.problem.train.lengths.max(),
                "seen": counts,
            }
            for name, wanted in expected.items():
                np.testing.assert_allclose(part[f"row_{name}"][:, 0], wanted, rtol=1e-3, atol=1e-5, err_msg=name)
                np.testing.assert_allclose(part[name], [wanted.mean()], rtol=1e-3, atol=1e-5, err_msg=name)
        seen.update(map(int, rows))
        observation = env.step(np.zeros(14, np.float32))[0]
    assert max(seen.values()) >= 4


def test_visits_of_longer_steps(tiny: dict[str, Any]) -> None:
    """The mean count with several updates a step: batches that are drawn and still to come do not count."""
    env = DistillEnv(**{**tiny, "features": ["seen"], "updates_per_step": 3, "budget": 150})
    observation, _ = env.reset(seed=1)
    seen: Counter[int] = Counter()
    for _ in range(49):
        batches = env.run.started().next_rows[0]
        np.testing.assert_allclose(observation, [np.log1p([seen[int(r)] for r in batches[0]]).mean()], rtol=1e-6)
        seen.update(map(int, batches.ravel()))
        observation = env.step(np.zeros(3, np.int8))[0]


@pytest.mark.parametrize("name", [name for name in SCORES if SCORES[name].objective == "labels"])
def test_scores_by_hand(name: str, problem: Any) -> None:
    """Of the student before the update, on the rows of the step: the highest half has weight 2."""
    env = DistillEnv(problem=problem, action_view="discrete", score=name)
    env.reset(seed=4)
    env.step(np.asarray(1))
    rows = env.run.started().next_rows[0, 0].copy()
    labels, place = problem.train.labels[rows], np.arange(len(rows))
    log_s = torch.log_softmax(torch.as_tensor(env.predict(problem.train)[0][rows]).double(), -1).numpy()
    log_t = torch.log_softmax(torch.as_tensor(problem.reference.train_logits[rows]).double(), -1).numpy()
    score = {
        "student_loss": -log_s[place, labels],
        "teacher_loss": -log_t[place, labels],
        "disagreement": (np.exp(log_t) * (log_t - log_s)).sum(-1),
        "student_entropy": -(np.exp(log_s) * log_s).sum(-1),
        "margin": np.abs(np.exp(log_s[:, 0]) - np.exp(log_s[:, 1])),
        "confidence": np.exp(log_s).max(-1),
        "influence": env.row_influence()[0],
    }[name]
    info = env.step(np.asarray(3))[4]
    np.testing.assert_array_equal(info["rows"], rows)
    np.testing.assert_array_equal(info["row_weights"][0], np.where(score >= np.sort(score)[2], 2.0, 0.0))


def test_regression_has_scores_and_features(tiny_regression: dict[str, Any]) -> None:
    """Those without classes; the others are refused with the ones that are left."""
    options = {**tiny_regression, "decision": "sample_weighting", "updates_per_step": 1, "action_view": "box"}
    options["features"] = ["gap", "row_student", "row_length", "row_seen"]
    for name in ("student_loss", "teacher_loss", "disagreement", "influence"):
        env = DistillEnv(**options, score=name)
        env.reset(seed=0)
        assert np.isfinite(env.step(np.array([0.0, 0.5], np.float32))[1])
    with pytest.raises(
        ValueError, match=r"'margin' has no meaning.*valid there: disagreement, influence, student_loss"
    ):
        DistillEnv(**options, score="margin")


# -- agents


@pytest.mark.parametrize("view", ["native", "subset"])
@pytest.mark.parametrize("name", ["reinforce", "actor_critic"])
def test_a_policy_for_rows_learns_and_acts_at_another_batch_size(
    name: str, view: str, problem: Any, tmp_path: Path
) -> None:
    """Shared by the rows without being told; the observation and the action grow with the batch."""
    envs = DistillVectorEnv(2, problem=problem, action_view=view, budget=4)
    agent: Any = make_agent(name, envs, seed=0).learn(16)
    assert agent.config.row_shared is True
    agent.save(tmp_path / "agent")
    wider = DistillVectorEnv(2, problem=problem, action_view=view, batch_size=7)
    actions, _ = load_agent(tmp_path / "agent", wider).predict(wider.reset(seed=0)[0])
    assert wider.action_space.contains(actions)
    assert np.isfinite(wider.step(actions)[1]).all()


def test_controls_are_no_rows(problem: Any) -> None:
    """Two controls and two rows: a policy for the whole observation, and a refusal where rows were asked for."""
    envs = DistillVectorEnv(2, problem=problem, action_view="box", batch_size=2, budget=4)
    agent: Any = make_agent("reinforce", envs, seed=0)
    assert agent.config.row_shared is False
    with pytest.raises(ValueError, match=r"controls hold for the whole batch.*'native' or 'subset'"):
        make_agent("reinforce", envs, seed=0, row_shared=True)
    with pytest.raises(ValueError, match=r"sb3/dqn takes only Discrete.*action_view='discrete'\."):
        make_agent("sb3/dqn", envs, seed=0)
    with pytest.raises(ValueError, match=r"sb3/sac takes only Box.*action_view='box'\."):
        make_agent("sb3/sac", DistillVectorEnv(2, problem=problem, action_view="subset"), seed=0)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "view"), [("sb3/ppo", "box"), ("sb3/sac", "box"), ("sb3/dqn", "discrete")])
def test_any_algorithm_takes_the_controls(name: str, view: str, problem: Any) -> None:
    """As many components whatever the batch size."""
    envs = DistillVectorEnv(2, problem=problem, action_view=view, budget=4, features=["gap", "student_on_batch"])
    early = {} if name == "sb3/ppo" else {"learning_starts": 4}
    agent = make_agent(name, envs, seed=0, **early).learn(16)
    actions, _ = agent.predict(envs.reset(seed=0)[0], deterministic=True)
    assert np.isfinite(envs.step(actions)[1]).all()
    assert envs.single_action_space.shape == ((2,) if view == "box" else ())


# -- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates_per_step": 2}, "updates_per_step=2 does not fit decision='sample_weighting'"),
        ({"weighting": "batch"}, "weighting='batch' does not fit"),
        ({"weight_normalization": "mean"}, "Set weight_normalization='none'"),
        ({"weighs": ["hidden_states"]}, "only for decision='teacher_weighting'"),
        ({"score": "studnet_loss", "action_view": "box"}, "Did you mean 'student_loss'"),
        ({"action_view": "simplex"}, "Unknown value of action_view: 'simplex'"),
        ({"decision": "knowledge_selection", "score": "margin"}, "only for decision='sample_weighting'"),
        ({"decision": "sample"}, "Did you mean 'sample_weighting'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str, tiny: dict[str, Any]) -> None:
    """With the value and the remedy, before any work."""
    options = {**tiny, "decision": "sample_weighting", "updates_per_step": 1, **change}
    with pytest.raises(ValueError, match=message):
        DistillEnv(**options)


@pytest.mark.parametrize(
    ("view", "action"),
    [
        ("native", [0.0, 0.0, 0.0, np.nan]),
        ("native", [0.0, 0.0, 0.0, 1.5]),
        ("native", [0.0, 0.0, 0.0]),
        ("subset", [1, 1, 1, 2]),
        ("subset", [1, 1, 1, -1]),
        ("discrete", 6),
        ("box", [0.0, -1.1]),
    ],
)
def test_bad_actions_are_refused(view: str, action: Any, problem: Any) -> None:
    """Wrong shape, value outside the space, NaN: an error that says so, and the episode is unharmed."""
    env = DistillEnv(problem=problem, action_view=view)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="the action space"):
        env.step(action)
    with pytest.raises(ValueError, match="finite"):
        env.step(env.decision.effect([[1.0, 1.0, np.nan, 1.0]]))
    with pytest.raises(ValueError, match="of 2 replicas"):
        env.step(env.decision.effect(np.ones((2, 4))))
    assert env.step(env.action_space.sample())[4]["updates"] == 1


def test_methods_of_the_other_decisions_are_refused(problem: Any, tiny_problem: Any) -> None:
    """Rules that were made for another environment get a clear message."""
    rows, terms = DistillEnv(problem=problem), DistillEnv(problem=tiny_problem)
    with pytest.raises(ValueError, match="weights of rows, not by name"):
        rows.decision.encode({"soft_label": 1.0})
    with pytest.raises(ValueError, match="batches need"):
        rows.decision.effect([[1.0]])
    with pytest.raises(ValueError, match="'knowledge_selection' say every effect"):
        terms.decision.effect([[1.0]])
    with pytest.raises(ValueError, match="here it is 'knowledge_selection'"):
        terms.decision.lesson([[1.0]])
