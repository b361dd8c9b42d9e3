"""Labels are checked, not trusted: what labelled rows say about a teacher, and what is done about it."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from kd_env import build_problem
from kd_env.data.tasks import Task
from kd_env.decisions.options import env_config
from kd_env.evaluation.comparing.agreement import check_agreement
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.reports.words import facts_in_words
from kd_env.mdp.problem import Problem
from kd_env.teachers.verdicts import judge

CLASSES = Task("custom", ("text",), "label", ("a", "b", "c"), ("accuracy",))
LEARNS = {
    "decision": "sample_weighting",
    "teacher_source": "online",
    "teacher_updates": "prokt",
    "updates_per_step": 1,
}
SCORES = Task("custom", ("text",), "label", (), ("pearson",), label_range=(0.0, 5.0))


def build(options: dict[str, Any], **more: Any) -> Problem:
    return build_problem(env_config(**{**options, **more}))


def changed_teacher(
    options: dict[str, Any], folder: Path, order: tuple[int, ...], names: tuple[str, ...] = (), factor: float = 1.0
) -> str:
    """A copy of the tiny task's teacher with its outputs in another order, under names where some are given."""
    shutil.copytree(options["teacher"], folder)
    tensors = load_file(folder / "model.safetensors")
    for part in ("weight", "bias"):
        tensors[f"classifier.{part}"] = factor * tensors[f"classifier.{part}"][list(order)].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("label2id", None)
    names = names or tuple(f"LABEL_{place}" for place in range(len(order)))
    config["id2label"] = {str(place): name for place, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def swapped(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher that is wrong about every row, since its outputs, which have no names, are the other way round."""
    return changed_teacher(tiny, tmp_path_factory.mktemp("swapped") / "swapped", (1, 0))


def test_outputs_without_names_in_another_order_are_refused_with_the_order(
    tiny: dict[str, Any], swapped: str, tmp_path: Path
) -> None:
    """Each of the two remedies in the message makes the teacher right."""
    right = build(tiny)
    with pytest.raises(ValueError, match=r"accuracy 0\.000 on 32 selection rows, .* read as 1, 0 it would have 1\.000"):
        build(tiny, teacher=swapped)
    with pytest.raises(ValueError, match=r'task\.columns\.labels=\[1,0\], or id2label=\{"0": "1", "1": "0"\}'):
        build(tiny, teacher=swapped)
    columns = build(tiny, teacher=swapped, columns={**tiny["columns"], "labels": [1, 0]})
    assert columns.reference.verdict is not None
    assert columns.reference.verdict.value == 1.0
    named = build(tiny, teacher=changed_teacher(tiny, tmp_path / "named", (1, 0), ("1", "0")))
    np.testing.assert_array_equal(named.reference.train_logits, right.reference.train_logits)


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_source": "online"},
        {**LEARNS, "terms": ["soft_label"]},
    ],
)
def test_outputs_with_names_are_put_into_the_order_of_the_task(
    tiny: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """Whatever reads the teacher, by the batch or while it learns; and it is said."""
    options = {**tiny, "features": ["progress"], **options}
    folder = changed_teacher(tiny, tmp_path / "named", (1, 0), ("1", "0"))
    right = build(options)
    with caplog.at_level(logging.INFO, "kd_env"):
        named = build(options, teacher=folder)
    assert "its outputs were put into the task's order, ['0', '1']" in caplog.text
    assert named.reference.order == (1, 0) and right.reference.order == ()
    assert named.summary()["label_orders"] == {"custom": [1, 0]} and right.summary()["label_orders"] == {}
    assert named.reference.encoder.module.config.id2label == {0: "0", 1: "1"}
    batch = right.train.gather(np.arange(8))
    logits = [each.reference.encoder.forward({}, batch, ()).logits.numpy() for each in (right, named)]
    np.testing.assert_array_equal(logits[0], logits[1])


def test_names_in_the_order_of_the_task_that_labels_belie(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = changed_teacher(tiny, tmp_path / "belied", (1, 0), ("0", "1"))
    with pytest.raises(ValueError, match=r'they have other names there\): set id2label=\{"0": "1", "1": "0"\}'):
        build(tiny, teacher=folder)
    # Its file names output 0 "1": the remedy speaks of outputs of the file, not of those put into the task's order.
    again = changed_teacher(tiny, tmp_path / "again", (0, 1), ("1", "0"))
    with pytest.raises(ValueError, match=r'set id2label=\{"0": "0", "1": "1"\} in its config\.json'):
        build(tiny, teacher=again)


def test_the_gap_of_divergence_and_other_teachers_hide_nothing(tiny: dict[str, Any], swapped: str) -> None:
    with pytest.raises(ValueError, match=r"The teacher 'custom' .* has accuracy 0\.000"):
        build(tiny, teacher=swapped, gap="divergence")
    options = {key: value for key, value in tiny.items() if key not in ("teacher", "features")}
    teachers = [{"name": "good", "path": tiny["teacher"]}, {"name": "bad", "path": swapped}]
    with pytest.raises(ValueError, match=r"The teacher 'bad' .* has accuracy 0\.000"):
        build(options, teachers=teachers, decision="teacher_weighting")


def test_a_useless_teacher_is_warned_of_or_used_where_that_is_said(tiny: dict[str, Any], swapped: str) -> None:
    with pytest.warns(UserWarning, match=r"accuracy 0\.000 on 32 selection rows, where the constant '1' has 0\.531"):
        warned = build(tiny, teacher=swapped, teacher_check="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = build(tiny, teacher=swapped, teacher_check="none")
    expected = {"metric": "accuracy", "value": 0.0, "constant": 0.53125, "rows": 32}
    assert warned.summary()["teacher_verdicts"] == silent.summary()["teacher_verdicts"] == {"custom": expected}


def test_a_teacher_that_learns_is_judged_where_it_begins_with_a_head(tiny: dict[str, Any], swapped: str) -> None:
    options = {**tiny, **LEARNS, "features": ["progress"], "terms": ["soft_label"], "teacher": swapped}
    with pytest.raises(ValueError, match=r"has accuracy 0\.000"):
        build(options)
    for init in ("pretrained", "fresh"):
        problem = build(options, learning_teacher={"init": init})
        assert problem.reference.verdict is None
        assert problem.summary()["teacher_verdicts"] == {}
    shorter = build(options, learning_teacher={"num_hidden_layers": 1})
    assert shorter.reference.verdict is None


def test_scores_on_another_scale_are_named_with_the_line_that_fits(
    tiny_regression: dict[str, Any], tmp_path: Path
) -> None:
    folder = changed_teacher(tiny_regression, tmp_path / "large", (0,), factor=4.0)
    with pytest.raises(ValueError, match=r"another scale: 0\.2\d* \* score [+-] 0\.0\d* would fit") as error:
        build(tiny_regression, teacher=folder)
    assert "the mean of the train labels" in str(error.value)
    verdict = build(tiny_regression).summary()["teacher_verdicts"]["custom"]
    assert verdict["loss"] < 0.01 < verdict["constant_loss"] and verdict["value"] > 0.99


def logits_of(guesses: np.ndarray, classes: int, sure: float = 3.0) -> np.ndarray:
    return sure * np.eye(classes)[guesses]


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_the_order_that_fits_is_found_also_among_mistakes(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 90, p=[0.7, 0.2, 0.1])
    guesses = np.where(rng.random(90) < 0.85, labels, rng.integers(0, 3, 90))
    verdict = judge(logits_of(np.array(order)[guesses], 3), labels, CLASSES, labels)
    assert verdict.order == order and verdict.useless
    assert verdict.order_value == (guesses == labels).mean()
    assert not judge(logits_of(guesses, 3), labels, CLASSES, labels).useless


def test_what_is_weak_or_constant_is_not_taken_for_another_order() -> None:
    labels = np.array([0] * 60 + [1] * 20 + [2] * 10)
    constant = judge(logits_of(np.ones(90, np.int64), 3), labels, CLASSES, labels)
    assert constant.useless and constant.order == ()
    rng = np.random.default_rng(1)
    for _ in range(50):
        random = judge(rng.normal(size=(90, 3)), labels, CLASSES, labels)
        assert random.order == () and random.useless


def test_rows_of_one_class_tell_little() -> None:
    labels = np.zeros(5, np.int64)
    assert not judge(logits_of(labels, 3), labels, CLASSES, labels).useless
    assert judge(logits_of(labels + 1, 3), labels, CLASSES, labels).useless


def test_a_teacher_that_knows_how_likely_a_rare_class_is_has_a_use() -> None:
    """It says the frequent class for every row, as the constant does, and its probabilities tell the rows apart."""
    rng = np.random.default_rng(0)
    likely = rng.choice([0.02, 0.45], 400, p=[0.8, 0.2])
    labels = (rng.random(400) < likely).astype(np.int64)
    logits = np.log(np.stack([1 - likely, likely, np.full(400, 1e-4)], axis=-1))
    verdict = judge(logits, labels, CLASSES, labels)
    assert verdict.value == verdict.constant and verdict.loss < verdict.constant_loss and not verdict.useless


def test_scores_that_are_no_better_than_a_constant() -> None:
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 5, 60)
    assert judge(-labels[:, None] + 5.0, labels, SCORES, labels).useless
    weak = judge(labels[:, None] + rng.normal(0, 6, (60, 1)), labels, SCORES, labels)
    assert weak.useless and weak.scale is None, "noise is no scale"
    assert not judge(labels[:, None] + rng.normal(0, 0.5, (60, 1)), labels, SCORES, labels).useless


def test_reports_tell_of_it_and_older_results_agree_without_it() -> None:
    verdict = {"metric": "accuracy", "value": 0.9, "constant": 0.6, "rows": 64}
    facts = {"teacher_verdicts": {"big": verdict}, "saw_feedback": "no"}
    said = "Teacher big: accuracy 0.900 on 64 selection rows (of the best constant: 0.600)."
    assert said in facts_in_words(facts, "gap_closed")
    results = {"policies": {}, "seeds": [0], "dev_splits": [], "term_names": [], "measure": "loss", "teacher": {}}
    both = (facts, {"saw_feedback": "no"})
    check_agreement([Run("run", "all", "none", range(1), {**results, "facts": one}) for one in both])
