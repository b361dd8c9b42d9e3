"""The cut is disjoint in content, exact in size, stratified and reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kd_env.data.forms import normalize
from kd_env.data.label_noise import add_label_noise
from kd_env.data.loading import get_task, load_train
from kd_env.data.splits import Splits, cut, default_rows, sentence_groups
from kd_env.data.tasks import Rows


def _contained(inner: str, outer: str) -> bool:
    """Slow and obvious: the tokens of one text are a run within those of another."""
    a, b = normalize(inner).split(), normalize(outer).split()
    return any(b[i : i + len(a)] == a for i in range(len(b) - len(a) + 1))


def _singles(count: int = 300, seed: int = 0) -> Rows:
    """Sentences over a small vocabulary, of which many are parts of others."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(40)]
    texts: list[str] = []
    while len(texts) < count:
        tokens = [words[i] for i in rng.integers(len(words), size=rng.integers(5, 9))]
        texts.append(" ".join(tokens))
        if rng.random() < 0.7:
            start = int(rng.integers(len(tokens) - 2))
            texts.append(" ".join(tokens[start : start + 2]).upper() + "  ")  # case and spaces must not hide it
    texts = texts[:count]
    return Rows(texts, None, rng.integers(2, size=count))


def _check_partition(splits: Splits, total: int) -> None:
    parts = np.concatenate([splits.train, splits.feedback, splits.selection])
    assert len(np.unique(parts)) == len(parts) == total - splits.dropped
    assert all(part.dtype == np.int64 for part in splits[:3])


@pytest.mark.parametrize("seed", range(3))
def test_no_held_out_sentence_shares_content_with_any_other_split(seed: int) -> None:
    rows = _singles(seed=seed)
    splits = cut(rows, seed=seed, feedback_rows=25, selection_rows=20)
    assert (len(splits.feedback), len(splits.selection)) == (25, 20)
    _check_partition(splits, len(rows.first))
    assert splits.dropped > 0
    names = {"train": splits.train, "feedback": splits.feedback, "selection": splits.selection}
    for held in ("feedback", "selection"):
        for other in names.keys() - {held}:
            for row in names[held]:
                for place in names[other]:
                    one, two = rows.first[row], rows.first[place]
                    assert not _contained(one, two) and not _contained(two, one), (held, other, one, two)


def test_planted_leaks_never_reach_feedback_and_the_parts_of_a_held_out_row_are_dropped() -> None:
    base = [f"a{i} b{i} c{i} d{i}" for i in range(20)]
    leaks = [f"B{i}  c{i}" for i in range(20)]  # each inside one of base
    glued = [f"xb{i} c{i}" for i in range(20)]  # not inside: tokens are compared, not characters
    rows = Rows(base + leaks + glued, None, np.zeros(60, dtype=np.int64))
    splits = cut(rows, seed=3, feedback_rows=8, selection_rows=8)
    held = set(splits.feedback.tolist()) | set(splits.selection.tolist())
    assert held.isdisjoint(range(20, 40))
    dropped = set(range(60)) - held - set(splits.train.tolist())
    assert dropped == {row + 20 for row in held if row < 20}


def test_equal_sentences_and_empty_ones_are_never_held_out() -> None:
    texts = ["same words here", "Same  words here", "", *[f"u{i} v{i}" for i in range(10)]]
    rows = Rows(texts, None, np.zeros(13, dtype=np.int64))
    for seed in range(10):
        splits = cut(rows, seed=seed, feedback_rows=4, selection_rows=4)
        assert not {0, 1, 2} & {*splits.feedback.tolist(), *splits.selection.tolist()}


def _pairs(count: int = 400, seed: int = 0, shared: int = 150) -> Rows:
    rng = np.random.default_rng(seed)
    first = [f"premise {i}" for i in range(count)]
    second = [f"hypothesis {i}" for i in range(count)]
    for row in rng.integers(count, size=shared).tolist():
        second[row] = ("Premise  " if rng.random() < 0.5 else "hypothesis ") + str(int(rng.integers(count)))
    return Rows(first, second, rng.integers(3, size=count))


@pytest.mark.parametrize("seed", range(3))
def test_no_sentence_of_a_pair_stands_in_two_splits(seed: int) -> None:
    rows = _pairs(seed=seed)
    assert rows.second is not None
    splits = cut(rows, seed=seed)
    assert len(splits.feedback) == len(splits.selection) == default_rows(400) == 40
    _check_partition(splits, 400)
    sentences = [
        {normalize(text) for row in part for text in (rows.first[row], rows.second[row])} for part in splits[:3]
    ]
    assert not sentences[0] & sentences[1] and not sentences[0] & sentences[2] and not sentences[1] & sentences[2]


def test_groups_equal_a_search_of_the_graph() -> None:
    rows = _pairs(count=80, shared=50)
    assert rows.second is not None
    texts = [{normalize(a), normalize(b)} for a, b in zip(rows.first, rows.second, strict=True)]
    left, expected = set(range(80)), []
    while left:
        group, words = set(), set(texts[min(left)])
        while more := {row for row in left - group if texts[row] & words}:
            group |= more
            words = words.union(*(texts[row] for row in more))
        expected.append(sorted(group))
        left -= group
    forms = Rows(list(map(normalize, rows.first)), list(map(normalize, rows.second)), rows.labels)
    assert sorted(map(sorted, sentence_groups(forms))) == sorted(expected)


def test_sizes_are_exact_where_every_group_is_large() -> None:
    first = [f"premise {i // 3}" for i in range(90)]  # as MNLI: three hypotheses for a premise
    rows = Rows(first, [f"hypothesis {i}" for i in range(90)], np.arange(90) % 3)
    splits = cut(rows, seed=0, feedback_rows=10, selection_rows=7)
    assert (len(splits.feedback), len(splits.selection)) == (10, 7)
    _check_partition(splits, 90)
    held = {first[row] for row in (*splits.feedback, *splits.selection)}
    assert held.isdisjoint(first[row] for row in splits.train)


def test_stratified_by_label() -> None:
    labels = (np.arange(1000) < 130).astype(np.int64)
    rows = Rows([f"t{i}" for i in range(1000)], None, labels)
    splits = cut(rows, seed=0, feedback_rows=100, selection_rows=200)
    assert labels[splits.feedback].sum() == 13 and labels[splits.selection].sum() == 26


def test_stratified_by_quantile_for_scores() -> None:
    rng = np.random.default_rng(0)
    scores = (5 * rng.random(1000) ** 3).astype(np.float32)
    rows = Rows([f"a{i}" for i in range(1000)], [f"b{i}" for i in range(1000)], scores)
    splits = cut(rows, seed=0, feedback_rows=100, regression=True)
    median = np.median(scores)
    assert abs((scores[splits.feedback] > median).sum() - 50) <= 1


def test_seed_fixes_the_cut_and_the_train_limit_changes_only_train() -> None:
    rows = _singles()
    one, two = cut(rows, seed=5, feedback_rows=20), cut(rows, seed=5, feedback_rows=20, max_train_rows=50)
    three = cut(rows, seed=5, feedback_rows=20, max_train_rows=30)
    assert one.fingerprint == two.fingerprint and len(two.train) == 50
    assert np.array_equal(one.feedback, two.feedback) and np.array_equal(one.selection, two.selection)
    assert set(three.train) < set(two.train) < set(one.train)
    assert not np.array_equal(cut(rows, seed=6, feedback_rows=20).feedback, one.feedback)


def test_fingerprint_tells_content_seed_and_sizes_apart() -> None:
    rows = _singles()
    words = [*rows.first]
    words[7] += " more"
    flipped = rows.labels.copy()
    flipped[3] = 1 - flipped[3]
    prints = [
        cut(rows, seed=0, feedback_rows=20).fingerprint,
        cut(rows, seed=1, feedback_rows=20).fingerprint,
        cut(rows, seed=0, feedback_rows=21).fingerprint,
        cut(rows, seed=0, feedback_rows=20, selection_rows=19).fingerprint,
        cut(rows._replace(first=words), seed=0, feedback_rows=20).fingerprint,
        cut(rows._replace(labels=flipped), seed=0, feedback_rows=20).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert cut(rows, seed=0, feedback_rows=20).fingerprint == prints[0]


CAFE, CAFE_APART = "caf\u00e9 {}", "cafe\u0301 {}"
ALIKE = [
    (CAFE, CAFE_APART),  # composed and decomposed
    ("film {} ok", "film\u200b {}\u00ad ok"),  # no width, and a soft hyphen
    ("\ufb01lm {}", "film {}"),  # a ligature
    ("\uff46\uff49lm {}", "film {}"),  # full width
    ("stra\u00dfe {}", "STRASSE {}"),
    ("heart \u2764 {}", "heart \u2764\ufe0f {}"),  # a variation selector
    ("a\u3000b {}", "a b {}"),
    ("two\x00words {}", "twowords {}"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_texts_that_are_read_alike_are_one(one: str, other: str) -> None:
    assert normalize(one) == normalize(other) == normalize(normalize(other))


def test_texts_that_are_read_apart_are_two() -> None:
    apart = ["cafe", "caf\u00e9", "film", "filn", "a b", "ab", "x2", "x", "\u0431", "b"]
    assert len({normalize(text) for text in apart}) == len(apart)


@pytest.mark.parametrize(("one", "other"), ALIKE)
@pytest.mark.parametrize("pairs", [False, True])
def test_twins_never_stand_in_two_splits(one: str, other: str, pairs: bool) -> None:
    texts = [form.format(f"n{i}") for i in range(40) for form in (one, other)]
    alone = [f"alone {i}" for i in range(80)]
    second = [f"hypothesis {i}" for i in range(160)] if pairs else None
    rows = Rows([*texts, *alone], second, np.arange(160) // 2 % 2)
    splits = cut(rows, seed=0, feedback_rows=40, selection_rows=20)
    held = {*splits.feedback.tolist(), *splits.selection.tolist()}
    for row in range(0, 80, 2):
        twins = [[row in part.tolist(), row + 1 in part.tolist()] for part in splits[:3]]
        assert sum(map(any, twins)) <= 1, twins
    assert pairs or not held & set(range(80))


def test_the_fingerprint_of_former_versions_stays_where_the_split_does() -> None:
    assert cut(_singles(), seed=0, feedback_rows=20).fingerprint == "9e18bcc14e50b433"
    assert cut(_pairs(), seed=0).fingerprint == "37e1159e57deed60"
    texts = [f"row {i} of a text" for i in range(50)]
    labels = np.zeros(50, dtype=np.int64)
    changed = Rows([*texts[:-1], "the last one\u2026"], None, labels)  # another form, but no twin
    assert cut(changed, seed=0).fingerprint == "a844c59a7f89c719"
    twins = Rows([*texts[:-2], "the caf\u00e9", "the cafe\u0301"], None, labels)
    former = "2a16fcfc08a937a3"  # of a split with the row 48 in feedback
    splits = cut(twins, seed=0, feedback_rows=20, selection_rows=20)
    assert splits.fingerprint != former and not {48, 49} & {*splits.feedback.tolist(), *splits.selection.tolist()}


def test_too_few_rows_are_refused_with_the_numbers() -> None:
    rows = Rows([f"t{i}" for i in range(10)], None, np.zeros(10, dtype=np.int64))
    with pytest.raises(ValueError, match=r"feedback_rows=6.*10 rows"):
        cut(rows, seed=0, feedback_rows=6)
    with pytest.raises(ValueError, match="feedback_rows=0"):
        cut(rows._replace(first=rows.first[:5], labels=rows.labels[:5]), seed=0)  # 10% of 5 is nothing
    with pytest.raises(ValueError, match="max_train_rows=0"):
        cut(rows, seed=0, feedback_rows=2, max_train_rows=0)
    nested = Rows(["a " * i for i in range(1, 31)], None, np.zeros(30, dtype=np.int64))
    with pytest.raises(ValueError, match="no other row contains"):
        cut(nested, seed=0, feedback_rows=3)
    one_group = Rows(["same"] * 20, [f"h{i}" for i in range(20)], np.zeros(20, dtype=np.int64))
    with pytest.raises(ValueError, match="lower feedback_rows"):
        cut(one_group, seed=0, feedback_rows=3)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_label_noise_is_exact_and_stays_within_the_rows(fraction: float, classes: int) -> None:
    labels = np.random.default_rng(0).integers(classes, size=500)
    rows = np.arange(100, 433)
    before = labels.copy()
    noisy = add_label_noise(labels, rows, fraction, classes, seed=1)
    assert (noisy[rows] != labels[rows]).sum() == round(fraction * 333)
    rest = np.setdiff1d(np.arange(500), rows)
    assert np.array_equal(noisy[rest], labels[rest]) and np.array_equal(labels, before)
    assert set(noisy.tolist()) <= set(range(classes))
    assert np.array_equal(noisy, add_label_noise(labels, rows, fraction, classes, seed=1))


def test_wrong_labels_are_uniform_and_regression_is_refused() -> None:
    labels = np.zeros(3000, dtype=np.int64)
    counts = np.bincount(add_label_noise(labels, np.arange(3000), 1.0, 4, seed=0), minlength=4)
    assert counts[0] == 0 and counts[1:].min() > 900
    with pytest.raises(ValueError, match="regression"):
        add_label_noise(np.zeros(5, dtype=np.float32), np.arange(5), 0.2, 1, seed=0)
    with pytest.raises(ValueError, match=r"1\.5"):
        add_label_noise(labels, np.arange(5), 1.5, 2, seed=0)


def test_real_phrases_are_dropped_and_none_is_held_out(assets: Path) -> None:
    task = get_task("sst2")
    rows = load_train(task, str(assets / "glue"))
    splits = cut(rows, seed=0)
    _check_partition(splits, 67349)
    assert len(splits.feedback) == len(splits.selection) == 512
    assert 2000 < splits.dropped < 30000  # phrases of the held-out sentences
    rng = np.random.default_rng(0)
    train = [f" {normalize(rows.first[row])} " for row in splits.train]
    for row in rng.choice(np.concatenate([splits.feedback, splits.selection]), 25, replace=False):
        mine = f" {normalize(rows.first[row])} "
        assert not any(mine in other or other in mine for other in train), mine


@pytest.mark.parametrize("name", ["mrpc", "stsb", "rte"])
def test_real_pairs_share_no_sentence(assets: Path, name: str) -> None:
    task = get_task(name)
    rows = load_train(task, str(assets / "glue"))
    assert rows.second is not None
    splits = cut(rows, seed=0, regression=task.regression)
    _check_partition(splits, len(rows.first))
    held = {
        normalize(text) for row in (*splits.feedback, *splits.selection) for text in (rows.first[row], rows.second[row])
    }
    assert held.isdisjoint(normalize(text) for row in splits.train for text in (rows.first[row], rows.second[row]))
    feedback = {normalize(text) for row in splits.feedback for text in (rows.first[row], rows.second[row])}
    assert feedback.isdisjoint(normalize(t) for row in splits.selection for t in (rows.first[row], rows.second[row]))
