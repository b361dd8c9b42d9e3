"""The router: its regression against scikit-learn's, routes better than chance, and labels that it never reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from teacher_env import TeacherVectorEnv, experts

from agents import RULES, make_rule
from agents.rules.teachers.logistic import fit_logistic
from kd_env import DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config


@pytest.mark.parametrize("ridge", [0.1, 1.0, 30.0])
def test_the_regression_is_that_of_scikit_learn(ridge: float) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(2.0, [1.0, 20.0, 0.1, 0.0], (150, 4))
    classes = (features[:, 0] + rng.normal(0, 1, 150) > 2).astype(int) + (features[:, 1] > 20)
    scale = np.where(features.std(0) > 0, features.std(0), 1.0)
    other = LogisticRegression(C=1 / ridge, tol=1e-9, max_iter=5000).fit((features - features.mean(0)) / scale, classes)
    fresh = rng.normal(2.0, [1.0, 20.0, 0.1, 0.0], (40, 4))
    expected = other.predict_proba((fresh - features.mean(0)) / scale)
    np.testing.assert_allclose(fit_logistic(features, classes, 3, ridge).probabilities(fresh), expected, atol=1e-5)


def test_a_class_without_rows_is_never_the_likeliest() -> None:
    features, classes = np.arange(12.0).reshape(6, 2) ** 2, np.array([0, 0, 0, 2, 2, 2])
    assert fit_logistic(features, classes, 3, 1.0).probabilities(features).argmax(-1).tolist() == classes.tolist()
    alone = fit_logistic(features, np.ones(6, dtype=np.int64), 3, 1.0).probabilities(features)
    assert (alone[:, 1] > 0.99).all()


def test_rows_go_to_their_expert() -> None:
    """Chance is a third, and the best single teacher knows no more."""
    env = TeacherVectorEnv(4, rows=50)
    hard, soft = make_rule("router", env), make_rule("router", env, hard=False)
    observations, _ = env.reset(seed=0)
    for _ in range(2):
        chosen = env.decode(hard.predict(observations)[0])
        assert set(np.unique(chosen)) == {0.0, 1.0} and (chosen.sum(-1) == 1).all()
        assert (chosen.argmax(-1) == env.experts[env.next_rows()]).mean() > 0.8
        shares = env.decode(soft.predict(observations)[0])
        np.testing.assert_allclose(shares.sum(-1), 1)
        assert np.array_equal(shares.argmax(-1), chosen.argmax(-1)) and shares.max() < 1
        observations, *_ = env.step(hard.predict(observations)[0])
    assert RULES["router"].looks_at_feedback


def test_it_follows_the_labels_of_feedback() -> None:
    """Turned labels make the experts the wrong ones: no row goes to its expert any more."""
    env = TeacherVectorEnv(1, rows=200)
    answers = env.teacher_answers
    env.teacher_answers = answers._replace(feedback_labels=1 - answers.feedback_labels)
    chosen = env.decode(make_rule("router", env).predict(env.reset(seed=0)[0])[0])
    assert (chosen[0].argmax(-1) == env.experts[env.next_rows()[0]]).mean() < 0.1


def built(tiny_set: dict[str, Any], **options: Any) -> DistillVectorEnv:
    asked = {**tiny_set, "decision": "teacher_weighting", "weighting": "sample", "updates_per_step": 1, **options}
    return DistillVectorEnv(2, problem=build_problem(env_config(**asked)))


@pytest.mark.filterwarnings("ignore:The teacher's loss")
def test_in_the_environment_it_reads_no_train_label(tiny_set: dict[str, Any]) -> None:
    """With and without wrong labels in train rows go the same way, each in every batch that it stands in."""
    routes = []
    for noise in (0.0, 0.4):
        env = built(tiny_set, label_noise=noise, features=["progress"])
        rule = make_rule("router", env, hard=False)
        observations, _ = env.reset(seed=0)
        for _ in range(3):
            rows = env.teacher_answers.next_rows()
            observations, *_, info = env.step(rule.predict(observations)[0])
            np.testing.assert_array_equal(info["rows"], rows)
            np.testing.assert_allclose(np.moveaxis(info["row_weights"], 1, -1), rule.routes()[rows], rtol=1e-6)
        routes.append(rule.routes())
    np.testing.assert_array_equal(*routes)
    facts = env.problem.teacher_facts
    assert routes[0].shape == facts.loss.T.shape and routes[0].std(axis=0).min() > 0
    with pytest.raises(ValueError, match="has 2 replicas; it got 1"):
        rule.predict(observations[:1])


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"weighting": "batch"}, {}, "weighting='sample', or use 'best_teacher'"),
        ({"teachers": ("small",)}, {}, r"has one \(small\)"),
        ({}, {"hard": "yes"}, "hard='yes' is not allowed.*true or false"),
        ({}, {"ridge": 0.0}, "ridge=0.0 is not allowed.*above 0"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule("router", TeacherVectorEnv(**changed), **options)


def test_problems_without_classes_are_refused() -> None:
    env = TeacherVectorEnv()
    env.num_labels = 1
    with pytest.raises(ValueError, match="which regression has not"):
        make_rule("router", env)
    env.num_labels, env.teacher_answers = 2, None
    with pytest.raises(ValueError, match="objective='text' has no such labels"):
        make_rule("router", env)


def test_no_teacher_of_the_problem_is_an_expert_on_every_row() -> None:
    """Each alone is right on little more than its share, and half of the rest."""
    logits, labels, best = experts(1, 3, 400)
    right = (logits.argmax(-1) == labels).mean(axis=1)
    assert (right < 0.75).all() and (np.bincount(best) > 100).all()
