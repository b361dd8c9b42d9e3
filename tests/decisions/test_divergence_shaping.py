"""Shaping soft labels: every number says what it says, plain numbers are plain KD, each row has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import load_agent, make_agent
from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.divergence_shaping.actions import SHAPES, DivergenceShapingActions
from kd_env.decisions.options import env_config
from kd_env.evaluation.judging.interventions import interventions_of
from kd_env.knowledge.labels import soft_label_divergence
from kd_env.knowledge.options import TEMPERATURES
from kd_env.numerics.ranks import Ranks
from kd_env.testing import check_environment

CASES = [("native", "batch"), ("box", "batch"), ("discrete", "batch"), ("native", "sample"), ("box", "sample")]
TERMS = ["hard_label", "soft_label"]


def options(tiny: dict[str, Any], **changes: Any) -> dict[str, Any]:
    shared = {**tiny, "terms": TERMS, "features": ["gap", "term_losses"], "updates_per_step": 1}
    return {**shared, "decision": "divergence_shaping", **changes}


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    """Batches of 4 rows in float64, by row."""
    return build_problem(env_config(**options(tiny, precision="fp64", weighting="sample", term_scale="none")))


def model(view: str, shapes: tuple[str, ...] = SHAPES, rows: int | None = None) -> DivergenceShapingActions:
    return DivergenceShapingActions(shapes, (0.5, 8.0), np.array([[True, True]]), view, True, rows)


def ended(env: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in env.run.started().params.items()}


# -- actions


def test_numbers_of_each_view() -> None:
    """The table of the class; all terms keep weight 1."""
    effect = model("native").decode(np.array([[0.0, -1.0], [-1.0, 1.0], [1.0, 0.0]]))
    assert effect.given is not None
    np.testing.assert_allclose(effect.given["soft_temperature"], [2.0, 0.5, 8.0])
    np.testing.assert_allclose(effect.given["reverse_share"], [0.0, 1.0, 0.5])
    np.testing.assert_array_equal(effect.weights, np.ones((3, 1, 2, 1)))
    boxed = model("box").decode(np.array([[0.0, -1.0, 0.5]]))
    assert boxed.update_scale.tolist() == [0.75]
    chosen = model("discrete").decode(np.array([0, 4, 8]))
    assert chosen.given is not None
    np.testing.assert_allclose(chosen.given["soft_temperature"], [0.5, 2.0, 8.0])
    np.testing.assert_allclose(chosen.given["reverse_share"], [0.0, 0.5, 1.0])
    assert model("discrete").action_names[4] == "soft_temperature=2 reverse_share=0.5"


def test_rows_have_numbers_of_their_own() -> None:
    chosen = model("native", rows=2)
    assert chosen.action_names == tuple(f"{name}[{row}]" for row in range(2) for name in SHAPES)
    effect = chosen.decode(np.array([[0.0, -1.0, 1.0, 1.0]]))
    assert effect.given is not None
    np.testing.assert_allclose(effect.given["soft_temperature"], [[2.0, 8.0]])
    np.testing.assert_allclose(effect.given["reverse_share"], [[0.0, 1.0]])


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("view", ["native", "box", "discrete"])
def test_encode_is_the_inverse_of_decode(view: str, rows: int | None) -> None:
    if view == "discrete" and rows:
        return
    chosen = model(view, rows=rows)
    values: dict[str, Any] = {"soft_temperature": 2.0, "reverse_share": 0.5}
    if rows:
        values = {"soft_temperature": [1.0, 4.0], "reverse_share": 0.25}
    raw = chosen.encode(values)
    assert chosen.space.contains(raw)
    given = chosen.decode(raw[None]).given
    assert given is not None
    for name, value in values.items():
        np.testing.assert_allclose(given[name][0], np.broadcast_to(value, given[name][0].shape), rtol=1e-6)


@pytest.mark.parametrize(
    ("view", "values", "message"),
    [
        ("native", {"soft_temperature": 9.0, "reverse_share": 0.0}, r"outside temperature_range=\[0.5, 8\]"),
        ("native", {"soft_temperature": 0.0, "reverse_share": 0.0}, "from 0.05 to 100"),
        ("native", {"soft_temperature": float("nan"), "reverse_share": 0.0}, "nan"),
        ("native", {"soft_temperature": 2.0, "reverse_share": 1.5}, "from 0 to 1"),
        ("native", {"soft_temperature": 2.0}, "reverse_share is missing"),
        ("native", {"temperature": 2.0, "reverse_share": 0.0}, "soft_temperature"),
        ("native", {"soft_temperature": [2.0, 3.0], "reverse_share": 0.0}, "one number"),
        ("native", 2.0, "numbers by name"),
        ("discrete", {"soft_temperature": 3.0, "reverse_share": 0.0}, "The discrete view has"),
    ],
)
def test_values_that_cannot_be_are_refused(view: str, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(view).encode(values)


def test_effects_are_checked() -> None:
    """A rule may go beyond the limits of actions, and no further."""
    assert model("native").effect({"soft_temperature": [20.0], "reverse_share": [1.0]}).given is not None
    for values, message in (
        ({"soft_temperature": [[1.0]], "reverse_share": [0.0]}, "shape"),
        ({"soft_temperature": [-1.0], "reverse_share": [0.0]}, "-1.0"),
        ({"soft_temperature": [101.0], "reverse_share": [0.0]}, "from 0.05 to 100"),
        ({"soft_temperature": [np.inf], "reverse_share": [0.0]}, "inf"),
    ):
        with pytest.raises(ValueError, match=message):
            model("native").effect(values)


def test_the_widest_range_of_actions_is_that_of_the_term(tiny: dict[str, Any]) -> None:
    """Beyond it an action would say what the term's own option refuses."""
    low, high = TEMPERATURES
    assert env_config(**options(tiny, temperature_range=[low, high])).temperature_range == (low, high)
    for wider in ([0.99 * low, high], [low, 1.01 * high]):
        with pytest.raises(ValueError, match=f"from {low:g} to {high:g}"):
            env_config(**options(tiny, temperature_range=wider))


# -- the term


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon", "cross_entropy"])
def test_temperatures_of_rows_are_one_row_at_a_time(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    temperatures = torch.tensor([0.5, 1.0, 2.0, 8.0, 20.0], dtype=torch.float64)
    found = soft_label_divergence(student, teacher, temperatures, kind)
    for row, temperature in enumerate(temperatures.tolist()):
        slow = soft_label_divergence(student[row : row + 1], teacher[row : row + 1], temperature, kind)
        torch.testing.assert_close(found[row : row + 1], slow)


# -- environments


@pytest.mark.parametrize(("view", "weighting"), CASES)
def test_conformance(view: str, weighting: str, tiny: dict[str, Any]) -> None:
    """Both checkers, finite observations inside their space, exact restore."""
    own = options(tiny, action_view=view, weighting=weighting)
    own["features"] = ["gap", "row_student" if weighting == "sample" else "student_on_batch"]
    check_environment(gym.make("kd_env/DivergenceShaping-v0", **own), steps=6)


@pytest.mark.parametrize("weighting", ["batch", "sample"])
def test_plain_numbers_are_plain_kd_bit_for_bit(weighting: str, tiny: dict[str, Any]) -> None:
    """Temperature 2 and no reverse KL is knowledge selection with every term, in rewards and parameters."""
    plain = DistillEnv(**{**options(tiny), "decision": "knowledge_selection"})
    shaped = DistillEnv(**options(tiny, weighting=weighting))
    for env in (plain, shaped):
        env.reset(seed=1)
    raw = np.tile(np.array([0.0, -1.0], np.float32), 4 if weighting == "sample" else 1)
    for _ in range(4):
        expected, found = plain.step(np.ones(2, np.int8)), shaped.step(raw)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]
    for name, value in ended(plain).items():
        assert torch.equal(value, ended(shaped)[name]), name


def test_the_loss_is_that_of_each_rows_own_numbers(problem: Any) -> None:
    """Against a gradient by hand: the mean over rows of hard and shaped soft labels."""
    env = DistillEnv(problem=problem)
    env.reset(seed=2)
    state = env.run.started()
    batch = problem.train.gather(state.next_rows[0, 0])
    params = {name: p[0].clone().requires_grad_() for name, p in state.params.items()}
    logits = problem.student.forward(params, batch, problem.student_signals).logits
    said = torch.as_tensor(np.asarray(problem.reference.train_logits[state.next_rows[0, 0]])).double()
    values = {"soft_temperature": np.array([0.5, 1.0, 3.0, 8.0]), "reverse_share": np.array([0.0, 0.2, 0.7, 1.0])}
    rows = []
    for row in range(4):
        tau, share = values["soft_temperature"][row], values["reverse_share"][row]
        t, s = torch.log_softmax(said[row] / tau, -1), torch.log_softmax(logits[row] / tau, -1)
        soft = tau**2 * ((1 - share) * (t.exp() * (t - s)).sum() + share * (s.exp() * (s - t)).sum())
        rows.append(torch.nn.functional.cross_entropy(logits[row], batch.labels[row]) + soft)
    gradient = torch.autograd.grad(torch.stack(rows).mean(), list(params.values()), allow_unused=True)
    norm = torch.sqrt(sum(g.square().sum() for g in gradient if g is not None))
    factor = min(1.0, float(1.0 / (norm + 1e-6)))
    info = env.step(env.decision.encode(values))[4]
    np.testing.assert_allclose(info["soft_temperature"], values["soft_temperature"], rtol=1e-6)
    np.testing.assert_allclose(info["reverse_share"], values["reverse_share"], atol=1e-6)
    for (name, moment), grad in zip(env.run.started().exp_avg.items(), gradient, strict=True):
        if grad is not None:
            torch.testing.assert_close(moment[0], 0.1 * factor * grad, rtol=1e-5, atol=1e-9, msg=name)


@pytest.mark.parametrize(("view", "weighting"), CASES)
def test_every_component_of_the_action_changes_the_student(view: str, weighting: str, problem: Any) -> None:
    env = DistillEnv(problem=problem, action_view=view, weighting=weighting)

    def moved(action: np.ndarray) -> np.ndarray:
        env.reset(seed=3)
        env.step(action)
        return np.concatenate([value.flatten().numpy() for value in ended(env).values()])

    space = env.action_space
    if isinstance(space, spaces.Discrete):
        assert len({moved(np.asarray(choice)).tobytes() for choice in range(int(space.n))}) == int(space.n)
        return
    base = np.full(space.shape, 0.2, np.float32)
    before = moved(base)
    for component in range(int(space.shape[0])):
        other = base.copy()
        other[component] = 0.9
        assert np.abs(moved(other) - before).max() > 1e-9, env.action_names[component]


@pytest.mark.parametrize(("view", "weighting"), CASES[1:4])
def test_vector_equals_singles(view: str, weighting: str, problem: Any) -> None:
    own = {"action_view": view, "weighting": weighting, "budget": 3}
    envs = DistillVectorEnv(3, problem=problem, **own)
    envs.action_space.seed(0)
    singles = [DistillEnv(problem=problem, **own) for _ in range(3)]
    envs.reset(seed=10)
    for place, env in enumerate(singles):
        env.reset(seed=10 + place)
    for _ in range(3):
        actions = envs.action_space.sample()
        _, rewards, terminated, _, infos = envs.step(actions)
        for place, env in enumerate(singles):
            _, reward, over, _, info = env.step(actions[place])
            np.testing.assert_allclose(rewards[place], reward, rtol=1e-9, atol=1e-12)
            assert over == terminated[place]
            if not over:
                np.testing.assert_allclose(infos["soft_temperature"][place], info["soft_temperature"])


def test_ranks_compare_all_that_an_effect_says(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are always the same: ranks whose temperatures differ would train different students unseen."""
    compared: list[bytes] = []
    monkeypatch.setattr(Ranks, "check_same", lambda _, what, *values: compared.append(b"".join(values)))
    for temperature in (2.0, 2.0, 3.0):
        env = DistillEnv(problem=problem)
        env.reset(seed=0)
        values = {"soft_temperature": np.full((1, 4), temperature), "reverse_share": np.zeros((1, 4))}
        env.step(env.decision.effect(values))
    assert compared[0] == compared[1] != compared[2]


def test_numbers_of_rows_go_with_their_piece_of_the_batch(tiny: dict[str, Any]) -> None:
    """A batch that is computed in pieces is the whole one within rounding."""
    own = options(tiny, precision="fp64", weighting="sample")
    whole, pieces = DistillEnv(**own), DistillEnv(**own, micro_batch_size=2)
    raw = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, -1.0, 0.3, 1.0], np.float32)
    for env in (whole, pieces):
        env.reset(seed=4)
        env.step(raw)
    for name, value in ended(whole).items():
        torch.testing.assert_close(value, ended(pieces)[name], rtol=1e-9, atol=1e-12)


def test_a_policy_for_rows_learns_and_acts_at_another_batch_size(tiny: dict[str, Any], tmp_path: Path) -> None:
    own = options(tiny, weighting="sample", features=["gap", "row_student"], budget=4)
    agent = make_agent("reinforce", DistillVectorEnv(2, **own), seed=0)
    agent.learn(16)
    agent.save(tmp_path / "agent")
    other = DistillEnv(**{**own, "batch_size": 5})
    observation, _ = other.reset(seed=0)
    action, _ = load_agent(tmp_path / "agent", other).predict(observation)
    assert other.action_space.contains(action)
    other.step(action)


def test_forced_rows_have_the_mean_of_the_batch(problem: Any) -> None:
    env = DistillEnv(problem=problem)
    assert interventions_of(["forced"], env.decision, problem.config) == ("constant",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": ["heat"]}, "names 'heat'; valid: soft_temperature, reverse_share"),
        ({"shapes": ["reverse_share", "reverse_share"]}, "twice"),
        ({"shapes": []}, "shapes is empty"),
        ({"temperature_range": [2.0, 1.0]}, "the lower one first"),
        ({"shapes": ["reverse_share"], "temperature_range": [1.0, 4.0]}, "is never read, since shapes"),
        ({"temperature_range": [0.0, 1.0]}, "from 0.05 to 100"),
        ({"terms": ["hard_label", "logit_mse"]}, "no action would change anything"),
        ({"terms": [{"name": "soft_label", "temperature": 4.0}]}, "soft_label.temperature=4.0 is never read"),
        ({"terms": [{"name": "soft_label", "kind": "reverse"}]}, "soft_label.kind='reverse' is never read"),
        ({"weighting": "sample", "updates_per_step": 2}, "updates_per_step=1"),
        ({"weighting": "sample", "action_view": "discrete"}, "chooses for a whole batch"),
        ({"decision": "knowledge_selection", "shapes": ["reverse_share"]}, "only for decision='divergence_shaping'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        env_config(**options(tiny, **change))


def test_what_the_action_does_not_say_stays_the_terms(tiny: dict[str, Any]) -> None:
    """With ``shapes=[reverse_share]`` the temperature is the term's own."""
    own = options(tiny, shapes=["reverse_share"], terms=[{"name": "soft_label", "temperature": 5.0}])
    ends = []
    for shapes, raw in ((["reverse_share"], [-1.0]), (["soft_temperature"], None)):
        env = DistillEnv(**{**own, "shapes": shapes, "terms": own["terms"] if raw else ["soft_label"]})
        env.reset(seed=0)
        env.step(np.array(raw, np.float32) if raw else env.decision.encode({"soft_temperature": 5.0}))
        ends.append(ended(env))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-7)


def test_temperatures_of_actions_are_part_of_their_meaning(tiny: dict[str, Any]) -> None:
    """A policy is not used again where its numbers would be other temperatures."""
    wide = DistillEnv(**options(tiny)).decision.view_meaning
    assert wide == DistillEnv(**options(tiny)).decision.view_meaning
    assert wide != DistillEnv(**options(tiny, temperature_range=[1.0, 4.0])).decision.view_meaning


def test_regression_and_text_have_no_soft_labels_of_classes(tiny_regression: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="which regression has not"):
        env_config(**{**options(tiny_regression), "terms": TERMS})
    with pytest.raises(ValueError, match="which masked text has not"):
        env_config(decision="divergence_shaping", objective="text")
