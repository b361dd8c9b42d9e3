"""One temperature for a student: against slow versions, by identities, and what it does to gap and reward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd_env import build_problem
from kd_env.decisions.options import env_config
from kd_env.envs import DistillEnv, DistillVectorEnv
from kd_env.mdp.objectives.labels import LabelsObjective
from kd_env.numerics.calibration import (
    BOUNDS,
    expected_calibration_error,
    fit_temperature,
    fit_temperatures,
    reliability,
)
from kd_env.numerics.losses import gold_loss, log_softmax


def some(classes: int, scale: float, seed: int = 0, models: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(120) % classes)
    logits = rng.normal(size=(models, 120, classes)) + np.eye(classes)[labels]
    return (scale * logits).astype(np.float32), labels


def smoothed_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy to Platt's labels, written out."""
    rows, classes = logits.shape
    target = np.full((rows, classes), 1 / (rows + classes))
    target[np.arange(rows), labels] = (rows + 1) / (rows + classes)
    return float(-(target * log_softmax(logits)).sum(-1).mean())


@given(st.integers(2, 4), st.floats(-5.0, 5.0), st.integers(0, 50))
def test_no_other_temperature_is_better(classes: int, log_scale: float, seed: int) -> None:
    logits, labels = some(classes, float(np.exp(log_scale)), seed)
    found = fit_temperatures(logits, labels)
    assert ((found >= BOUNDS[0]) & (found <= BOUNDS[1])).all()
    grid = np.exp(np.linspace(np.log(BOUNDS[0]), np.log(BOUNDS[1]), 300))
    for own, temperature in zip(logits, found, strict=True):
        best = min(smoothed_loss(own / t, labels) for t in grid)
        assert smoothed_loss(own / temperature, labels) <= best * (1 + 1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_model_that_is_right_everywhere_stays_unsure(classes: int) -> None:
    """As sure as R right rows make it, (R + 1) / (R + C), whatever the size of its logits."""
    labels = np.arange(120) % classes
    for size in (1.0, 8.0):
        logits = size * np.eye(classes)[labels]
        p = np.exp(log_softmax(logits / fit_temperature(logits, labels)).max(-1))
        np.testing.assert_allclose(p, 121 / (120 + classes), rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_models_are_fitted_apart(classes: int) -> None:
    """What is found for one does not depend on its neighbours, to the last bit; extremes end at the bounds."""
    logits, labels = some(classes, 1.0, models=4)
    logits[1], logits[2] = 0.01 * np.eye(classes)[labels], -logits[2]
    logits[3] = 0.0  # every temperature is as good
    together = fit_temperatures(logits, labels)
    assert together.tolist() == [fit_temperature(own, labels) for own in logits]
    assert together[1:].tolist() == pytest.approx([*BOUNDS, 1.0])
    assert fit_temperatures(logits.reshape(2, 2, 120, classes), labels).tolist() == together.reshape(2, 2).tolist()


def test_calibration_error_against_bins_one_by_one() -> None:
    logits, labels = some(3, 2.0)
    p = np.exp(logits[0].astype(float))
    p /= p.sum(-1, keepdims=True)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (p.max(-1) >= low) & (p.max(-1) < low + 1 / 15)
        if inside.any():
            right = (p.argmax(-1) == labels)[inside].mean()
            total += inside.mean() * abs(right - p.max(-1)[inside].mean())
    assert expected_calibration_error(logits[0], labels) == pytest.approx(total)
    rows, confidence, right = reliability(logits[0], labels)
    assert rows.sum() == len(labels) and right.sum() == (p.argmax(-1) == labels).sum()
    assert confidence.sum() == pytest.approx(p.max(-1).sum())
    assert np.abs(right - confidence).sum() / rows.sum() == pytest.approx(total)
    sure = 100.0 * np.eye(3)[labels]
    assert expected_calibration_error(sure, labels) == pytest.approx(0.0)
    assert expected_calibration_error(np.roll(sure, 1, axis=-1), labels) == pytest.approx(1.0)


def test_bad_input(tiny: dict[str, Any]) -> None:
    logits, labels = some(2, 1.0)
    with pytest.raises(ValueError, match=r"all 120 rows have the label 1.*evaluation_rows.*gap='labels'"):
        fit_temperatures(logits, np.ones_like(labels))
    with pytest.raises(ValueError, match="there is no row"):
        fit_temperatures(logits[:, :0], labels[:0])
    with pytest.raises(ValueError, match=r"selection split.*selection_rows"):
        fit_temperature(logits[0], np.zeros_like(labels), "selection")
    logits[1, 5, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 720 logits are not finite"):
        fit_temperatures(logits, labels)
    with pytest.raises(ValueError, match=r"gap: 'none'.*calibrated"):
        env_config(**{**tiny, "gap": "none"})
    absent = pytest.warns(UserWarning, match="No evaluated feedback row is of class")
    with absent, pytest.raises(ValueError, match="all 1 rows have the label"):
        build_problem(env_config(**{**tiny, "evaluation_rows": 1}))
    with pytest.warns(UserWarning, match="No evaluated feedback row is of class"):
        build_problem(env_config(**{**tiny, "evaluation_rows": 1, "gap": "labels"}))


def test_the_size_of_logits_closes_no_gap() -> None:
    """Twice the logits of a student: nothing but its temperature and its raw loss are others."""
    env = DistillEnv(terms=["hard_label", "soft_label"], max_train_rows=512, selection_rows=32)
    env.reset(seed=0)
    for _ in range(15):
        env.step(env.decision.encode(dict.fromkeys(env.term_names, 1.0)))

    params = env.run.started().params
    before = LabelsObjective().evaluate(env.problem, params, None)
    assert 0.3 < before.temperature[0] < 3.0, "at the bounds this test would show nothing"
    with torch.no_grad():
        for name in ("classifier.weight", "classifier.bias"):
            params[name] *= 2.0
    after = LabelsObjective().evaluate(env.problem, params, None)
    assert after.temperature[0] == pytest.approx(2.0 * before.temperature[0], rel=1e-3)
    assert after.loss[0] == pytest.approx(before.loss[0], rel=1e-5)
    assert abs(after.raw_loss[0] - before.raw_loss[0]) > 1e-4


def test_reward_and_info_say_what_was_fitted(tiny: dict[str, Any]) -> None:
    """Rewards are drops of the calibrated loss; a vector environment says the same, replica by replica."""
    problem = build_problem(env_config(**tiny))
    env = DistillEnv(problem=problem)
    _, info = env.reset(seed=3)
    action = env.decision.encode(dict.fromkeys(env.term_names, 1.0))
    _, reward, _, _, after = env.step(action)
    assert reward == pytest.approx((info["loss"] - after["loss"]) / env.run.started().gap_scale[0])
    logits = env.predict(problem.feedback)[0]
    temperature = fit_temperature(logits, problem.feedback.labels)
    assert after["temperature"] == temperature
    assert after["loss"] == pytest.approx(float(gold_loss(logits / temperature, problem.feedback.labels, None)))
    assert after["raw_loss"] == pytest.approx(float(gold_loss(logits, problem.feedback.labels, None)))
    envs = DistillVectorEnv(2, problem=problem)
    envs.reset(seed=[3, 4])
    *_, infos = envs.step(np.stack([action, action]))
    assert infos["temperature"][0] == pytest.approx(after["temperature"], rel=1e-3)
    assert infos["temperature"][0] != infos["temperature"][1]


def test_scores_have_no_temperature(tiny_regression: dict[str, Any]) -> None:
    env = DistillEnv(**tiny_regression)
    _, info = env.reset(seed=0)
    assert info["temperature"] == 1.0 and info["loss"] == info["raw_loss"]
