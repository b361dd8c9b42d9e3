"""Regression: students begin at the mean of the train labels, and the gap counts from the best constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.decisions.options import env_config
from kd_env.evaluation.judging.episodes import judged_splits
from kd_env.evaluation.judging.tables import JudgedTables
from kd_env.mdp.problem import Problem


@pytest.fixture(scope="module")
def options(tiny_regression: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny scores moved by 10, as no mean is 0 but by chance, and a teacher that says them."""
    import json
    import shutil
    from pathlib import Path

    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("moved")
    for file in sorted(Path(tiny_regression["data_dir"]).iterdir()):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps({**row, "label": row["label"] + 10.0}) for row in rows]
        (folder / file.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copytree(tiny_regression["teacher"], folder / "teacher")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
    model.classifier.bias.data += 10.0
    model.save_pretrained(folder / "teacher")
    columns = {**tiny_regression["columns"], "label_range": [8.0, 12.0]}
    moved = {"data_dir": str(folder), "teacher": str(folder / "teacher"), "columns": columns}
    return {**tiny_regression, **moved, "precision": "fp64"}


@pytest.fixture(scope="module")
def problem(options: dict[str, Any]) -> Problem:
    return build_problem(env_config(**options))


def test_students_begin_at_the_train_mean(problem: Problem, options: dict[str, Any]) -> None:
    """However they begin: fresh, with a head of zeros, or cut from a model."""
    mean = problem.train.labels.mean()
    assert mean > 8
    envs = DistillVectorEnv(4, problem=problem)
    envs.reset(seed=0)
    scores = envs.predict(problem.feedback)
    assert np.abs(scores - mean).max() < 0.5 and scores.std() > 0
    zero = DistillEnv(**{**options, "student": {**options["student"], "zero_head": True}})
    zero.reset(seed=0)
    np.testing.assert_allclose(zero.predict(problem.feedback), mean, rtol=1e-12)
    cut = DistillEnv(**{**options, "student": {"init": "teacher", "num_hidden_layers": 1}})
    cut.reset(seed=0)
    assert np.abs(cut.predict(problem.feedback) - mean).max() < 0.5


@pytest.mark.parametrize("gap", ["labels", "divergence"])
def test_the_best_constant_closes_nothing(gap: str, options: dict[str, Any], problem: Problem) -> None:
    """By its definition, against labels and against the teacher; on feedback rows and in reports alike."""
    env = DistillEnv(problem=problem, gap=gap)
    env.reset(seed=0)
    state, table, teacher = env.run.started(), problem.feedback, problem.reference.feedback_logits
    mean = (problem.train.labels if gap == "labels" else problem.reference.train_logits).mean(dtype=np.float64)
    target = table.labels if gap == "labels" else teacher[:, 0]
    constant = float((((mean - target) / 4.0) ** 2).mean())
    np.testing.assert_allclose(state.loss_reset, constant, rtol=1e-12)
    closed = (state.loss_reset - env.problem.loss(np.full((1, len(table), 1), mean), table, teacher, np.ones(1))) / (
        state.gap_scale
    )
    np.testing.assert_allclose(closed, 0.0, atol=1e-12)
    best = env.problem.loss(teacher[None], table, teacher, np.ones(1))
    np.testing.assert_allclose((state.loss_reset - best) / state.gap_scale, 1.0, atol=1e-6)
    split = judged_splits(env.problem, JudgedTables({"rows": table}, {"rows": teacher}, ()), [0, 1])["rows"]
    np.testing.assert_allclose(split.reset_loss, constant, rtol=1e-12)
    raw = float((((problem.train.labels.mean(dtype=np.float64) - table.labels) / 4.0) ** 2).mean())
    np.testing.assert_allclose(split.raw_reset_loss, raw, rtol=1e-12)
