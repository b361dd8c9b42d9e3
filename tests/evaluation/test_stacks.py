"""Policies that are judged as one stack against the same policies judged one after another: equal to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents import make_agent, make_rule
from kd_env import DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.evaluation.judging import episodes, stacks
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.judging.results import Evaluation
from kd_env.mdp.problem import Problem

SEEDS = tuple(range(50, 60))


@pytest.fixture(scope="module")
def problem(tiny: dict[str, Any]) -> Problem:
    """In float32: sums of the kernels are of the order in which they were made."""
    return build_problem(env_config(**{**tiny, "budget": 5}))


def rule(name: str, **options: Any) -> Contender:
    return Contender(lambda env: make_rule(name, env, seed=3, **options))


class Breaks:
    """Everything, but the second student is lost in the second step."""

    def __init__(self, env: Any) -> None:
        self.env, self.step = env, 0

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        self.step += 1
        if self.step == 2:
            state = self.env.get_state()
            with torch.no_grad():
                state.run.params["classifier.weight"][1] = float("nan")
            self.env.set_state(state)
        return np.ones((len(observation), len(self.env.term_names)), np.int8), None


def judged(problem: Problem, policies: dict[str, Contender], students: int, **options: Any) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "STUDENTS", students)
        return evaluate_policies(problem, policies, SEEDS, **options)


def equal(one: Any, other: Any) -> None:
    """All numbers have the same bits."""
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict | tuple):
        pairs = [(one[key], other[key]) for key in one] if isinstance(one, dict) else zip(one, other, strict=True)
        for pair in pairs:
            equal(*pair)
    else:
        assert one == other


def check_equal(problem: Problem, make: Callable[[], dict[str, Contender]], sizes: list[int]) -> Evaluation:
    """Judged in stacks of the given numbers of policies as alone; the stacked evaluation."""
    alone, driven = judged(problem, make(), 1), list[int]()

    def counted(count: int, **options: Any) -> DistillVectorEnv:
        driven.append(count)
        return DistillVectorEnv(count, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episodes, "DistillVectorEnv", counted)
        together = judged(problem, make(), 64)
    assert driven[1:] == [size * len(SEEDS) for size in sizes]  # the first measures students at reset
    assert list(together.policies) == list(alone.policies)
    for name, result in alone.policies.items():
        equal(together.policies[name], result)
    return together


def test_terms_by_chance_with_memory_looking_ahead_and_by_a_trained_policy(problem: Problem) -> None:
    agent: Any = make_agent("actor_critic", DistillVectorEnv(1, problem=problem), seed=1, n_steps=2)

    def contenders() -> dict[str, Contender]:
        agent.seed_draws(5)
        rules = {name: rule(name) for name in ("random_hard", "greedy")}
        rules["early_stopping"] = rule("early_stopping", patience=1)
        return {
            "agent": Contender(lambda env: agent, learned=True),
            **rules,
            "random_gate": dataclasses.replace(rule("random_gate"), action_view="box"),
            "breaks": Contender(Breaks),
        }

    found = check_equal(problem, contenders, [5, 1])
    assert found.policies["breaks"].diverged.tolist() == [False, True, *[False] * 8]
    assert np.isnan(found.policies["breaks"].weights[-1, 1]).all()
    hard = found.policies["random_hard"].weights
    assert not np.array_equal(hard[:, 0], hard[:, 1]) and found.policies["early_stopping"].mean_weights.min() < 1


def test_effects_beside_actions(tiny_set: dict[str, Any]) -> None:
    """Some rules say weights of teachers that no action says."""
    options = {**tiny_set, "decision": "teacher_weighting", "weighting": "sample", "updates_per_step": 1, "budget": 3}
    problem = build_problem(env_config(**options, features=["row_teacher_losses", "row_teacher_entropies"]))
    names = ("average", "random_simplex")
    check_equal(problem, lambda: {"mt_bert": rule("mt_bert"), **{name: rule(name) for name in names}}, [3])


def test_results_are_told_as_stacks_end_and_go_on_from_there(problem: Problem) -> None:
    names = ["all", "random_hard"]
    told, steps, kept = list[str](), set[tuple[str, int, int]](), list[tuple[str, int]]()

    def on_result(result: Any) -> None:
        told.append(result.name)

    whole = judged(
        problem,
        {name: rule(name) for name in names},
        64,
        on_result=on_result,
        progress=lambda *event: steps.add(event),
        keep=lambda name, env, replica, seed, diverged, _: kept.append((name, seed)) or env.predict(problem.feedback),
    )
    assert told == names and steps == {(name, step, 3) for name in names for step in (1, 2, 3)}
    assert sorted(kept) == sorted((name, seed) for name in names for seed in SEEDS)
    finished = {name: whole.policies[name] for name in names[:1]}
    rest = judged(problem, {name: rule(name) for name in names}, 64, finished=finished)
    equal(rest.policies, whole.policies)


def test_how_many_are_judged_together(problem: Problem, tiny: dict[str, Any]) -> None:
    assert stacks.together(problem, 10) == 6 and stacks.together(problem, 40) == 1 == stacks.together(problem, 99)
    assert stacks.together(problem, 8) == 1  # few students read one after another
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "ARITHMETIC", problem.arithmetic)  # a larger student
        assert stacks.together(problem, 10) == 1
    with pytest.MonkeyPatch.context() as patch:
        numbers = sum(problem.student.module.get_parameter(name).numel() for name in problem.student.trainable)
        patch.setattr(stacks, "TRAINED", 20 * numbers)  # no more memory than that of 20
        assert stacks.together(problem, 10) == 2
    dropout = {"student": {**tiny["student"], "dropout": 0.1}}
    learns = {"decision": "sample_weighting", "teacher_updates": "prokt", "teacher_source": "online"}
    for options in (dropout, {**learns, "updates_per_step": 1}):
        assert stacks.together(build_problem(env_config(**{**tiny, **options})), 10) == 1
    sizes = [len(each.contenders) for each in stacks.stacks(problem, {str(i): rule("all") for i in range(8)}, 10)]
    assert sizes == [4, 4]


@pytest.mark.parametrize("sampled", [{}, {"evaluation_sample": 4, "sample_steps": 2}])
def test_rules_that_read_no_evaluation_go_without(tiny: dict[str, Any], sampled: dict[str, Any]) -> None:
    """Their students, and what is said of them, are the same; a rule that looks, and other rewards, keep theirs."""
    weighing = {"decision": "sample_weighting", "updates_per_step": 1, "features": ["progress", "row_student"]}
    given = {**tiny, "budget": 5, **weighing, **sampled}
    problem = build_problem(env_config(**given))

    def contenders(reads: bool) -> dict[str, Contender]:
        rules = {name: rule(name) for name in ("random_weights", "focal", "lgtm")}
        return {name: dataclasses.replace(each, reads_evaluations=reads) for name, each in rules.items()}

    def changed(base: Problem, contender: Contender) -> tuple[int, int | None]:
        (stack,) = stacks.stacks(base, {"it": contender}, len(SEEDS))
        return stack.problem.config.evaluate_every, stack.problem.config.evaluation_sample

    without, unchanged = contenders(False), (problem.config.evaluate_every, problem.config.evaluation_sample)
    assert changed(problem, without["focal"]) == (0, None) != unchanged
    assert changed(problem, contenders(True)["focal"]) == unchanged
    costs = with_options(problem, reward="rl_kd_accuracy")
    assert changed(costs, without["focal"]) == unchanged
    plain = evaluate_policies(problem, contenders(True), SEEDS)
    fast = evaluate_policies(problem, without, SEEDS)
    for name, result in plain.policies.items():
        np.testing.assert_allclose(fast.policies[name].returns, result.returns, rtol=0, atol=1e-9)
        if sampled:  # stacked otherwise, and rounded otherwise
            weights, others = result.mean_weights, fast.policies[name].mean_weights
            np.testing.assert_allclose(others, weights, rtol=1e-5)
            for split, scores in result.splits.items():
                np.testing.assert_allclose(fast.policies[name].splits[split].loss, scores.loss, rtol=1e-4)
        else:
            equal(dataclasses.replace(fast.policies[name], returns=result.returns), result)
