"""Files of answers as teachers: matched by row id, put into the task's order by name, refused where they do not fit."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from cli.jobs.teacher import make_teacher
from kd_env import DistillVectorEnv, build_problem
from kd_env.data.loading import get_task, load_dev, load_train
from kd_env.decisions.options import env_config
from kd_env.evaluation.judging.dev import check_dev_lengths
from kd_env.evaluation.judging.tables import judged_tables
from kd_env.mdp.problem import Problem
from kd_env.teachers.answers.row_ids import row_ids

Arrays = dict[str, np.ndarray]
LABELS = np.array(["0", "1"])
"""Of the tiny task."""


def answered(options: dict[str, Any], *, dev: bool = True) -> Arrays:
    """Probabilities for all rows of the tiny task, right with 0.6 to 0.9, in random order; columns as in LABELS."""
    task = get_task("custom", options["columns"], options["data_dir"])
    splits = {"train": load_train(task, options["data_dir"])}
    splits |= load_dev(task, options["data_dir"]) if dev else {}
    ids, labels = [], []
    for split, rows in splits.items():
        ids += row_ids(rows, split, range(len(rows.labels)))
        labels += rows.labels.tolist()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(ids))
    if task.regression:
        return {"ids": np.array(ids)[order], "scores": np.array(labels)[order] + rng.normal(0, 0.1, len(ids))}
    right = rng.uniform(0.6, 0.9, len(ids))
    ones = np.where(np.array(labels) == 1, right, 1 - right)
    return {"ids": np.array(ids)[order], "labels": LABELS, "probabilities": np.stack([1 - ones, ones], 1)[order]}


def as_file(folder: Path, arrays: Arrays, ending: str = ".npz") -> str:
    """The answers in a file of a format."""
    path = folder / f"answers{ending}"
    if ending == ".npz":
        np.savez(path, **arrays)
        return str(path)
    prefix = "probability" if "probabilities" in arrays else "logit"
    values = arrays["probabilities" if prefix == "probability" else "logits"]
    columns = {"id": arrays["ids"].tolist(), "remark": ["none"] * len(values)}
    columns |= {f"{prefix}.{label}": values[:, place].tolist() for place, label in enumerate(arrays["labels"])}
    if ending == ".parquet":
        parquet.write_table(pyarrow.table(columns), path)
        return str(path)
    rows = list(zip(*columns.values(), strict=True))
    with path.open("w", newline="", encoding="utf-8") as file:
        if ending == ".csv":
            csv.writer(file).writerows([tuple(columns), *rows])
        else:
            file.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    return str(path)


def build(options: dict[str, Any], teacher: str, **changes: Any) -> Problem:
    own = {"teacher": teacher, "student": options["teacher"], "terms": ["hard_label", "soft_label"], **changes}
    return build_problem(env_config(**{**options, **own}))


@pytest.mark.parametrize("ending", [".npz", ".parquet", ".csv", ".jsonl"])
def test_answers_are_found_by_id_whatever_the_order_of_rows_and_labels(
    ending: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    arrays = answered(tiny)
    turned = {**arrays, "labels": LABELS[::-1], "probabilities": arrays["probabilities"][:, ::-1]}
    problem = build(tiny, as_file(tmp_path, turned, ending))
    by_id = dict(zip(arrays["ids"].tolist(), arrays["probabilities"], strict=True))
    task = get_task("custom", tiny["columns"], tiny["data_dir"])
    ids = row_ids(load_train(task, tiny["data_dir"]), "train", problem.splits.train)
    expected = np.log([by_id[name] for name in ids])
    np.testing.assert_allclose(problem.reference.train_logits, expected, rtol=1e-5)
    assert problem.reference.verdict is not None and problem.reference.verdict.value == 1.0
    assert problem.reference.saw_feedback == "unknown"
    env = DistillVectorEnv(2, problem=problem)
    env.reset(seed=0)
    _, rewards, *_ = env.step(np.ones((2, 2), dtype=np.int8))
    assert np.isfinite(rewards).all() and (rewards != 0).all()
    dev = judged_tables(problem)
    names = row_ids(load_dev(task, tiny["data_dir"])["validation"], "validation", range(120))
    np.testing.assert_allclose(dev.teacher_logits["validation"], np.log([by_id[name] for name in names]), rtol=1e-5)


def test_the_same_answers_as_logits_or_probabilities_are_one_teacher(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Logits are as they are given; probabilities of 0 count as 1e-6."""
    arrays = answered(tiny)
    logits = 5 * np.log(arrays["probabilities"])
    problem = build(tiny, as_file(tmp_path, {"ids": arrays["ids"], "labels": LABELS, "logits": logits}))
    assert np.isin(problem.reference.train_logits, logits.astype(np.float32)).all()
    sure = (arrays["probabilities"] > 0.5).astype(np.int64)
    problem = build(tiny, as_file(tmp_path, {**arrays, "probabilities": sure}))
    np.testing.assert_allclose(np.unique(problem.reference.train_logits), [np.log(1e-6), 0.0], atol=1e-5)


def test_answers_to_a_task_of_scores(tiny_regression: dict[str, Any], tmp_path: Path) -> None:
    arrays = answered(tiny_regression)
    problem = build(tiny_regression, as_file(tmp_path, arrays))
    assert problem.reference.train_logits.shape == (len(problem.train), 1)
    assert np.isin(problem.reference.train_logits, arrays["scores"].astype(np.float32)).all()
    with pytest.raises(ValueError, match=r"has probabilities, and the task 'custom' needs scores"):
        wrong = np.full((len(arrays["ids"]), 2), 0.5)
        build(tiny_regression, as_file(tmp_path, {"ids": arrays["ids"], "labels": LABELS, "probabilities": wrong}))


def changed(place: Any, value: Any) -> Callable[[Arrays], Arrays]:
    """Other probabilities at a place."""

    def change(arrays: Arrays) -> Arrays:
        values = arrays["probabilities"].copy()
        values[place] = value
        return {**arrays, "probabilities": values}

    return change


def renamed(*labels: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, "labels": np.array(labels)}


def without(*names: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


def other_texts(arrays: Arrays) -> Arrays:
    return {**arrays, "ids": np.array([f"{name[:-8]}{'0' * 8}" for name in arrays["ids"].tolist()])}


def one_label(arrays: Arrays) -> Arrays:
    return {**arrays, "labels": LABELS[:1], "probabilities": arrays["probabilities"][:, :1]}


def without_a_column(arrays: Arrays) -> Arrays:
    return {**arrays, "probabilities": arrays["probabilities"][:, :1]}


def twice(arrays: Arrays) -> Arrays:
    return {name: array if name == "labels" else np.concatenate([array, array[:1]]) for name, array in arrays.items()}


FAULTS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "other texts": (other_texts, r"lacks answers to 176 of 176 rows .* To 176 of them it has answers of other texts"),
    "a NaN": (changed((7, 1), np.nan), r"the answers to 1 of 360 rows hold NaN or infinity: \w+:\d+:[0-9a-f]{8} \(the"),
    "infinity": (changed((slice(None), 0), np.inf), r"to 360 of 360 rows hold NaN or infinity: .*, \.\.\. \(the first"),
    "negative": (changed(3, [-0.2, 1.2]), r"1 of 360 rows hold negative probabilities: .*; are they logits\?"),
    "no sum of one": (changed(3, [0.5, 0.4]), r"1 of 360 rows do not sum to one: .*\[0\.5, 0\.4\]\); divide"),
    "other labels": (renamed("bad", "good"), r"labels \['bad', 'good'\], .* \['0', '1'\] .* cannot be established"),
    "a label twice": (renamed("1", "1"), r"names a label twice: \['1', '1'\]"),
    "a label too few": (one_label, r"names the labels \['0'\], .* \(not there: \['1'\]\)"),
    "a column too few": (without_a_column, r"has probabilities of the shape \[360, 1\], .* needs \[rows, 2\]: 0, 1"),
    "no labels": (without("labels"), r"has no array labels: which column stands for which label cannot be established"),
    "no ids": (without("ids"), r"arrays \['labels', 'probabilities'\]; it needs ids"),
    "no answers": (without("probabilities"), r"arrays \['ids', 'labels'\]; it needs ids, and one of probabilities"),
    "a row twice": (twice, r"answers the row '\w+:\d+:[0-9a-f]{8}' twice"),
    "fewer ids": (lambda arrays: {**arrays, "ids": arrays["ids"][:9]}, r"has 9 ids and answers of 360 rows"),
    "ids as numbers": (lambda arrays: {**arrays, "ids": np.arange(360)}, r"array ids is int64 .* list of texts"),
    "objects": (lambda arrays: {**arrays, "ids": arrays["ids"].astype(object)}, r"cannot be read as npz .* unpickled"),
    "words": (lambda arrays: {**arrays, "probabilities": arrays["probabilities"].astype(str)}, r"that are no numbers"),
    "no rows": (lambda arrays: {**{name: array[:0] for name, array in arrays.items()}, "labels": LABELS}, "no rows"),
}


@pytest.fixture(scope="module")
def full(tiny: dict[str, Any]) -> Arrays:
    return answered(tiny)


@pytest.mark.parametrize("fault", FAULTS)
def test_answers_that_are_not_what_they_should_be(
    fault: str, full: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as error:
        build(tiny, as_file(tmp_path, change(full)))
    assert str(tmp_path / "answers.npz") in str(error.value)


def test_missing_rows_are_counted_and_named(full: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Those that nobody asks for may be missing; dev rows are asked for by reports alone, before a training."""
    problem = build(tiny, as_file(tmp_path, full))
    task = get_task("custom", tiny["columns"], tiny["data_dir"])
    wanted = row_ids(load_train(task, tiny["data_dir"]), "train", problem.splits.train[[5, 9]])
    kept = ~np.isin(full["ids"], wanted)
    fewer = as_file(tmp_path, {**full, "ids": full["ids"][kept], "probabilities": full["probabilities"][kept]})
    with pytest.raises(
        ValueError, match=rf"lacks answers to 2 of 176 rows of the train split: {wanted[0]}, {wanted[1]}"
    ):
        build(tiny, fewer)
    train = np.char.startswith(full["ids"], "train:")
    alone = as_file(tmp_path, {**full, "ids": full["ids"][train], "probabilities": full["probabilities"][train]})
    problem = build(tiny, alone)
    for ask in (check_dev_lengths, judged_tables):
        with pytest.raises(ValueError, match=r"lacks answers to 120 of 120 rows of the validation split.*rows=<file"):
            ask(problem)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"probability.0": [0.5]}, "has no column id; its columns: probability.0"),
        ({"id": ["a"], "positive": [0.5]}, r"has no answers; it needs, beside id, a column probability\.<label>"),
        ({"id": ["a"], "probability.0": [0.5], "logit.1": [0.5]}, "has probabilities and logits; it needs"),
        ({"id": ["a"], "probability.0": [0.5], "probability.1": [None]}, "'probability.1' holds None for the row 'a'"),
        ({"id": [None], "probability.0": [0.5], "probability.1": [0.5]}, "column id holds None; ids are texts"),
        ({"id": ["a"], "probability.0": [1.0]}, r"names the labels \['0'\], .* \(not there: \['1'\]\)"),
    ],
)
def test_tables_that_are_not_what_they_should_be(
    columns: dict[str, list[Any]], message: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "answers.parquet")
    with pytest.raises(ValueError, match=message):
        build(tiny, str(tmp_path / "answers.parquet"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": ["soft_label", "hidden_states"]}, r"no hidden states or attention: the term 'hidden_states' reads"),
        ({"terms": ["attention"]}, r"the term 'attention' reads its attention_scores\. Leave the term out"),
        ({"features": ["progress", "teacher_representations"]}, "features teacher_representations read its"),
        ({"teacher_source": "online"}, r"teacher_source='online' runs it for every batch; set 'cached'"),
        ({"teacher_source": "online", "teacher_updates": "prokt"}, "teacher_updates='prokt' trains the teacher"),
        ({"student": {"hidden_size": 8}}, r"student\.init='fresh' takes .* none of the teachers is an encoder"),
        ({"student": {"init": "teacher", "num_hidden_layers": 1}}, r"student\.init='teacher' takes .* is an encoder"),
        ({"decision": "tutor_token", "objective": "labels"}, "decision='tutor_token' edits rows"),
    ],
)
def test_what_needs_an_encoder_is_refused(
    options: dict[str, Any], message: str, full: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    if options.get("decision") == "tutor_token":
        tiny = {**tiny, "features": [], "updates_per_step": 1}
    with pytest.raises(ValueError, match=message):
        build(tiny, as_file(tmp_path, full), **options)


def test_files_that_cannot_be_meant(tiny: dict[str, Any], tiny_text: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"file of answers .*missing\.npz' is not there"):
        build(tiny, str(tmp_path / "missing.npz"))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=r"cannot be read as npz"):
        build(tiny, str(tmp_path / "text.npz"))
    with pytest.raises(ValueError, match=r"gives answers to rows of a task, .* objective='text' .* masked language"):
        build_problem(env_config(decision="tutor_token", **{**tiny_text, "teacher": str(tmp_path / "text.npz")}))


def test_labels_that_are_named_the_wrong_way_round_are_found(
    full: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """By the selection rows, as of any teacher."""
    wrong = as_file(tmp_path, {**full, "labels": LABELS[::-1]})
    with pytest.raises(ValueError, match=r"With its columns read as 1, 0 it would have 1\.000: name them so"):
        build(tiny, wrong)


def test_one_of_several_teachers_to_be_weighed(full: Arrays, tiny: dict[str, Any], tmp_path: Path) -> None:
    """The fresh student is made from the encoder among them."""
    path = as_file(tmp_path, full)
    both = [{"name": "llm", "path": path}, {"name": "bert", "path": tiny["teacher"]}]
    options = {name: value for name, value in tiny.items() if name not in ("teacher", "features")}
    options |= {"decision": "teacher_weighting", "updates_per_step": 1, "terms": ["hard_label", "soft_label"]}
    problem = build_problem(env_config(**options, teachers=both))
    assert problem.teacher_names == ("llm", "bert")
    assert problem.entry_names == ("hard_label", "soft_label@llm", "soft_label@bert")
    np.testing.assert_array_equal(problem.teachers[0].train_logits, build(tiny, path).reference.train_logits)
    env = DistillVectorEnv(2, problem=problem)
    env.reset(seed=0)
    steps = []
    for weight in (-1.0, 1.0):  # of the first teacher against the second
        state = env.get_state()
        _, rewards, *_ = env.step(np.array([[weight, -weight]] * 2, dtype=np.float32))
        env.set_state(state)
        steps.append(rewards)
    assert np.isfinite(steps).all() and (steps[0] != steps[1]).all()


def test_the_rows_to_be_answered_are_written_without_labels(tmp_path: Path) -> None:
    """Exactly those that a problem of the same options asks about; the main job finds the answers to them."""
    path = tmp_path / "rows.parquet"
    make_teacher(["task=toy", "task.max_train_rows=100", "task.feedback_rows=40", f"rows={path}"], "kd-env teacher")
    table = parquet.read_table(path)
    assert table.column_names == ["id", "part", "text"]
    ids, parts = table["id"].to_pylist(), np.array(table["part"].to_pylist())
    assert [int((parts == part).sum()) for part in ("train", "feedback", "selection", "validation")] == [
        *(100, 40, 40),
        1200,
    ]
    np.savez(
        tmp_path / "a.npz",
        ids=np.array(ids),
        labels=np.array(["negative", "positive"]),
        logits=np.eye(2)[[0] * len(ids)],
    )
    from kd_env.data.toy import teacher_folder

    problem = build_problem(
        env_config(
            **{"task": "toy", "max_train_rows": 100, "feedback_rows": 40, "teacher": str(tmp_path / "a.npz")},
            **{"student": str(teacher_folder("toy")), "terms": ["soft_label"], "teacher_check": "none"},
        )
    )
    assert len(problem.train) == 100
    with pytest.raises(ValueError, match=r"With rows=.* no teacher is trained, and nothing reads teacher"):
        make_teacher(["task=toy", f"rows={path}", "teacher.epochs=2"], "kd-env teacher")
    with pytest.raises(ValueError, match=r"must be a file that ends in \.parquet"):
        make_teacher(["task=toy", f"rows={tmp_path / 'rows.csv'}"], "kd-env teacher")
