"""Samples of the evaluated feedback rows: which rows, what is made of them, and that returns stay what they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_env import DistillEnv, DistillVectorEnv
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.mdp.objectives.samples import check_sample, drawn_rows
from kd_env.mdp.transition import initial
from kd_env.numerics.calibration import fit_temperatures

USES: list[dict[str, Any]] = [{}, {"sample_steps": 2}, {"sample_paired": False}]
ALL = np.ones(3, np.int8)


@pytest.mark.parametrize("count", [2, 9])
@pytest.mark.parametrize("name", ["tiny_problem", "tutor_problem"])
def test_own_rows_that_are_all_rows(name: str, count: int, request: pytest.FixtureRequest) -> None:
    """Whether students read one after another or at once, each in an order of its own."""
    problem = request.getfixturevalue(name)
    params = initial(problem, range(count), [8] * count).params
    order = np.argsort(-problem.feedback.lengths, kind="stable")
    rows = np.stack([np.roll(order, shift) for shift in range(count)])
    expected = problem.objective.evaluate(problem, params, None)
    for one, other in zip(problem.objective.evaluate(problem, params, None, rows), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["tiny_problem", "tutor_problem"])
def test_returns_are_those_of_all_rows(name: str, use: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Of labels and of masked text; the rewards within the episode are others."""
    problem = request.getfixturevalue(name)
    returns, firsts = [], []
    for options in ({}, {"evaluation_sample": 8, **use}):
        env = DistillVectorEnv(1, problem=with_options(problem, reward="loss_drop", **options))
        env.action_space.seed(0)
        env.reset(seed=3)
        rewards, ended = [], np.zeros(1, bool)
        while not ended:
            _, reward, ended, _, _ = env.step(env.action_space.sample())
            rewards.append(reward[0])
        returns.append(sum(rewards))
        firsts.append(rewards[0])
    assert returns[0] == pytest.approx(returns[1], abs=1e-12) and returns[0] != 0.0
    assert abs(firsts[0] - firsts[1]) > 1e-6


@pytest.mark.parametrize("use", USES)
def test_the_loss_follows_the_sample(tiny_problem: Any, use: dict[str, Any]) -> None:
    """By hand from predictions on all rows: the change on the sample, or its level."""
    env = DistillEnv(problem=tiny_problem, evaluation_sample=8, **use)
    table, kept = env.problem.feedback, use.get("sample_steps", 1)
    _, info = env.reset(seed=1)
    samples = []

    def loss(logits: np.ndarray, rows: np.ndarray) -> float:
        labels = table.labels[rows]
        scaled = logits[rows] / fit_temperatures(logits[None, rows], labels)[0]
        return float(np.mean(np.logaddexp.reduce(scaled, -1) - scaled[np.arange(len(rows)), labels]))

    for step in range(3):
        state, before, known = env.run.started(), env.predict(table)[0], info["loss"]
        [rows] = drawn_rows(env.problem, state, np.array([step]))
        info = env.step(ALL)[4]
        after = loss(env.predict(table)[0], rows)
        expected = after if use.get("sample_paired") is False else known + after - loss(before, rows)
        assert info["loss"] == pytest.approx(expected, abs=1e-9)
        samples.append(set(rows.tolist()))
    assert (samples[0] == samples[1]) == (kept == 2) and samples[0] != samples[2]


def test_every_row_is_as_likely_and_every_class_is_there(tiny_problem: Any) -> None:
    """Rows are drawn without return."""
    env = DistillEnv(problem=tiny_problem, evaluation_sample=8)
    env.reset(seed=0)
    state, counts = env.run.started(), np.zeros(32)
    for step in range(2000):
        [rows] = drawn_rows(env.problem, state, np.array([step]))
        assert len(set(rows.tolist())) == 8 and len(set(env.problem.feedback.labels[rows])) == 2
        counts[rows] += 1
    np.testing.assert_allclose(counts / 2000, 0.25, atol=0.05)  # five standard deviations


def test_stacked_students_read_what_single_ones_do(tiny_problem: Any) -> None:
    """Nine are read at once, each its own rows; in float64."""
    problem = with_options(tiny_problem, evaluation_sample=8, sample_steps=2)
    env = DistillVectorEnv(9, problem=problem, autoreset_mode="disabled")
    env.reset(seed=5)
    losses = np.stack([env.step(np.tile(ALL, (9, 1)))[4]["loss"] for _ in range(3)])
    for replica in (0, 8):
        single = DistillEnv(problem=problem)
        single.reset(seed=5 + replica)
        np.testing.assert_allclose([single.step(ALL)[4]["loss"] for _ in range(3)], losses[:, replica], rtol=1e-9)


def test_a_kept_sample_goes_through_files(tiny_problem: Any, tmp_path: Path) -> None:
    """In the middle of its steps, into an environment that had never one."""
    problem = with_options(tiny_problem, evaluation_sample=8, sample_steps=3)
    env, other = (DistillVectorEnv(2, problem=problem) for _ in range(2))
    env.reset(seed=0)
    actions = np.tile(ALL, (2, 1))
    env.step(actions)
    env.save_state(tmp_path / "state")
    other.load_state(tmp_path / "state")
    for _ in range(3):
        one, two = env.step(actions), other.step(actions)
        np.testing.assert_array_equal(one[1], two[1])
        np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluation_sample": 0}, "evaluation_sample=0"),
        ({"evaluation_sample": 128}, "evaluation_sample=128 .* less than evaluation_rows=128"),
        ({"evaluation_sample": 8, "evaluate_every": 2}, "evaluate_every=2 .* set evaluate_every=1"),
        ({"evaluation_sample": 8, "evaluate_every": 0}, "evaluate_every=0"),
        ({"sample_steps": 2}, "sample_steps=2 .* set evaluation_sample"),
        ({"sample_paired": False}, "sample_paired=False .* set evaluation_sample"),
        ({"evaluation_sample": 8, "sample_steps": 2, "sample_paired": False}, "sample_steps=2 .* sample_steps=1"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env_config(**options)


def test_too_few_rows_for_samples(tiny_problem: Any) -> None:
    """Both numbers are named, and what would do."""
    more = dataclasses.replace(tiny_problem.config, evaluation_rows=64, evaluation_sample=32)
    with pytest.raises(ValueError, match=r"evaluation_sample=32 .* less than the 32"):
        check_sample(more, tiny_problem.feedback, calibrates=True)
    least = -(-32 // min(np.bincount(tiny_problem.feedback.labels)))
    with pytest.raises(ValueError, match=f"at least {least}"):
        DistillEnv(problem=tiny_problem, evaluation_sample=least - 1)
    assert DistillEnv(problem=tiny_problem, evaluation_sample=least).reset(seed=0)
