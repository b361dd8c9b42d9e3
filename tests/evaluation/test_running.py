"""Judged episodes that are stopped in their middle and resumed, against those that were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import make_agent
from agents.rules.catalog import rule_class
from kd_env.decisions.options import env_config
from kd_env.envs import DistillVectorEnv
from kd_env.envs.build import build_problem
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.keeping.kept import KeptResults, _plain
from kd_env.evaluation.judging.keeping.running import Running
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.mdp.problem import Problem

CASES = ("random_soft", "random_simplex", "random_weights", "random_tokens", "actor_critic", "random_soft, one by one")


def case(name: str, fixtures: dict[str, Any]) -> tuple[Problem, Contender]:
    if name == "random_tokens":
        problem = with_options(fixtures["tokens"], budget=6)
    elif name == "random_simplex":
        problem = with_options(fixtures["set"], budget=6, updates_per_step=1)
    elif name == "random_weights":
        noisy = {
            **fixtures["tiny"],
            "label_noise": 0.3,
            "decision": "sample_weighting",
            "updates_per_step": 1,
            "budget": 6,
        }
        problem = build_problem(env_config(**noisy))
    elif "one by one" in name:
        problem = build_problem(
            env_config(**{**fixtures["tiny"], "student": {"dropout": 0.1}, "budget": 4, "updates_per_step": 1})
        )
    else:
        problem = with_options(fixtures["one"], budget=8, updates_per_step=1)
    if name == "actor_critic":
        env = DistillVectorEnv(2, problem=problem)
        agent = make_agent("actor_critic", env, seed=3)

        def acting(_: DistillVectorEnv) -> Any:
            agent._act_generator.manual_seed(9)
            return agent

        return problem, Contender(acting, problem.config.action_view, learned=True)
    rule = rule_class(name.split(",")[0])
    return problem, Contender(lambda env: rule(env, seed=5), rule.views[0] if name != "random_tokens" else None)


@pytest.fixture(scope="module")
def fixtures(tiny: dict[str, Any], tiny_problem: Any, tiny_set_problem: Any, tutor_problem: Any) -> dict[str, Any]:
    return {"tiny": tiny, "one": tiny_problem, "set": tiny_set_problem, "tokens": tutor_problem}


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_evaluation_goes_on_in_the_middle_of_an_episode(
    name: str, fixtures: dict[str, Any], tmp_path: Path
) -> None:
    """Twice, with the same bits; and nothing of it is left."""
    problem, contender = case(name, fixtures)
    seeds, taken = [70, 71], list[int]()
    kept = KeptResults(tmp_path / "judged", {"of": "this"})

    def judged(stops: set[int], keeps: bool) -> Any:
        def progress(_: str, step: int, __: int) -> None:
            taken.append(step)
            if len(taken) in stops:
                raise KeyboardInterrupt

        running = (lambda policy: Running(kept, policy, "p", every=0.0)) if keeps else None
        found = evaluate_policies(
            problem, {"it": contender}, seeds, deterministic=False, progress=progress, running=running
        )
        arrays: dict[str, np.ndarray] = {}
        return json.dumps(_plain(found.policies["it"], arrays)), {key: value.tobytes() for key, value in arrays.items()}

    whole = judged(set(), keeps=False)
    steps = len(taken)
    for stop in (max(2, steps // 3), 2):  # the second time two steps later
        taken.clear()
        with pytest.raises(KeyboardInterrupt):
            judged({stop}, keeps=True)
        assert any(path.name.count("-") for path in kept.folder.iterdir())
    taken.clear()
    assert judged(set(), keeps=True) == whole
    assert 0 < len(taken) < steps  # the first steps were not made again
    assert not any(kept.folder.iterdir())


def test_an_episode_of_another_policy_begins_anew(fixtures: dict[str, Any], tmp_path: Path) -> None:
    problem, contender = case("random_soft", fixtures)
    kept = KeptResults(tmp_path / "judged", {"of": "this"})

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    for policy in ("p", "q"):
        with pytest.raises(KeyboardInterrupt):
            evaluate_policies(
                problem,
                {"it": contender},
                [70],
                progress=lambda _, step, __: stopped() if step == 2 else None,
                running=lambda name, policy=policy: Running(kept, name, policy, every=0.0),
            )
    assert Running(kept, "it", "p").read() is None and Running(kept, "it", "q").read() is not None
