"""Metrics against scikit-learn and SciPy, over a whole split."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_env.core.metrics import METRICS, Metric, auc, check_metrics, compute, per_class
from kd_env.data.loading import get_task
from kd_env.data.tasks import EMBEDDED, GLUE


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_class_metrics_equal_scikit_learn(classes: int, seed: int) -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=201)
    predictions = np.where(rng.random(201) < 0.6, labels, rng.integers(classes, size=201))
    if seed == 2:  # one class is never predicted
        predictions[predictions == classes - 1] = 0
    if seed == 3:  # one class is not there
        labels[labels == classes - 1] = 0
    wanted = {
        "accuracy": sk.accuracy_score(labels, predictions),
        "matthews_correlation": sk.matthews_corrcoef(labels, predictions),
        "f1_macro": sk.f1_score(labels, predictions, average="macro", zero_division=0),
        "f1_micro": sk.f1_score(labels, predictions, average="micro"),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predictions),
    }
    wanted |= {"f1": sk.f1_score(labels, predictions)} if classes == 2 else {}
    assert compute(list(wanted), predictions, labels) == pytest.approx(wanted)
    scores = per_class(predictions, labels, classes)
    every = sk.precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), every, strict=False):
        np.testing.assert_allclose(scores[name], values, rtol=1e-12)


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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_class_metrics_equal_scikit_learn_on_few_and_constant_rows(data: st.DataObject) -> None:
    """From one row on, with one class alone in labels, predictions or both, and classes that are in one of them."""
    from sklearn import metrics as sk

    classes, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    one = st.integers(0, classes - 1).map(lambda label: [label] * rows)
    some = st.one_of(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows), one)
    labels, predictions = np.array(data.draw(some)), np.array(data.draw(some))
    wanted = {
        "accuracy": sk.accuracy_score(labels, predictions),
        "matthews_correlation": sk.matthews_corrcoef(labels, predictions),
        "f1_macro": sk.f1_score(labels, predictions, average="macro", zero_division=0),
        "f1_micro": sk.f1_score(labels, predictions, average="micro", zero_division=0),
        "balanced_accuracy": sk.recall_score(
            labels, predictions, labels=np.unique(labels), average="macro", zero_division=0
        ),
    }
    wanted |= {"f1": sk.f1_score(labels, predictions, zero_division=0)} if classes <= 2 else {}
    assert compute(list(wanted), predictions, labels) == pytest.approx(wanted, abs=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 5.0])), min_size=2, max_size=9))
@settings(max_examples=60, deadline=None)
def test_score_metrics_and_auc_on_few_and_constant_rows(rows: list[tuple[int, float]]) -> None:
    """SciPy and scikit-learn where they give a number; constant scores or labels, of which they give none, are 0."""
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    predictions, labels = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    found = compute(["pearson", "spearmanr"], predictions, labels)
    if min(len(set(predictions)), len(set(labels))) == 1:
        assert found == {"pearson": 0.0, "spearmanr": 0.0}
    else:
        assert found["pearson"] == pytest.approx(stats.pearsonr(predictions, labels).statistic, abs=1e-9)
        assert found["spearmanr"] == pytest.approx(stats.spearmanr(predictions, labels).statistic, abs=1e-9)
    high = labels > 1
    area = auc(predictions[high], predictions[~high])
    assert area == (pytest.approx(roc_auc_score(high, predictions)) if 0 < high.sum() < len(high) else 0.5)


def test_f1_counts_class_one_only_and_is_no_mean_over_batches() -> None:
    labels, predictions = np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])
    assert compute(["f1"], predictions, labels)["f1"] == pytest.approx(2 / 3)
    halves = [compute(["f1"], predictions[part], labels[part])["f1"] for part in (slice(0, 2), slice(2, 4))]
    assert np.mean(halves) != pytest.approx(2 / 3)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'accuracy'"):
        compute(["acuracy"], np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="use f1_macro or f1_micro"):
        compute(["f1"], np.array([0, 1, 0]), np.array([0, 1, 2]))
    for left, right in ((2, 3), (0, 0), ((2, 1), 2)):
        with pytest.raises(ValueError, match="equally long"):
            compute(["accuracy"], np.zeros(left), np.zeros(right))


def three_classes(folder: Path, metrics: Any) -> Any:
    """A custom task of three classes in a file, judged by these metrics."""
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((f"row {i}", "abc"[i % 3]) for i in range(9))])
    columns = {"text": "text", "label": "label", "kind": "classification", "metrics": metrics}
    return get_task("custom", columns, str(folder))


def test_metrics_without_meaning_are_refused_with_those_that_have_one(tmp_path: Path) -> None:
    """F1 of three classes was silently that of the second, 0.98 for a student that never says the third."""
    for metrics in (["accuracy", "f1"], "f1"):
        with pytest.raises(ValueError, match=r"'f1' is for two classes, and the task has 3 classes. Use f1_macro or"):
            three_classes(tmp_path, metrics)
    with pytest.raises(ValueError, match=r"'pearson' is for scores, and the task has classes.* Valid: accuracy, bal"):
        three_classes(tmp_path, ["pearson"])
    with pytest.raises(ValueError, match="Did you mean 'f1_macro'"):
        three_classes(tmp_path, ["f1_marco"])
    with pytest.raises(ValueError, match=r"'f1_macro' is for classes, and the task has scores. Valid: pearson, sp"):
        check_metrics(["f1_macro"], regression=True, classes=1)
    valid = ["f1_macro", "f1_micro", "balanced_accuracy", "matthews_correlation", "accuracy"]
    assert three_classes(tmp_path, valid).metrics == tuple(valid)


def test_official_metrics_have_a_meaning_for_their_tasks() -> None:
    """The table of GLUE is what it was."""
    for task in (*GLUE.values(), *EMBEDDED.values()):
        check_metrics(task.metrics, task.regression, task.num_labels)
    assert GLUE["mrpc"].metrics == GLUE["qqp"].metrics == ("accuracy", "f1")
    assert GLUE["stsb"].metrics == ("pearson", "spearmanr") and GLUE["cola"].metrics == ("matthews_correlation",)


def test_metrics_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in the registry is at once a metric of tasks."""
    error = Metric(lambda predictions, labels: float(np.mean(predictions != labels)))
    monkeypatch.setitem(METRICS._items, "error_rate", error)
    assert three_classes(tmp_path, ["error_rate"]).metrics == ("error_rate",)
    assert compute(["error_rate"], np.array([0, 1]), np.array([0, 0])) == {"error_rate": 0.5}
    assert METRICS.group == "kd_env.metrics"


def test_metrics_and_classes_reach_rewards_results_and_reports(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A named metric is the headline; every class has its scores in results.json and results.md."""
    import json

    from sklearn import metrics as sk

    from agents import make_rule
    from kd_env import build_problem
    from kd_env.decisions.options import env_config
    from kd_env.evaluation.judging.contenders import Contender
    from kd_env.evaluation.judging.protocol import evaluate_policies
    from kd_env.evaluation.reports.report import summarize
    from kd_env.evaluation.reports.report_files import write_report

    columns = {**tiny["columns"], "metrics": ["f1_macro", "balanced_accuracy"]}
    problem = build_problem(env_config(**{**tiny, "columns": columns}))
    evaluation = evaluate_policies(problem, {"all": Contender(lambda env: make_rule("all", env))}, [100, 101])
    write_report(tmp_path, summarize(evaluation))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    split = results["policies"][0]["seeds"]["splits"]["validation"]
    predictions = evaluation.policies["all"].splits["validation"].predictions
    labels = evaluation.labels["validation"]
    assert predictions is not None
    for seed in range(2):
        assert split["metrics"]["f1_macro"][seed] == pytest.approx(
            sk.f1_score(labels, predictions[seed], average="macro", zero_division=0)
        )
        recalls = sk.recall_score(labels, predictions[seed], average=None, zero_division=0)
        assert [split["classes"][name]["recall"][seed] for name in problem.task.labels] == pytest.approx(list(recalls))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "f1_macro" in text and "Recall / precision / F1 of each class (its rows) on validation" in text
