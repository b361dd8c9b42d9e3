"""Raw actions that no space holds are refused, in every view of every decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.raw import checked_actions, raw_array
from kd_env.envs.env import DistillEnv
from kd_env.envs.vector import DistillVectorEnv

CASES = [(name, view) for name in DECISIONS for view in DECISIONS[name].view_names()]
CASES += [("tutor_token", view) for view in ("native", "candidates", "discrete", "box")]


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), 0.9, "holds 0.9, but the action space Discrete takes whole numbers"),
        (spaces.Discrete(3), 3, r"holds 3, outside \[0, 2\]"),
        (spaces.Discrete(3, start=1), 0, r"holds 0, outside \[1, 3\]"),
        (spaces.Discrete(3), True, "type bool, but the action space Discrete takes whole numbers"),
        (spaces.Discrete(3), "1", "type <U1"),
        (spaces.Discrete(3), None, "type object"),
        (spaces.Discrete(3), [1], r"shape \(1, 1\), but the action space Discrete takes \(1,\)"),
        (spaces.MultiBinary(2), [0.5, 1], "holds 0.5"),
        (spaces.MultiBinary(2), [2, 1], r"outside \[0, 1\]"),
        (spaces.MultiDiscrete([2, 4]), [2, 3], r"holds 2, outside \[0, 1\]"),
        (spaces.MultiDiscrete([2, 4]), [1, 2.5], "holds 2.5"),
        (spaces.Box(-1, 1, (2,)), [0.0, np.nan], "holds nan"),
        (spaces.Box(-1, 1, (2,)), [0.0, -np.inf], "holds -inf"),
        (spaces.Box(-1, 1, (2,)), [True, False], "type bool"),
        (spaces.Box(-1, 1, (2,)), [1j, 0.0], "type complex128"),
        (spaces.Box(np.array([-1, 0]), np.array([1, 2]), dtype=np.float32), [0.0, -0.5], r"outside \[0.0, 2.0\]"),
        (spaces.Box(-1, 1, (2,)), [[0.0], [0.0, 0.0]], "different lengths"),
    ],
)
def test_what_a_space_does_not_hold(space: spaces.Space[Any], action: Any, message: str) -> None:
    """Another kind, shape, range, or a fraction: the message names the value and what is taken."""
    with pytest.raises(ValueError, match=message):
        checked_actions(raw_array(action)[None], space, 1)


def test_what_a_space_holds() -> None:
    """Whole numbers come as integers, however they were written; numbers of a box as they are."""
    for space, action, expected in (
        (spaces.Discrete(3), np.array([2.0], np.float32), [2]),
        (spaces.MultiBinary(2), [[True, False]], [[1, 0]]),
        (spaces.MultiDiscrete([2, 4]), np.array([[1, 3]], np.uint8), [[1, 3]]),
    ):
        values = checked_actions(action, space, 1)
        assert values.dtype == np.int64 and values.tolist() == expected
    assert checked_actions([[0.25, -1]], spaces.Box(-1, 1, (2,)), 1).tolist() == [[0.25, -1.0]]


@pytest.mark.parametrize(("decision", "view"), CASES)
def test_every_view_of_every_decision(
    decision: str, view: str, tiny_problem: Any, tutor_problem: Any, tiny_set_problem: Any
) -> None:
    """A fraction, a text and NaN are refused by both shells, and the episode is unharmed."""
    if decision == "tutor_token":
        env: Any = DistillEnv(problem=tutor_problem, action_view=view)
    else:
        problem = tiny_set_problem if DECISIONS[decision].many_teachers else tiny_problem
        weighting = "sample" if decision == "sample_weighting" else "batch"
        options = {"decision": decision, "action_view": view, "updates_per_step": 1, "weighting": weighting}
        env = DistillEnv(problem=problem, features=["progress"], **options)
        envs = DistillVectorEnv(2, problem=env.problem)
        envs.reset(seed=0)
        with pytest.raises(ValueError, match=r"holds nan|holds 0\.9"):
            envs.step(np.full(envs.action_space.shape or (2,), np.nan if "Box" in str(env.action_space) else 0.9))
    env.reset(seed=0)
    good = np.asarray(env.action_space.sample())
    refused = [np.full(good.shape, "a"), np.full(good.shape, np.nan), np.full(good.shape, None)]
    if not isinstance(env.action_space, spaces.Box):
        refused.append(np.full(good.shape, 0.9))
    for action in refused:
        with pytest.raises(ValueError, match="The action holds"):
            env.step(action)
    env.step(good)


def test_options_of_other_views_are_refused(tiny: dict[str, Any], tiny_problem: Any) -> None:
    """A gate where there is none, a score where nothing is ranked; another view of a problem leaves them out."""
    rows = {"decision": "sample_weighting", "updates_per_step": 1}
    for options, message in (
        ({"gate": False}, r"Nothing reads gate=False in action_view='native'.*only action_view='box' does"),
        ({**rows, "gate": False, "action_view": "box"}, "Nothing reads gate=False in action_view='box'.*: leave it"),
        ({**rows, "score": "margin"}, r"score='margin' in action_view='native'.*only action_view='discrete' or 'box'"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillEnv(**{**tiny, **options})
    gated = DistillEnv(problem=tiny_problem, action_view="box", gate=False)
    assert DistillEnv(problem=gated.problem, action_view="native").problem.config.gate is True
