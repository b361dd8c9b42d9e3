"""Tutors that learn nothing, and the evaluation that every tutor goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import Agent, agent_kind, load_agent, make_agent, make_rule
from agents.rules.tutor_token import TOKEN_RULES
from kd_env.data.corpora import load_texts
from kd_env.envs import DistillVectorEnv
from kd_env.envs.environments import TutorTokenEnv
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.evaluation.judging.results import PolicyResult
from kd_env.evaluation.judging.tables import judged_tables

NAMES = [rule.name for rule in TOKEN_RULES]
MODES = ("joint", "sequential")


def written(env: DistillVectorEnv, rule: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Tokens ``[N, B, P]`` that a rule writes into one text, and the infos of the update."""
    observation = env.run.observation()
    while True:
        observation, _, _, _, info = env.step(rule.predict(observation)[0])
        if info["updated"].all():
            return info["tokens"], info


def judged_numbers(result: PolicyResult) -> dict[str, np.ndarray]:
    """What an evaluation measured, ``[N]`` by name: of tokens, and on dev texts."""
    dev = result.splits["dev"]
    return {
        **{measured.name: measured.values for measured in result.measures},
        "loss": dev.loss,
        "gap_closed": dev.gap_closed,
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_plays_an_episode(name: str, mode: str, tutor_problem: Any) -> None:
    env = TutorTokenEnv(problem=tutor_problem, mode=mode)
    rule = make_agent(name, env, seed=0)
    assert agent_kind(name) == "rule" and isinstance(rule, Agent) and rule.learn(100) is rule
    observation, _ = env.reset(seed=0)
    for _ in range(env.episode_steps):
        observation, _, ended, _, info = env.step(rule.predict(observation)[0])
    assert ended and info["updates"] == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_rule_goes_on_where_it_stood(name: str, tutor_problem: Any, tmp_path: Path) -> None:
    env = DistillVectorEnv(2, problem=tutor_problem)
    observation, _ = env.reset(seed=0)
    options = {"samples": 2} if name == "difficult_of_n" else {}
    rule = make_rule(name, env, seed=3, **options)
    first = rule.predict(observation)[0]
    rule.save(tmp_path / "rule")
    again: Any = load_agent(tmp_path / "rule", env)
    assert again.options == options
    following = rule.predict(observation)[0]
    assert np.array_equal(again.predict(observation)[0], following)
    random = name in ("random_tokens", "teacher_samples", "difficult_of_n")
    assert np.array_equal(first, following) != random
    assert np.array_equal(make_rule(name, env, seed=3, **options).predict(observation)[0], first)


def test_rules_do_what_their_names_say(tutor_problem: Any) -> None:
    env = DistillVectorEnv(64, problem=tutor_problem)
    env.reset(seed=0)
    start = env.get_state()
    log_probabilities = env.log_probabilities()
    found = {}
    for name in NAMES:
        env.set_state(start)
        found[name] = written(env, make_rule(name, env, seed=0))
    specials = tutor_problem.reader.tokens.special_ids
    assert not np.isin(found["random_tokens"][0], specials).any()
    assert len(np.unique(found["random_tokens"][0])) == 40
    assert np.array_equal(found["teacher_argmax"][0], log_probabilities.argmax(-1).numpy())
    kept = start.run.decision_state
    assert np.array_equal(found["keep_masked"][0], np.where(kept.valid, kept.masked, 0))

    def mean(name: str, key: str) -> float:
        return float(found[name][1][key].mean())

    # Samples of p have the probability E[p] = sum p^2 on average.
    expected = float((2 * log_probabilities).exp().sum(-1).mean())
    assert mean("teacher_samples", "teacher_probability") == pytest.approx(expected, rel=0.15)
    assert mean("random_tokens", "teacher_probability") < expected / 2
    assert mean("difficult_of_n", "student_error") > mean("teacher_samples", "student_error") + 0.02


def test_the_error_that_a_choice_would_have_is_the_one_it_has(tutor_problem: Any) -> None:
    env = DistillVectorEnv(2, problem=tutor_problem)
    env.reset(seed=0)
    tokens = torch.full((2, 4, 2), 9)
    before = env.get_state()
    expected = env.student_errors(tokens)
    assert all(torch.equal(p, before.run.params[name]) for name, p in env.run.started().params.items())
    info = env.step(tokens.flatten(1).numpy())[4]
    np.testing.assert_allclose(info["student_error"], expected.numpy(), rtol=1e-6)


def test_evaluations_give_every_tutor_the_same_students_and_texts(tutor_problem: Any) -> None:
    """Equal tutors have equal results, whatever is judged beside them; a learned one stands beside the rules."""

    samples = Contender(lambda env: make_rule("teacher_samples", env, seed=0))
    agent: Any = make_agent("tutor", DistillVectorEnv(2, problem=tutor_problem), seed=0).learn(8)
    tutors = {"samples": samples, "tutor": Contender(lambda env: agent, learned=True), "again": samples}
    results = evaluate_policies(tutor_problem, tutors, [100, 101, 102]).policies
    assert list(results) == list(tutors)
    found = {name: judged_numbers(result) for name, result in results.items()}
    for name in ("reward", "teacher_probability", "loss", "gap_closed"):
        one, other = (found[key][name] for key in ("samples", "again"))
        assert one.shape == (3,) and np.isfinite(one).all() and np.array_equal(one, other)
    own = found["tutor"]
    assert np.allclose(own["reward"], own["teacher_recognises"] + own["student_error"])
    assert not np.array_equal(own["reward"], found["samples"]["reward"])


@pytest.mark.parametrize("mode", MODES)
def test_means_are_those_of_the_steps(mode: str, tutor_problem: Any) -> None:
    problem = with_options(tutor_problem, mode=mode)
    contender = Contender(lambda env: make_rule("teacher_argmax", env))
    [result] = evaluate_policies(problem, {"a": contender}, [7]).policies.values()
    env = TutorTokenEnv(problem=problem)
    rule = make_rule("teacher_argmax", env)
    observation, _ = env.reset(seed=7)
    rewards = []
    for _ in range(env.episode_steps):
        observation, reward, _, _, info = env.step(rule.predict(observation)[0])
        if info["updated"]:
            rewards.append(reward)
    assert len(rewards) == 4 and judged_numbers(result)["reward"][0] == pytest.approx(np.mean(rewards))


def test_students_are_judged_on_dev_texts_alone(tutor_problem: Any, tiny_text: dict[str, Any]) -> None:
    judged = judged_tables(tutor_problem, 50)
    tokenizer = tutor_problem.assets.tokenizer
    dev = {tuple(tokenizer(text)["input_ids"]) for text in load_texts(tiny_text["text"], dev=True).dev}
    train = tutor_problem.reader.ids
    assert judged.dev_splits == ("dev",) and 0 < len(judged.tables["dev"]) <= len(dev)
    lengths = tutor_problem.train.lengths
    own = {tuple(row[:length].tolist()) for row, length in zip(train, lengths, strict=True)}
    assert not own & dev


def test_mistakes_are_refused(tutor_problem: Any) -> None:
    env = DistillVectorEnv(1, problem=tutor_problem)
    with pytest.raises(ValueError, match="Did you mean 'teacher_samples'"):
        make_rule("teacher_sample", env)
    with pytest.raises(ValueError, match="samples=0"):
        make_rule("difficult_of_n", env, samples=0)
    with pytest.raises(
        ValueError, match=r"cannot be expressed in the action view 'box'; make the env with action_view='native'"
    ):
        make_rule("random_tokens", DistillVectorEnv(1, problem=tutor_problem, action_view="box"))
    with pytest.raises(ValueError, match="make the env with observation='dict'"):
        make_rule("teacher_samples", DistillVectorEnv(1, problem=tutor_problem, observation="flat"))
    with pytest.raises(ValueError, match="leaves 'tutor_token' to decide"):
        make_rule("all", env)
