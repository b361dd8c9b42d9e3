"""The embedded tasks: sizes, distinct rows, difficulty, and packaged teachers that keep their promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_env.data.forms import normalize
from kd_env.data.loading import get_task, load_dev, load_train
from kd_env.data.splits import cut
from kd_env.data.tasks import Rows
from kd_env.data.toy import SIZES, teacher_folder, toy_rows, vocabulary

TASKS = ["toy", "toy_pair"]


@pytest.mark.parametrize("name", TASKS)
def test_sizes_balance_and_room_after_the_cut(name: str) -> None:
    assert len(load_train(get_task(name), None).first) == SIZES["train"]
    assert [len(rows.first) for rows in load_dev(get_task(name), None).values()] == [SIZES["validation"]]
    assert SIZES["validation"] >= 1000
    for split in ("train", "validation", "teacher"):
        assert toy_rows(name, split).labels.mean() == 0.5  # type: ignore[arg-type]
    splits = cut(toy_rows(name, "train"), seed=0)
    assert len(splits.train) >= 4000 and splits.dropped == 0
    assert len(splits.feedback) == len(splits.selection) == 512


@pytest.mark.parametrize("name", TASKS)
def test_no_sentence_stands_twice_in_any_split(name: str) -> None:
    texts: list[str] = []
    for split in ("train", "validation", "teacher"):
        rows = toy_rows(name, split)  # type: ignore[arg-type]
        texts += [normalize(text) for text in (*rows.first, *(rows.second or ()))]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_short_and_use_the_vocabulary(name: str) -> None:
    rows = toy_rows(name, "train")
    words = [text.split() for text in rows.first]
    if rows.second is not None:
        words = [one + two.split() for one, two in zip(words, rows.second, strict=True)]
    assert 8 <= np.mean([len(row) for row in words]) <= 14.5 and max(map(len, words)) <= 29
    assert {word for row in words for word in row} == set(vocabulary(name)) and len(vocabulary(name)) < 250


def test_rows_never_change_and_are_the_callers_own() -> None:
    rows = toy_rows("toy", "train")
    rows.first[0], rows.labels[0] = "changed", 7
    again = toy_rows("toy", "train")
    assert again.first[0] != "changed" and again.labels[0] in (0, 1)
    with pytest.raises(ValueError, match="Did you mean 'toy_pair'"):
        toy_rows("toy_pairs", "train")
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        toy_rows("toy", "validaton")  # type: ignore[arg-type]


def _bag_of_words_accuracy(train: list[str], labels: np.ndarray, dev: list[str], gold: np.ndarray) -> float:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    bag = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=300).fit(bag.fit_transform(train), labels)
    return float(model.score(bag.transform(dev), gold))


def _marked(rows: Rows) -> list[str]:
    """Words of the two sentences told apart."""
    second = rows.second or [""] * len(rows.first)
    marked = (" ".join("2" + word for word in text.split()) for text in second)
    return [f"{one} {two}" for one, two in zip(rows.first, marked, strict=True)]


@pytest.mark.parametrize("name", TASKS)
def test_words_alone_are_a_start_but_not_enough(name: str) -> None:
    train, dev = toy_rows(name, "train"), toy_rows(name, "validation")
    assert 0.72 < _bag_of_words_accuracy(_marked(train), train.labels, _marked(dev), dev.labels) < 0.88


def test_a_pair_needs_both_sentences() -> None:
    train, dev = toy_rows("toy_pair", "train"), toy_rows("toy_pair", "validation")
    assert train.second is not None and dev.second is not None
    assert _bag_of_words_accuracy(train.second, train.labels, dev.second, dev.labels) < 0.72
    assert _bag_of_words_accuracy(train.first, train.labels, dev.first, dev.labels) < 0.65


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = teacher_folder(name)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder), model


@pytest.mark.parametrize("name", TASKS)
def test_packaged_teacher_is_small_accurate_and_calibrated(name: str) -> None:
    tokenizer, model = _load(name)
    rows = toy_rows(name, "validation")
    inputs = tokenizer(rows.first, rows.second, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    gold = torch.as_tensor(rows.labels)
    loss = float(torch.nn.functional.cross_entropy(logits, gold))
    accuracy = float((logits.argmax(-1) == gold).float().mean())
    assert accuracy >= 0.97 and loss < 0.2
    folder = teacher_folder(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2**20
    facts = json.loads((folder / "kd_env_teacher.json").read_text(encoding="utf-8"))
    assert facts["trained_on"] == "rows apart from every split" and facts["task"] == name
    assert facts["dev accuracy"] == pytest.approx(accuracy, abs=2e-3)
    assert facts["dev loss"] == pytest.approx(loss, abs=2e-3)
    assert [model.config.id2label[i] for i in range(2)] == list(get_task(name).labels)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("name", TASKS)
def test_packaged_tokenizer_knows_every_word_and_marks_pairs(name: str, tmp_path: Path) -> None:
    tokenizer, model = _load(name)
    assert len(tokenizer) == model.config.vocab_size and tokenizer.pad_token_id == 0
    rows = toy_rows(name, "train")
    found = tokenizer(rows.first, rows.second)
    assert max(map(len, found["input_ids"])) <= 32 <= model.config.max_position_embeddings
    assert not any(tokenizer.unk_token_id in ids for ids in found["input_ids"])
    row = tokenizer("some goats", "All goats.")
    assert row["token_type_ids"] == [0] * 4 + [1] * (len(row["input_ids"]) - 4)
    assert row["input_ids"][0] == tokenizer.cls_token_id and row["input_ids"][3] == tokenizer.sep_token_id
