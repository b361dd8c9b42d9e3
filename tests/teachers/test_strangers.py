"""A stranger's data and a stranger's teachers, from the file to the library's own pipeline and back, row by row."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import make_rule
from kd_env import build_problem
from kd_env.decisions.options import env_config
from kd_env.evaluation.judging.contenders import Contender
from kd_env.evaluation.judging.protocol import evaluate_policies
from kd_env.testing import WORDS, tiny_tokenizer

LABELS = ("very bad", 'so "so"', "good, really")
"""In the order of the teachers' outputs, which is not that of the alphabet."""
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": {**SIZES, "type_vocab_size": 1},
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
    "Electra": {**SIZES, "embedding_size": 16},
}
Rows = list[tuple[str, str]]


@pytest.fixture(scope="module")
def strangers_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Rows]]:
    """Three classes, told by the first word, one of two thirds of the rows; quotes, commas and line breaks."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("reviews")
    rows: dict[str, Rows] = {}
    for split, count in (("train", 160), ("validation", 60)):
        rows[split] = []
        for index in range(count):
            label = int(rng.choice(3, p=[0.2, 0.15, 0.65]))
            words = [WORDS[3 * int(rng.integers(12)) + label], *rng.choice(WORDS, size=int(rng.integers(5, 10)))]
            if index % 4 == 0:
                words[-1:] = ['"', words[-1], ",\n"]
            rows[split].append((" ".join(words), LABELS[label]))
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("review", "verdict"), *rows[split]])
    return folder, rows


def strangers_teacher(family: str, folder: Path, rows: Rows) -> str:
    """A classifier that is trained as the library's Trainer trains it: by its own loss, its labels without names."""
    import transformers

    tokenizer = tiny_tokenizer()
    if family == "DistilBert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0, num_labels=3, **FAMILIES[family]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForSequenceClassification")(config).train()
        batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([LABELS.index(label) for _, label in rows])
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(40):
            optimizer.zero_grad()
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_library_says_of_the_student_is_what_the_report_says(
    family: str, strangers_rows: tuple[Path, dict[str, Rows]], tmp_path: Path
) -> None:
    """The teacher's order is found out, the student is distilled, and judged again by a pipeline of the library."""
    from transformers import pipeline

    folder, rows = strangers_rows
    teacher = strangers_teacher(family, tmp_path / "teacher", rows["train"])
    columns = {"text": "review", "label": "verdict", "kind": "classification"}
    options = {"task": "custom", "data_dir": str(folder), "teacher": teacher, "terms": ["hard_label", "soft_label"]}
    options |= {"student": {"init": "teacher", "num_hidden_layers": 1}, "learning_rate": 0.01, "budget": 30}
    options |= {"features": ["progress"], "batch_size": 8, "feedback_rows": 30, "selection_rows": 30}
    with pytest.raises(ValueError, match=r"accuracy 0\.\d* on 30 selection rows, .* no names of their own") as error:
        build_problem(env_config(**options, columns=columns))
    found = re.search(r"labels=(\[.*\]), or id2label=(\{.*\}) in", str(error.value))
    assert found is not None
    assert found[1] == '[very bad,"so \\"so\\"","good, really"]'
    assert tuple(json.loads(found[2]).values()) == LABELS

    problem = build_problem(env_config(**options, columns={**columns, "labels": list(LABELS)}))
    assert problem.reference.verdict is not None and problem.reference.verdict.value > 0.8
    kept = tmp_path / "student"
    evaluation = evaluate_policies(
        problem,
        {"all": Contender(lambda env: make_rule("all", env))},
        [0],
        keep=lambda name, env, replica, seed, diverged, _: env.save_student(kept, replica),
    )
    scores = evaluation.policies["all"].splits["validation"]
    judged = pipeline("text-classification", model=str(kept), tokenizer=str(kept), device="cpu")
    said = [verdict["label"] for verdict in judged([text for text, _ in rows["validation"]])]
    assert said == [LABELS[guess] for guess in scores.predictions[0]]
    accuracy = np.mean([label == guess for (_, label), guess in zip(rows["validation"], said, strict=True)])
    assert accuracy == scores.metrics["accuracy"][0]
    assert len(set(said)) > 1, "more than a constant is compared"
