"""A pass that features made is the one that the next update differentiates: nothing else changes by it."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from kd_env import DistillVectorEnv
from kd_env.envs.process import with_options
from kd_env.mdp import gradients, passes


@pytest.fixture(scope="module")
def problem(tiny_problem: Any) -> Any:
    """Rows are weighed, and seen by what the student says about them."""
    rows = {"decision": "sample_weighting", "weighting": "sample", "features": ["row_student"]}
    return with_options(tiny_problem, **rows, updates_per_step=1, budget=3)


def played(env: DistillVectorEnv) -> list[np.ndarray]:
    """Observations and rewards of two episodes of three steps."""
    env.action_space.seed(0)
    env.reset(seed=0)
    return [part for _ in range(6) for part in env.step(env.action_space.sample())[:2]]


@pytest.mark.parametrize("count", [1, 3])
def test_the_update_uses_the_pass_of_the_features(problem: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass with a graph a step in place of two, to the same bits."""
    made = []
    real = passes.student_pass

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(passes, "student_pass", counted)
    monkeypatch.setattr(gradients, "student_pass", counted)
    shared = played(DistillVectorEnv(count, problem=problem))
    assert len(made) == 9  # a student is seen at reset, after each step, and where the next episode begins
    monkeypatch.setattr(passes, "kept_pass", lambda *_: None)
    plain = played(DistillVectorEnv(count, problem=problem))
    assert len(made) == 9 + 9 + 6
    for one, other in zip(shared, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_student_that_was_written_to_is_read_anew(problem: Any) -> None:
    """Also in place, which no other object could be told from."""
    env, other = (DistillVectorEnv(2, problem=problem) for _ in range(2))
    env.reset(seed=0)
    env.run.started().params["classifier.weight"].mul_(-3.0)
    other.reset(seed=1)
    other.run.set_state(env.run.get_state())  # its features have seen another student
    action = env.action_space.sample()
    np.testing.assert_array_equal(env.step(action)[1], other.step(action)[1])


def test_a_pass_goes_with_its_students(problem: Any) -> None:
    """Its graph would else stay in memory."""
    gc.collect()
    before = len(passes._kept_passes)
    env = DistillVectorEnv(2, problem=problem)
    env.reset(seed=0)
    assert len(passes._kept_passes) == before + 1
    del env
    gc.collect()
    assert len(passes._kept_passes) == before
