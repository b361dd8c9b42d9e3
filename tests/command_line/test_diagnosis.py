"""What the log of a training says of its policy: the same numbers as reports give of finished ones, and early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cli.runs.diagnosis import Diagnosis, words
from cli.runs.watch import Recorder
from kd_env.decisions.options import env_config
from kd_env.decisions.sample_weighting.measures import wrong_rows
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem


def watched(problem: Any, count: int) -> tuple[Recorder, Any]:
    env = DistillVectorEnv(count, problem=problem)
    env.reset(seed=0)
    return Recorder(env, Diagnosis(problem, count)), env


@pytest.mark.parametrize(("right", "expected"), [(1.0, 1.0), (0.0, 0.0), (None, 0.5)])
def test_right_rows_tell_a_policy_that_has_turned_round(
    right: float | None, expected: float, tiny: dict[str, Any]
) -> None:
    rows = {"decision": "sample_weighting", "updates_per_step": 1, "budget": 4, "label_noise": 0.3, "batch_size": 8}
    problem = build_problem(env_config(**{**tiny, **rows, "features": ["progress"]}))
    env, inner = watched(problem, 3)
    wrong = wrong_rows(problem)
    assert wrong is not None
    for _ in range(6):  # an episode and a half
        are_wrong = wrong[inner.run.started().next_rows[:, 0]]
        weights = np.full(are_wrong.shape, 0.5) if right is None else np.where(are_wrong, 1.0 - right, right)
        env.step(inner.decision.effect(weights))
    point = env.take()
    assert point["right_rows_auc"] == expected and words(point) == f"AUC of right rows {expected:.2f}"
    assert 0.0 < point["weight_hard_label"] < 1.0 and "gap_closed" in point
    assert env.take() == {}


def test_weights_are_those_of_the_updates(tiny_problem: Any) -> None:
    """The step in which an episode ends counts, too, though its info is that of the next episode."""
    env, inner = watched(tiny_problem, 2)
    names = tiny_problem.entry_names
    nothing = np.zeros((2, len(names)), dtype=np.int8)
    for step in range(2 * inner.episode_steps):
        action = nothing.copy()
        action[0, 0] = 1
        action[1, 1] = step % 2
        env.step(action)
    point = env.take()
    expected = {
        f"weight_{name}": weight for name, weight in zip(names, [0.5, 0.25, *[0.0] * (len(names) - 2)], strict=True)
    }
    assert {name: point[name] for name in expected} == expected and point["skipped"] == 0.25
    env.step(nothing)
    assert {name: value for name, value in env.take().items() if value} == {"skipped": 1.0}


def test_the_best_teacher_of_every_row_is_followed_or_not(tiny_set: dict[str, Any]) -> None:
    options = {"decision": "teacher_weighting", "weighting": "sample", "updates_per_step": 1, "budget": 4}
    problem = build_problem(env_config(**{**tiny_set, **options}))
    env, inner = watched(problem, 2)
    losses = problem.teacher_facts.loss
    for _ in range(3):
        best = losses[:, inner.run.started().next_rows[:, 0]].argmin(axis=0)  # [N, B]
        env.step(inner.decision.effect(np.eye(len(losses))[best]))
    point = env.take()
    assert point["followed"] == 1.0
    taught = [point[f"weight_{name}"] for name in problem.entry_names if "soft_label" in name]
    assert len(taught) == len(losses) and sum(taught) == pytest.approx(1.0)


def test_replicas_that_ended_are_told_by_their_last_info(tiny_problem: Any) -> None:
    """As processes give it: ``final_info`` is filled for them alone."""
    count = len(tiny_problem.entry_names)
    weights, final = np.ones((2, count)), np.zeros((2, count))
    final[1] = 3.0
    flags = np.zeros(2, dtype=bool)
    diagnosis = Diagnosis(tiny_problem, 2)
    diagnosis.add(
        {
            "weights": weights,
            "skipped": flags,
            "final_info": {"weights": final, "skipped": flags},
            "_final_info": np.array([False, True]),
        }
    )
    assert diagnosis.take()[f"weight_{tiny_problem.entry_names[0]}"] == 2.0


def test_a_progress_line_has_room_for_few_weights() -> None:
    few = {"reward": 1.0, "weight_hard_label": 0.25, "weight_soft_label": 1.0, "weight_0": 0.5}
    assert words(few) == "weights hard_label 0.25 soft_label 1.00"
    assert words({f"weight_{letter}": 1.0 for letter in "abcde"}) == "" == words({"reward": 1.0})
    assert words({"followed": 0.5}) == "best teacher followed 0.50"
