"""Metrics against scikit-learn and SciPy, over a whole split."""

from __future__ import annotations

import numpy as np
import pytest

from kd_env.numerics.metrics import compute


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_class_metrics_equal_scikit_learn(classes: int, seed: int) -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=201)
    predictions = np.where(rng.random(201) < 0.6, labels, rng.integers(classes, size=201))
    found = compute(["accuracy", "matthews_correlation"], predictions, labels)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    assert found["matthews_correlation"] == pytest.approx(sk.matthews_corrcoef(labels, predictions))
    if classes == 2:
        assert compute(["f1"], predictions, labels)["f1"] == pytest.approx(sk.f1_score(labels, predictions))


@pytest.mark.parametrize("seed", range(4))
def test_score_metrics_equal_scipy_with_ties(seed: int) -> None:
    from scipy import stats

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, size=150).astype(np.float32)  # many ties
    predictions = np.round(labels + rng.normal(scale=2.0, size=150), 1).astype(np.float32)
    found = compute(["pearson", "spearmanr"], predictions, labels)
    assert found["pearson"] == pytest.approx(stats.pearsonr(predictions, labels).statistic, abs=1e-6)
    assert found["spearmanr"] == pytest.approx(stats.spearmanr(predictions, labels).statistic, abs=1e-9)


def test_constant_predictions_give_zero() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    for constant in (0, 1):
        assert compute(["matthews_correlation"], np.full(5, constant), labels) == {"matthews_correlation": 0.0}
    assert compute(["f1"], np.zeros(5, dtype=int), labels) == {"f1": 0.0}
    scores = np.linspace(0, 5, 7).astype(np.float32)
    constant = np.full(7, 2.7182817, dtype=np.float32)
    assert compute(["pearson", "spearmanr"], constant, scores) == {"pearson": 0.0, "spearmanr": 0.0}


def test_f1_counts_class_one_only_and_is_no_mean_over_batches() -> None:
    labels, predictions = np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])
    assert compute(["f1"], predictions, labels)["f1"] == pytest.approx(2 / 3)
    halves = [compute(["f1"], predictions[part], labels[part])["f1"] for part in (slice(0, 2), slice(2, 4))]
    assert np.mean(halves) != pytest.approx(2 / 3)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'accuracy'"):
        compute(["acuracy"], np.zeros(2), np.zeros(2))
    for left, right in ((2, 3), (0, 0), ((2, 1), 2)):
        with pytest.raises(ValueError, match="equally long"):
            compute(["accuracy"], np.zeros(left), np.zeros(right))
