"""Rules that shape soft labels: their numbers against slow obvious versions, every view, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import load_agent, make_rule
from agents.rules.divergence_shaping import DIVERGENCE_RULES, loss_slope, tail_share
from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.envs.remote.elsewhere import ReplicasElsewhere
from kd_env.envs.run import Run
from kd_env.knowledge.labels import soft_label_divergence

NAMES = [rule.name for rule in DIVERGENCE_RULES]
SIZES = {"terms": ["hard_label", "soft_label"], "features": ["progress", "gap"], "updates_per_step": 1}


def build(tiny: dict[str, Any], **changes: Any) -> Any:
    return build_problem(env_config(**{**tiny, **SIZES, "budget": 4, **changes}, decision="divergence_shaping"))


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Any:
    return build(tiny)


def said(name: str, problem: Any, *, steps: int = 4, view: str = "native", **options: Any) -> dict[str, np.ndarray]:
    """What a rule says in an episode of two students, by name ``[steps, N, ...]``."""
    env = DistillVectorEnv(2, problem=problem, action_view=view, autoreset_mode="disabled")
    rule = make_rule(name, env, **options)
    observations, _ = env.reset(seed=0)
    memory, starts, found = None, np.ones(2, bool), []
    for _ in range(steps):
        actions, memory = rule.predict(observations, memory, starts, deterministic=True)
        observations, *_, info = env.step(actions)
        starts = np.zeros(2, bool)
        found.append({key: info[key] for key in ("soft_temperature", "reverse_share") if key in info})
    return {key: np.array([one[key] for one in found]) for key in found[0]}


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_does_the_same_in_every_view(name: str, problem: Any) -> None:
    expected = said(name, problem)
    for view in ("box", "discrete"):
        for key, values in said(name, problem, view=view).items():
            np.testing.assert_array_equal(values, expected[key], err_msg=view)


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_numbers_of_their_own(name: str, tiny: dict[str, Any]) -> None:
    found = said(name, build(tiny, weighting="sample"), steps=2)
    assert found["soft_temperature"].shape == found["reverse_share"].shape == (2, 2, 4)
    assert (np.ptp(found["soft_temperature"], axis=-1) > 0).all() == (name == "random_divergence")


def test_plain_values_are_options(problem: Any) -> None:
    found = said("plain_kd", problem, temperature=4.0, reverse_share=0.25)
    np.testing.assert_array_equal(found["soft_temperature"], 4.0)
    np.testing.assert_array_equal(found["reverse_share"], 0.25)


def test_annealing_is_a_straight_line(problem: Any) -> None:
    found = said("temperature_annealing", problem, start=5.0, end=1.0)["soft_temperature"]
    np.testing.assert_allclose(found[:, 0], [5.0, 4.0, 3.0, 2.0], atol=1e-6)


def test_random_numbers_stay_within_the_limits_of_actions(tiny: dict[str, Any]) -> None:
    found = said("random_divergence", build(tiny, weighting="sample", temperature_range=[1.0, 3.0]))
    assert 1.0 <= found["soft_temperature"].min() < 1.5 and 2.5 < found["soft_temperature"].max() <= 3.0
    assert found["reverse_share"].min() >= 0.0 and found["reverse_share"].max() <= 1.0


# -- CTKD


def test_the_slope_is_the_derivative_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 6, 4)) * 3
    tau = np.array([0.5, 2.0, 15.0])
    variable = torch.tensor(tau, requires_grad=True)
    flat = [torch.as_tensor(values).reshape(-1, 4) for values in (student, teacher)]
    divergence = soft_label_divergence(flat[0], flat[1], variable.repeat_interleave(6)).reshape(3, 6)
    [expected] = torch.autograd.grad(divergence.mean(-1).sum(), [variable])
    np.testing.assert_allclose(loss_slope(student, teacher, tau), expected.numpy(), rtol=1e-9)


def test_ctkd_is_sgd_along_the_reversed_gradient(problem: Any) -> None:
    """Against PyTorch's optimiser on a parameter whose gradient is turned round, as the released code has it."""
    env = DistillEnv(problem=problem)
    rule = make_rule("ctkd", env, learning_rate=2.0, ramp=0.5)
    observation, _ = env.reset(seed=0)
    raw = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([raw], lr=2.0, momentum=0.9, weight_decay=5e-4)
    memory, starts, found = None, np.ones(1, bool), []
    for step in range(4):
        student, teacher = (torch.as_tensor(values[0]) for values in env.next_logits())
        actions, memory = rule.predict(observation, memory, starts)
        starts = np.zeros(1, bool)
        tau = 1.0 + 20.0 * torch.sigmoid(raw)
        np.testing.assert_allclose(actions.given["soft_temperature"], tau.detach().numpy(), rtol=1e-9)
        found.append(tau.item())
        optimizer.zero_grad()
        (0.9 * soft_label_divergence(student, teacher, tau[0]).mean()).backward()
        assert raw.grad is not None
        raw.grad *= -(1.0 - np.cos(np.pi * min(step / 4 / 0.5, 1.0))) / 2.0
        optimizer.step()
        observation = env.step(actions)[0]
    assert found[0] == pytest.approx(1.0 + 20.0 / (1.0 + np.exp(-1.0))) and found[-1] != found[-2]


def test_ctkd_begins_anew_where_an_episode_begins(problem: Any) -> None:
    env = DistillVectorEnv(2, problem=problem)
    rule = make_rule("ctkd", env, learning_rate=50.0)
    observations, _ = env.reset(seed=0)
    memory: Any = None
    for _ in range(2):
        actions, memory = rule.predict(observations, memory, np.zeros(2, bool))
        observations = env.step(actions)[0]
    actions, _ = rule.predict(observations, memory, np.array([True, False]))
    first, second = actions.given["soft_temperature"]
    assert first == pytest.approx(1.0 + 20.0 / (1.0 + np.exp(-1.0))) != second


# -- AKL


def test_the_tail_against_an_obvious_version() -> None:
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 50, 5)) * 2
    found = tail_share(student, teacher, 0.5)
    for row in range(50):
        p, q = (np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (teacher[row], student[row]))
        head, mass = [], 0.0
        for place in np.argsort(-p):
            if head and mass + p[place] > 0.5:
                break
            head.append(place)
            mass += p[place]
        errors = np.abs(p - q)
        assert found[row] == pytest.approx(1.0 - errors[head].sum() / errors.sum(), abs=1e-12)
    assert np.ptp(found) > 0.1
    assert tail_share(teacher, teacher, 0.5).tolist() == [0.5] * 50


def test_two_classes_leave_nothing_to_choose(problem: Any) -> None:
    """As the docstring says: head and tail have one class each, with the same error."""
    np.testing.assert_allclose(said("akl", problem)["reverse_share"], 0.5)


# -- refusals, storage


@pytest.mark.parametrize("name", ["ctkd", "akl"])
def test_other_observations_than_those_of_the_env_are_refused(name: str, problem: Any) -> None:
    """They would be answered by the one student of the env."""
    env = DistillEnv(problem=problem)
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="which has 1 replicas; it got 3 observations"):
        make_rule(name, env).predict(np.stack([observation] * 3))


def test_what_a_rule_chooses_has_to_be_said(tiny: dict[str, Any], problem: Any) -> None:
    other = DistillEnv(problem=build(tiny, shapes=["reverse_share"]))
    with pytest.raises(ValueError, match=r"chooses soft_temperature.*shapes=\[soft_temperature\] or both"):
        make_rule("ctkd", other)
    for name, options, message in (
        ("plain_kd", {"temperature": 0.01}, "from 0.05 to 100"),
        ("plain_kd", {"reverse_share": 2.0}, r"in \[0, 1\]"),
        ("plain_kd", {"temperature": "hot"}, "temperature='hot' is not allowed; it must be a number"),
        ("plain_kd", {"temperature": True}, "temperature=True is not allowed; it must be a number"),
        ("akl", {"mu": 1.0}, r"in \(0, 1\)"),
        ("ctkd", {"momentum": 1.0}, r"in \[0, 1\)"),
        ("ctkd", {"ramp": 0.0}, r"in \(0, 1\]"),
        ("temperature_annealing", {"end": float("inf")}, "end=inf.*from 0.05 to 100"),
        ("ctkd", {"width": 200.0}, r"low \+ width=201.0.*to 100"),
    ):
        with pytest.raises(ValueError, match=message):
            make_rule(name, DistillEnv(problem=problem), **options)


def test_students_of_other_processes_are_not_read(problem: Any) -> None:
    """Their environment holds a run that is never reset, which would say to reset it."""
    env = ReplicasElsewhere()
    env.run = Run(problem, 1)
    with pytest.raises(ValueError, match="use vectorization=stacked"):
        env.next_logits()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_rule_goes_on(name: str, problem: Any, tmp_path: Path) -> None:
    env = DistillEnv(problem=problem)
    rule = make_rule(name, env, seed=3)
    observation, _ = env.reset(seed=0)
    rule.predict(observation)
    rule.save(tmp_path / name)
    again = load_agent(tmp_path / name, env)
    expected, found = (one.predict(observation)[0].given for one in (rule, again))
    for key, value in expected.items():
        np.testing.assert_array_equal(value, found[key])
