"""Sources of text, and their cut into splits that share no content."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_env.data.corpora import Texts, load_texts
from kd_env.data.forms import normalize
from kd_env.data.text import cut_texts, token_facts, tokenize_texts
from kd_env.data.toy import teacher_folder, toy_rows
from kd_env.models import pretrained

HELD_BACK = [19, 20, 28, 33, 49, 62, 70, 74, 90, 97, 101, 125, 139, 149, 163, 165, 185, 187, 191]
WORDS = [f"w{index}" for index in range(30)]


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one in a folder below; 400 lines, a third of them twice, with blank ones between."""
    lines = sentences(300)
    lines += [line.upper() + "  " for line in lines[:100]]
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("\n\n".join(lines[:200]) + "\n   \n", encoding="utf-8")
    (tmp_path / "below" / "b.txt").write_text("\r\n".join(lines[200:]), encoding="utf-8-sig")
    (tmp_path / "notes.md").write_text("not a text", encoding="utf-8")
    return tmp_path


def test_the_embedded_grammar() -> None:
    single, pair = load_texts("toy", dev=True), load_texts("toy_pair")
    rows = toy_rows("toy", "train")
    assert single.train == rows.first and single.dev == toy_rows("toy", "validation").first
    pairs = toy_rows("toy_pair", "train")
    assert pair.train == [*pairs.first, *(pairs.second or [])] and pair.dev == []
    teacher = toy_rows("toy", "teacher")
    assert not {*single.train, *single.dev} & set(teacher.first)


def test_a_glue_task_gives_both_columns(tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    for split in ("train", "validation"):
        rows = [{"sentence1": f"{split} one {i}", "sentence2": f"{split} two {i}", "label": i % 2} for i in range(5)]
        (tmp_path / "rte" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = load_texts("rte", data_dir=str(tmp_path), dev=True)
    assert found.train == [f"train {word} {i}" for word in ("one", "two") for i in range(5)]
    assert found.dev == [f"validation {word} {i}" for word in ("one", "two") for i in range(5)]
    both = load_texts(["rte", "toy"], data_dir=str(tmp_path))
    assert both.train == [*found.train, *toy_rows("toy", "train").first] and both.dev == []


def test_a_folder_of_text_files(folder: Path) -> None:
    found = load_texts(str(folder), dev=True)
    everything = sorted(normalize(text) for text in [*found.train, *found.dev])
    assert everything == sorted(normalize(line) for line in [*sentences(300), *sentences(300)[:100]])
    assert all(text == text.strip() and text for text in [*found.train, *found.dev])
    train, dev = ({normalize(text) for text in part} for part in found)
    assert not train & dev and 0.04 < len(dev) / len(train | dev) < 0.18
    assert load_texts(str(folder)) == Texts(found.train, []), "dev texts are held back whether asked for or not"
    (folder / "a.txt").rename(folder / "z.txt")
    (folder / "new.txt").write_text("one more line of text", encoding="utf-8")
    assert set(found.dev) <= set(load_texts(str(folder), dev=True).dev), "by content, not by place"


def test_twins_of_a_text_are_one(tmp_path: Path) -> None:
    lines = [f"caf\u00e9 number {index}" for index in range(200)]
    twins = [line.replace("\u00e9", "e\u0301") for line in lines]
    (tmp_path / "a.txt").write_text("\n".join([*lines, *twins]), encoding="utf-8")
    found = load_texts(str(tmp_path), dev=True)
    train, dev = ({normalize(text) for text in part} for part in found)
    assert len(train | dev) == 200 and not train & dev and dev
    splits = cut_texts(found, 0, 20, 20)
    parts = [splits.train, splits.feedback, splits.selection, splits.dev]
    assert sum(len({normalize(text) for text in part}) for part in parts) == sum(map(len, parts)) == 200
    # Where no text has a twin, the same ones are held back as before.
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    alone = load_texts(str(tmp_path), dev=True)
    assert [int(text.split()[-1]) for text in alone.dev] == HELD_BACK


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    stored: dict[str, list[Any]] = {"train": ["a b", None, " ", "c d"], "test": ["e f"], "validation": ["g h"]}
    seen: list[tuple[str, str | None, str]] = []

    def load(path: str, name: str | None = None, *, split: str) -> Any:
        seen.append((path, name, split))
        return datasets.Dataset.from_dict({"text": stored[split], "size": list(range(len(stored[split])))})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name: list(stored))
    assert load_texts("org/data:small", column="text", dev=True) == Texts(["a b", "c d"], ["g h"])
    assert seen == [("org/data", "small", "train"), ("org/data", "small", "validation")]
    seen.clear()
    assert load_texts("org/data", column="text").dev == [] and seen == [("org/data", None, "train")]
    del stored["validation"], stored["test"]
    stored["train"] = sentences(200)
    held = load_texts("org/data", column="text", dev=True)
    assert 5 < len(held.dev) < 40 and not set(held.train) & set(held.dev)
    with pytest.raises(ValueError, match=r"column of org/data: 'txt'. Did you mean 'text'"):
        load_texts("org/data", column="txt")
    with pytest.raises(ValueError, match=r"'size' of 'org/data' holds 0; .* needs texts"):
        load_texts("org/data", column="size")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **b: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(ValueError, match=r"'org/data' from the hub: ConnectionError: no network.*folder of .txt"):
        load_texts("org/data", column="text")


def test_bad_sources(folder: Path, tmp_path: Path) -> None:
    empty, blank = tmp_path / "empty", tmp_path / "blank"
    for path in (empty, blank):
        path.mkdir()
    (empty / "data.csv").write_text("a,b")
    (blank / "a.txt").write_text("\n \n")
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "a.txt").write_bytes(b"caf\xe9\n")
    cases = [
        ({"source": str(empty)}, r"holds no .txt files \(it holds data.csv\)"),
        ({"source": str(blank)}, "1 .txt files .* blank lines alone"),
        ({"source": str(tmp_path / "latin")}, "no text in UTF-8"),
        ({"source": str(tmp_path / "absent")}, "no such folder"),
        ({"source": str(folder / "notes.md")}, "is a file; give the folder"),
        ({"source": "sst3"}, "'sst3'. Did you mean 'sst2'.*name of its text column"),
        ({"source": "toy", "column": "text"}, "column='text' is for data sets of the hub"),
        ({"source": []}, r"text=\[\]"),
        ({"source": ["toy", str(folder)], "data_dir": "glue"}, "data_dir='glue' is for GLUE tasks"),
        ({"source": ["toy", "toy"]}, "different ones"),
        ({"source": ""}, "text=''"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            load_texts(**options)


# -- the cut


def contains(long: str, short: str) -> bool:
    return f" {normalize(short)} " in f" {normalize(long)} "


def test_no_text_of_a_split_stands_in_another_one() -> None:
    texts = sentences(400)
    texts += [text.title() + " " for text in texts[:50]] + [" ".join(text.split()[:2]) for text in texts[100:200]]
    dev = [*sentences(40, seed=1), texts[0], texts[3] * 2]
    found = cut_texts(Texts(texts, dev), 0, 30, 20)
    assert (len(found.feedback), len(found.selection)) == (30, 20) and len(found.train) > 200
    parts = [found.train, found.feedback, found.selection]
    assert sum(map(len, parts)) + found.dropped == len(texts)
    forms = [normalize(text) for part in [*parts, found.dev] for text in part]
    assert len(set(forms)) == len(forms), "repeats"
    for index, part in enumerate(parts):
        others = [text for other in (*parts[:index], *parts[index + 1 :]) for text in other]
        for text in part if index else part[::7]:  # quadratic: some of train, all of the rest
            assert not any(contains(other, text) or (index and contains(text, other)) for other in others)
    assert found.dev, "most stand in no other text"
    for text in found.dev:
        assert not any(contains(other, text) for part in parts for other in part)
    assert texts[0] not in found.dev


def test_the_cut_is_a_function_of_texts_seed_and_sizes() -> None:
    texts = Texts(sentences(400), [])
    first, again, other = cut_texts(texts, 0, 20), cut_texts(texts, 0, 20), cut_texts(texts, 1, 20)
    assert first == again and first.fingerprint != other.fingerprint
    assert set(first.feedback) != set(other.feedback) and len(first.selection) == 20
    small = cut_texts(texts, 0, 20, None, 100)
    assert len(small.train) == 100 and set(small.train) <= set(first.train)
    assert small.fingerprint == first.fingerprint and small.feedback == first.feedback
    with_dev = cut_texts(Texts(texts.train, ["x y z"]), 0, 20)
    assert with_dev._replace(dev=[]) == first, "dev decides nothing"
    repeated = cut_texts(Texts([*texts.train, *texts.train], []), 0, 20)
    assert repeated._replace(dropped=0) == first._replace(dropped=0)


def test_too_few_texts() -> None:
    with pytest.raises(ValueError, match="2 different texts"):
        cut_texts(Texts(["a b", "c", "A  b"], []), 0)
    with pytest.raises(ValueError, match=r"feedback_rows=3.*has 4 rows"):
        cut_texts(Texts(["a", "b", "c", "d"], []), 0, 3)
    with pytest.raises(ValueError, match="max_train_rows=0"):
        cut_texts(Texts(sentences(50), []), 0, 2, 2, 0)


# -- tokens


@pytest.mark.filterwarnings("ignore:The tokenizer of .* reads about:UserWarning")
def test_texts_without_ordinary_tokens_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = pretrained.load_tokenizer(str(teacher_folder("toy")))
    facts = token_facts(tokenizer, "toy")
    assert facts.mask_id == tokenizer.mask_token_id and facts.mask_id in facts.special_ids
    assert tokenizer.unk_token_id in facts.special_ids
    both = np.concatenate([facts.special_ids, facts.candidates])
    assert sorted(both.tolist()) == list(range(len(tokenizer)))
    texts = ["the film was great", "unknownword", "the film", "[SEP] [MASK]"]
    with caplog.at_level(logging.WARNING):
        found = tokenize_texts(texts, tokenizer, facts, 16)
    assert found.kept.tolist() == [0, 2] and found.dropped == 2 and found.table.lengths.tolist() == [6, 4]
    assert "2 of 4 texts have fewer than 1 ordinary tokens" in caplog.text
    assert tokenize_texts(texts, tokenizer, facts, 16, at_least=3).kept.tolist() == [0]
    with pytest.raises(ValueError, match="None of 1 texts has 1 ordinary tokens"):
        tokenize_texts(["unknownword"], tokenizer, facts, 16)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="'toy' has no mask token"):
        token_facts(tokenizer, "toy")
