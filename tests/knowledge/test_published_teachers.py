"""Recipes of learning teachers as published, against transcriptions of the released code."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents import make_rule
from cli.settings.compose import compose
from cli.settings.read import read_settings
from kd_env import DistillEnv
from kd_env.core.types import Batch, EncoderFacts, ModelOutput
from kd_env.knowledge import build_terms
from kd_env.knowledge.base import TermInputs, TermSpec
from kd_env.models.layermap import layer_pairs

ROWS, CLASSES, WIDTH = 5, 3, 768


def settings(experiment: str, *words: str) -> Any:
    return read_settings(compose("config", [f"experiment={experiment}", *words]))


def output(layers: int, seed: int) -> ModelOutput:
    drawn = torch.Generator().manual_seed(seed)
    cls = {layer: torch.randn(ROWS, WIDTH, generator=drawn, dtype=torch.float64) for layer in range(layers + 1)}
    logits = 3 * torch.randn(ROWS, CLASSES, generator=drawn, dtype=torch.float64)
    return ModelOutput(logits=logits, cls=cls, hidden_states={}, attention_scores={}, queries={}, keys={}, values={})


def released_metadistil(student: ModelOutput, teacher: ModelOutput, labels: Tensor) -> Tensor:
    """``alpha soft + (1 - alpha) hard + beta pkd`` with alpha 0.5, beta 100, temperature 5 and layers by skipping."""
    soft = F.mse_loss((teacher.logits / 5).softmax(-1), (student.logits / 5).softmax(-1)) * 5 * 5
    own, taught = (
        torch.stack([side.cls[layer] for layer in layers])
        for side, layers in ((student, range(1, 6)), (teacher, range(2, 12, 2)))
    )
    pkd = F.mse_loss(own / own.norm(dim=-1)[..., None], taught / taught.norm(dim=-1)[..., None])
    return 0.5 * soft + 0.5 * F.cross_entropy(student.logits, labels) + 100 * pkd


def test_the_students_loss_of_metadistil_is_the_released_one() -> None:
    """By the terms and weights of the experiment, on outputs of six layers and of twelve."""
    env = settings("metadistil_paper").env
    facts = [EncoderFacts(layers, WIDTH, 12, CLASSES, 100) for layers in (6, 12)]
    terms = build_terms(env.terms, TermSpec(*facts, layer_pairs(env.layer_map, 6, 12), False))
    student, teacher, labels = output(6, 0), output(12, 1), torch.arange(ROWS) % CLASSES
    none = torch.zeros(ROWS, 1, dtype=torch.long)
    inputs = TermInputs(student, teacher, Batch(none, none == 0, none, labels), {})
    found = torch.stack([term.loss(inputs).mean() for term in terms]).sum()
    torch.testing.assert_close(found, released_metadistil(student, teacher, labels), rtol=1e-10, atol=0)
    assert env.term_scale == "none"


def test_the_virtual_step_of_metadistil_is_the_released_one() -> None:
    """Plain SGD with a constant learning rate, beside a real step by AdamW that is clipped; no teacher's dropout."""
    env = settings("metadistil_paper").env
    step, real, taught = env.influence_config, env.optimizer_config, env.learning_teacher_config
    assert (step.optimizer, step.learning_rate, step.clip) == ("sgd", 5e-5, False)
    assert (real.rate, real.max_grad_norm, real.weight_decay, real.warmup) == (5e-5, 1.0, 0.0, 0.0)
    assert (taught.learning_rate, taught.max_grad_norm, taught.weight_decay, taught.warmup) == (1e-5, 1.0, 0.0, 0.0)
    assert (env.student_config.dropout, taught.dropout) == (0.1, 0.0)
    assert taught.train_embeddings and env.student_config.train_embeddings


def test_the_influence_of_lgtm_counts_as_released() -> None:
    """The teacher's learning rate in the place of the student's; both schedules are the same line."""
    found = settings("lgtm_paper")
    student, teacher, rule = found.env.optimizer_config, found.env.learning_teacher_config, found.agent.options
    assert rule["influence_target"] == "teacher_loss"
    assert rule["influence_coef"] * student.rate == pytest.approx(teacher.learning_rate)
    assert student.warmup == teacher.warmup == 0 and student.max_grad_norm is None and teacher.max_grad_norm is None
    assert (teacher.dropout, found.env.student_config.dropout, teacher.soft_weight) == (0.1, 0.1, 0.4)
    assert teacher.zero_head and found.env.student_config.zero_head and teacher.train_embeddings


@pytest.mark.parametrize(("experiment", "rule"), [("metadistil_paper", "metadistil"), ("lgtm_paper", "lgtm")])
def test_published_recipes_run(experiment: str, rule: str, tiny: dict[str, Any]) -> None:
    """All of their options together, on the tiny task with its own models; only what names models and sizes differs."""
    found = settings(experiment, "teacher.source=online")
    data = {key: tiny[key] for key in ("task", "data_dir", "columns", "teacher", "feedback_rows", "selection_rows")}
    student = {**dataclasses.asdict(found.env.student_config), "init": "teacher", "name_or_path": None}
    sizes = {"budget": 4, "epochs": None, "evaluation_rows": 32, "features": ["progress"]}
    sizes |= {"cache_dir": None, "show_progress": False}
    influence = {**dataclasses.asdict(found.env.influence_config), "rows": 16}
    changes = {"student": {**student, "num_hidden_layers": 2}, "influence": influence, "batch_size": 8, **sizes, **data}
    env = DistillEnv(**{**found.env.to_dict(), **changes})
    observation, _ = env.reset(seed=0)
    one = make_rule(rule, env, seed=0, **found.agent.options)
    before = env.predict_teacher(env.problem.feedback)
    for _ in range(2):
        observation, reward, *_, info = env.step(one.predict(observation)[0])
    assert np.isfinite(reward) and not info["diverged"]
    assert not np.array_equal(env.predict_teacher(env.problem.feedback), before)


def test_the_modified_forms_say_that_they_are() -> None:
    """Under their own names; the published ones are named beside them."""
    assert settings("metadistil").env.influence_config.optimizer == "adamw"
    assert settings("lgtm").agent.options == {}
    noisy = settings("noisy_samples").env.influence_config
    assert (noisy.optimizer, noisy.clip) == ("sgd", False)
