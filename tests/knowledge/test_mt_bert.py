"""MT-BERT (Wu et al., Findings of ACL 2021): the update of a student against a transcription of the paper's loss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from terms_mt_bert import LITERAL_TERMS
from torch import Tensor
from torch.nn import functional as F

from kd_env import DistillEnv, build_problem
from kd_env.core.records import members
from kd_env.decisions.options import env_config
from kd_env.finetuning.co_classifier import CoTeacherConfig, cofinetune
from kd_env.models import pretrained
from kd_env.models.layermap import layer_pairs
from kd_env.models.pooling import PooledClassifier
from kd_env.teachers.teacher_set import entry_name

DEPTHS = {"four": 4, "three": 3, "two": 2}


@pytest.fixture(scope="module")
def teachers(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """A co-fine-tuned set of three encoders of one width and different depth."""
    start = {"name_or_path": tiny["teacher"], "init": "fresh"}
    config = CoTeacherConfig.from_kwargs(
        **{name: tiny[name] for name in ("task", "data_dir", "columns", "feedback_rows", "selection_rows")},
        output=str(tmp_path_factory.mktemp("mt_bert") / "set"),
        members=[{"name": name, **start, "num_hidden_layers": depth} for name, depth in DEPTHS.items()],
        epochs=1,
        batch_size=16,
        learning_rate=3e-3,
        show_progress=False,
        device="cpu",
    )
    return [{"name": folder.name, "path": str(folder)} for folder in members(cofinetune(config))]


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_an_update_has_the_gradient_of_the_papers_loss(
    tiny: dict[str, Any], teachers: list[dict[str, str]], tau: float
) -> None:
    """At equal widths, over several layers, row by row and without padding, in every tensor that is trained."""
    hard, soft, hidden = LITERAL_TERMS
    options = {
        **{name: tiny[name] for name in ("task", "data_dir", "columns", "feedback_rows", "selection_rows")},
        "decision": "teacher_weighting",
        "teachers": teachers,
        "teacher_check": "none",
        "student": {"init": "teacher", "num_hidden_layers": 2, "train_embeddings": True},
        "terms": [hard, {**soft, "temperature": tau}, hidden],
        "term_scale": "none",
        "weighting": "sample",
        "features": ["row_teacher_losses"],
        "batch_size": 6,
        "gap": "divergence",
        "optimizer": {"max_grad_norm": None},
        "precision": "fp64",
    }
    env = DistillEnv(problem=(problem := build_problem(env_config(**options))))
    assert isinstance(problem.student.module, PooledClassifier)
    observation, _ = env.reset(seed=4)
    rows = env.run.started().next_rows[0, 0]
    params = {name: value[0].clone().requires_grad_() for name, value in env.run.started().params.items()}
    loss = torch.stack([_loss_of_row(problem, params, int(row), teachers, tau) for row in rows]).mean()
    expected = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))

    part = env.observation_layout["row_teacher_losses"]
    losses = np.expm1(observation[part.slice].reshape(part.shape).astype(np.float64))
    env.step(env.decision.effect(1.0 / (1.0 + losses[None])))  # the rule mt_bert, tests/rules/test_teacher_rules.py
    for name, moment in env.run.started().exp_avg.items():  # 0.1 times the gradient after one update
        torch.testing.assert_close(moment[0], 0.1 * expected[name], rtol=1e-6, atol=1e-9, msg=name)
    maps = {name for name in params if name.startswith("projections.")}
    assert len(maps) == 6 and all(expected[name].any() for name in maps)


def _loss_of_row(
    problem: Any, params: dict[str, Tensor], row: int, teachers: list[dict[str, str]], tau: float
) -> Tensor:
    """``sum_ij MSE(H_s^j, W_ij H_ti^Kj) + sum_i CE(y_i/tau, y_s/tau) / (1 + CE(y, y_i)) + CE(y, y_s)``."""
    batch = problem.train.gather(np.array([row]))
    length = int(batch.attention_mask.sum())
    inputs = {
        "input_ids": batch.input_ids[:, :length],
        "attention_mask": torch.ones(1, length, dtype=torch.int64),
        "token_type_ids": batch.token_type_ids[:, :length],
        "output_hidden_states": True,
    }
    label = batch.labels
    module = copy.deepcopy(problem.student.module)
    student = torch.func.functional_call(module, {n: params[n] for n in problem.student.trainable}, (), inputs)
    total = F.cross_entropy(student.logits, label)
    for teacher in teachers:
        with torch.no_grad():
            said = pretrained.load_encoder(teacher["path"]).double()(**inputs)
        wrong = F.cross_entropy(said.logits, label)
        soft = -(torch.softmax(said.logits / tau, -1) * torch.log_softmax(student.logits / tau, -1)).sum()
        total = total + soft / (1.0 + wrong)
        for layer, other in layer_pairs("uniform", 2, DEPTHS[teacher["name"]])[1:]:
            w = params[f"projections.{entry_name('hidden_states', teacher['name'], 3)}.layer_{layer}"]
            mapped = said.hidden_states[other] @ w.T
            total = total + F.mse_loss(student.hidden_states[layer], mapped)
    return total


def test_a_student_of_one_encoder_has_no_pooling_to_keep(tiny: dict[str, Any], tmp_path: Path) -> None:
    """An option that would be ignored is refused."""
    student = {"init": "teacher", "num_hidden_layers": 1, "pooling": "keep"}
    with pytest.raises(ValueError, match=r"pooling='keep'.*co-fine-tuned set.*BertForSequenceClassification"):
        build_problem(env_config(**{**tiny, "student": student}))
    with pytest.raises(ValueError, match=r"pooling='keep' is only for student\.init=teacher"):
        env_config(**{**tiny, "student": {"pooling": "keep"}})


@pytest.mark.parametrize(("epochs", "budget"), [(1.0, 44), (0.5, 22), (0.3, 14)])
def test_epochs_are_counted_in_updates(tiny: dict[str, Any], epochs: float, budget: int) -> None:
    """176 train rows in batches of 4, rounded up; the option beside it keeps its value where there are none."""
    problem = build_problem(env_config(**{**tiny, "epochs": epochs, "updates_per_step": 14}))
    assert len(problem.train) == 176 and problem.config.budget == budget
    env = DistillEnv(problem=problem)
    env.reset(seed=0)
    assert env.run.started().budget.tolist() == [budget]
    with pytest.raises(ValueError, match=r"updates_per_step=15 is longer than budget=14"):
        build_problem(env_config(**{**tiny, "epochs": 0.3, "updates_per_step": 15}))
