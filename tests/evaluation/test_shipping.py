"""Which student ships, and what is said of it, from results written out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kd_env.data.tasks import Task
from kd_env.evaluation.comparing.runs import Run
from kd_env.evaluation.shipping.choice import standings
from kd_env.evaluation.shipping.facts import STUDENT, TEACHER, Cost, Facts, SplitFacts, TaskFacts, Teaching
from kd_env.evaluation.shipping.models import (
    input_names,
    read_classifier,
    torch_model,
    write_classifier,
)
from kd_env.evaluation.shipping.parity import parity
from kd_env.evaluation.shipping.verdict import verdict
from kd_env.models.pooling import AttentionPooling, PooledClassifier, save_pooled
from kd_env.testing import tiny_tokenizer


def row(policy: str, values: Sequence[float], losses: Sequence[float] = (0.5, 0.5), **said: Any) -> dict[str, Any]:
    """A policy whose students are the better on dev the worse they are on selection."""
    dev = {"metrics": {"accuracy": [1.0 - value for value in values]}, "loss": [0.1, 0.1]}
    selection = {"metrics": {"accuracy": list(values), "f1": [1.0 - value for value in values]}, "loss": list(losses)}
    diverged = said.pop("diverged", [False, False])
    seeds = {"splits": {"selection": selection, "validation": dev}, "diverged": diverged}
    return {"policy": policy, "learned": False, **said, "seeds": seeds}


def run_of(place: str, *rows: Mapping[str, Any], agent: str = "agent") -> Run:
    return Run(place, agent, "none", range(2), {"seeds": [10, 11], "policies": list(rows)})


def test_the_best_student_on_selection_of_all_runs() -> None:
    first = run_of("a", row("agent", [0.6, 0.7], learned=True), row("rule", [0.71, 0.72]))
    second = run_of("b", row("agent", [0.65, 0.75], learned=True), row("rule", [0.71, 0.72]))
    found = standings([first, second])
    chosen = found.chosen
    assert (chosen.run, chosen.part, chosen.policy, chosen.seed, chosen.value) == (1, 1, "agent", 11, 0.75)
    assert found.best["rule"].run == 0 and len(found.rows["rule"].runs) == 1
    assert found.means == pytest.approx({"agent": 0.675, "rule": 0.715})
    # The best student was taught by the agent, whose mean is yet below the rule's.
    assert found.not_better == ("agent",) and found.best_rule == "rule"
    assert standings([first], "f1").chosen.value == pytest.approx(0.4)


def test_equal_metrics_are_told_apart_by_the_loss_and_then_by_the_order() -> None:
    assert standings([run_of("a", row("rule", [0.7, 0.7], [0.6, 0.5]))]).chosen.seed == 11
    tied = standings([run_of("a", row("one", [0.7, 0.7]), row("other", [0.7, 0.7]))]).chosen
    assert (tied.policy, tied.seed) == ("one", 10)


def test_who_may_not_ship() -> None:
    others = [row("oracle", [1.0, 1.0], bound=True), row("agent [forced]", [1.0, 1.0], intervention="forced")]
    found = standings([run_of("a", row("rule", [0.9, 0.7], diverged=[True, False]), *others)])
    assert list(found.rows) == ["rule"] and (found.chosen.seed, found.chosen.value) == (11, 0.7)
    # One that saw more labels may ship, and is no rule that agents have to beat.
    more = row("rule (train+feedback)", [0.9, 0.9], extra_labels=True)
    found = standings([run_of("a", row("agent", [0.8, 0.8], learned=True), row("rule", [0.7, 0.7]), more)])
    assert found.chosen.policy == "rule (train+feedback)" and found.best_rule == "rule" and found.not_better == ()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("rule", [0.5, 0.5], diverged=[True, True])], "all of them diverged"),
        ([row("oracle", [1.0, 1.0], bound=True)], "only bounds and interventions"),
        ([row("rule", [0.5])], "for each of the 2 evaluation"),
    ],
)
def test_results_that_ship_nothing(rows: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        standings([run_of("a", *rows)])


def test_parity_by_hand() -> None:
    logits = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    found = parity(logits, logits + np.array([[0.0, np.log(3.0)], [5.0, 5.0], [0.0, 0.0]]), None)
    assert (found.rows, found.difference) == (3, pytest.approx(0.25)) and found.equal == pytest.approx(2 / 3)
    scores = parity(np.array([[1.0], [2.0]]), np.array([[1.0], [2.5]]), 5.0)
    assert (scores.difference, scores.equal) == (pytest.approx(0.1), None)


def test_the_verdict() -> None:
    split = SplitFacts(100, {"accuracy": 0.86}, {"accuracy": "0.850"}, {"accuracy": 0.869}, {})
    facts = Facts(
        name="student",
        licence=None,
        task=TaskFacts("toy", False, ("no", "yes"), None, 128, {}, {}, 0.0),
        teaching=Teaching("rule", False, "", False, 10003, 1, 30, ("toy",), 80, 16, ("soft_label",), "train", "BERT"),
        splits={"selection": replace(split, own={"accuracy": 0.874}), "validation": split},
        metric="accuracy",
        judged=0.874,
        others={"agent": 0.861, "random": 0.7},
        means={"rule": 0.86, "agent": 0.85, "random": 0.6},
        best_rule="rule",
        not_better=("agent",),
        temperature=None,
        calibration_error={},
        costs={TEACHER: Cost(100, 14.0, {1: 22.0, 32: 1.0}), STUDENT: Cost(10, 1.0, {1: 2.0, 32: 1.0})},
        repeats=3,
        machine="",
        parity={},
        opset=18,
        plain=True,
        versions={},
    )
    assert verdict(facts) == (
        "Ship the student of rule, seed 10003: best on the selection split (accuracy 0.874; the best of agent 0.861); "
        "14 times smaller and, at batch 1, 11 times faster than the teacher; on validation accuracy 0.860, 0.9 points "
        "below it. agent, which learned, is not better than the best rule: mean accuracy there 0.850, rule 0.860."
    )
    slower = {**facts.costs, STUDENT: Cost(10, 28.0, {1: 44.0, 32: 1.0})}
    above = replace(split, own={"accuracy": 0.9})
    words = verdict(replace(facts, costs=slower, not_better=(), splits={**facts.splits, "validation": above}))
    assert "0.50 times as small and, at batch 1, 0.50 times as fast as the teacher" in words
    assert words.endswith("on validation accuracy 0.900, 3.1 points above it.")


def test_students_with_attention_pooling_ship_with_their_layers(tmp_path: Path) -> None:
    """Transformers alone would read another head; the card says what reads them."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    encoder = BertModel(BertConfig(vocab_size=64, **sizes), add_pooling_layer=False)
    student = PooledClassifier(encoder, AttentionPooling(8), torch.nn.Linear(8, 2)).eval()
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    save_pooled(student, source)
    tiny_tokenizer().save_pretrained(source)
    target.mkdir()
    write_classifier(source, target, Task("toy", ("text",), "label", ("no", "yes"), ("accuracy",)))
    read = read_classifier(str(target))
    assert read.config.id2label == {0: "no", 1: "yes"}
    inputs = {
        "input_ids": np.array([[2, 7, 9, 3], [2, 8, 3, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    logits = torch_model(read)(inputs)
    assert logits == pytest.approx(torch_model(student)(inputs), abs=1e-6)
    for name in ("model.safetensors", "pooling.safetensors"):
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_a_tokenizer_without_segments_leaves_them_out() -> None:
    two, tokenizer = (
        SimpleNamespace(type_vocab_size=2),
        SimpleNamespace(model_input_names=["input_ids", "token_type_ids"]),
    )
    assert input_names(two, tokenizer) == ("input_ids", "attention_mask", "token_type_ids")
    assert input_names(SimpleNamespace(type_vocab_size=1), tokenizer) == ("input_ids", "attention_mask")
    assert input_names(two, SimpleNamespace(model_input_names=["input_ids"])) == ("input_ids", "attention_mask")
