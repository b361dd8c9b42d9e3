"""Train, feedback and selection, cut from the official train split: disjoint in content, not only in rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kd_env.data.forms import case_and_spaces, normalize
from kd_env.data.tasks import Rows

_DEFAULT_ROWS = 512
_BINS = 10  # quantile bins that stratify a regression task


class Splits(NamedTuple):
    """Row indices into the official train split, and what identifies the cut."""

    train: np.ndarray  # [rows] int64, ascending
    feedback: np.ndarray  # [rows] int64, in random order: any prefix is a random sample
    selection: np.ndarray  # [rows] int64, in random order
    dropped: int  # rows in no split because they share content with feedback or selection
    content_hash: str  # of the official train split
    fingerprint: str  # 16 hex digits; equal where the rows, the seed and the sizes of feedback and selection are


def default_rows(total: int) -> int:
    """Rows of feedback and of selection where the user names none: min(512, 10% of the official train split)."""
    return min(_DEFAULT_ROWS, total // 10)


def cut(
    rows: Rows,
    *,
    seed: int,
    feedback_rows: int | None = None,
    selection_rows: int | None = None,
    max_train_rows: int | None = None,
    regression: bool = False,
) -> Splits:
    """Cut the official train split, stratified by label (regression: by ten quantile bins).

    Sentence pairs are cut by connected groups of shared sentences; a group goes to one split as a whole, and where one
    has to be broken to reach the exact size, its other rows are dropped. Single sentences: feedback and selection come
    from rows that no other row contains, at token boundaries, and train rows inside one of them are dropped. So no
    feedback row is contained in, contains or equals a train or selection row. Rows are compared in the form that
    :func:`kd_env.data.forms.normalize` gives.

    Args:
        rows: the official train split.
        seed: of the cut; the same seed gives the same cut.
        feedback_rows: size of feedback; None: :func:`default_rows`.
        selection_rows: size of selection; None: as ``feedback_rows``.
        max_train_rows: upper limit of train rows, a random subset taken after the cut; a smaller limit gives a subset
            of a larger one. It does not enter the fingerprint: feedback stays as unseen as it was.
        regression: whether labels are scores.

    Raises:
        ValueError: too few rows, or too few of a label that share no content with others.
    """
    total = len(rows.first)
    feedback_size = default_rows(total) if feedback_rows is None else feedback_rows
    selection_size = feedback_size if selection_rows is None else selection_rows
    if feedback_size < 1 or selection_size < 1 or feedback_size + selection_size >= total:
        raise ValueError(
            f"feedback_rows={feedback_size} and selection_rows={selection_size} must each be at least 1 and leave "
            f"train rows, but the official train split has {total} rows; lower them or give more rows."
        )
    if max_train_rows is not None and max_train_rows < 1:
        raise ValueError(f"max_train_rows={max_train_rows} must be at least 1, or None.")
    strata = _quantile_bins(rows.labels) if regression else rows.labels

    def choose(forms: Rows) -> tuple[Chosen, np.random.Generator]:
        rng = np.random.default_rng([seed, 0])
        quotas = _quota(strata, feedback_size), _quota(strata, selection_size)
        chooser = _choose_single if rows.second is None else _choose_pairs
        return chooser(forms, strata, quotas, rng), rng

    forms = _in_form(rows, normalize)
    chosen, rng = choose(forms)
    feedback, selection, dropped = chosen
    keep = np.ones(total, dtype=bool)
    keep[feedback] = keep[selection] = keep[dropped] = False
    train = np.flatnonzero(keep)
    if len(train) == 0:
        raise ValueError(
            f"No train rows are left: all {total} rows share content with the {feedback_size} feedback or "
            f"{selection_size} selection rows; lower feedback_rows and selection_rows."
        )
    if max_train_rows is not None:
        order = np.random.default_rng([seed, 1]).permutation(train)
        train = np.sort(order[:max_train_rows])
    return Splits(
        train.astype(np.int64),
        rng.permutation(np.asarray(feedback, dtype=np.int64)),
        rng.permutation(np.asarray(selection, dtype=np.int64)),
        len(dropped),
        content_hash(rows),
        _fingerprint(rows, seed, feedback_size, selection_size, _edition(rows, forms, choose, chosen)),
    )


def _in_form(rows: Rows, form: Callable[[str], str]) -> Rows:
    second = None if rows.second is None else [form(text) for text in rows.second]
    return Rows([form(text) for text in rows.first], second, rows.labels)


def _edition(
    rows: Rows, forms: Rows, choose: Callable[[Rows], tuple[Chosen, np.random.Generator]], chosen: Chosen
) -> int:
    """1 where earlier versions cut the rows in the same way, else 2: they compared them in another form.

    So teachers keep the fingerprint of their split wherever it is the same split, and nowhere else.
    """
    former = _in_form(rows, case_and_spaces)
    if former[:2] == forms[:2]:
        return 1
    try:
        return 1 if choose(former)[0] == chosen else 2
    except ValueError:  # then nothing was made from this split
        return 2


def _quantile_bins(scores: np.ndarray) -> np.ndarray:
    edges = np.quantile(scores, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.searchsorted(edges, scores, side="right").astype(np.int64)


def _quota(strata: np.ndarray, size: int) -> dict[int, int]:
    """Rows per stratum that add up to ``size``, by largest remainders."""
    values, counts = np.unique(strata, return_counts=True)
    shares = counts * (size / len(strata))
    quota = np.floor(shares).astype(np.int64)
    largest = np.argsort(quota - shares, kind="stable")[: size - int(quota.sum())]
    quota[largest] += 1
    return dict(zip(values.tolist(), quota.tolist(), strict=True))


Chosen = tuple[list[int], list[int], list[int]]  # feedback, selection, dropped
Quotas = tuple[dict[int, int], dict[int, int]]  # rows still needed per stratum, for feedback and for selection


# -- sentence pairs ----------------------------------------------------------------------------------------------------


def _choose_pairs(rows: Rows, strata: np.ndarray, quotas: Quotas, rng: np.random.Generator) -> Chosen:
    groups = sentence_groups(rows)
    order = rng.permutation(len(groups)).tolist()
    taken: set[int] = set()
    chosen: tuple[list[int], list[int]] = ([], [])
    dropped: list[int] = []
    label = strata.tolist()
    for need, split in zip(quotas, chosen, strict=True):
        for index in order:  # whole groups that fit into what is still needed
            if not any(need.values()):
                break
            counts = Counter(label[row] for row in groups[index])
            if index not in taken and all(need[value] >= count for value, count in counts.items()):
                taken.add(index)
                split.extend(groups[index])
                for value, count in counts.items():
                    need[value] -= count
        for index in sorted((i for i in order if i not in taken), key=lambda i: len(groups[i])):  # break small ones
            if not any(need.values()):
                break
            if not any(need[label[row]] for row in groups[index]):
                continue
            taken.add(index)
            for row in groups[index]:
                if need[label[row]]:
                    need[label[row]] -= 1
                    split.append(row)
                else:
                    dropped.append(row)
        _check_filled(need, "rows")
    return chosen[0], chosen[1], dropped


def sentence_groups(rows: Rows) -> list[list[int]]:
    """Rows connected through equal sentences, by union-find; each group ascending."""
    assert rows.second is not None
    parent: list[int] = []
    places: dict[str, int] = {}

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    ends: list[int] = []
    for pair in zip(rows.first, rows.second, strict=True):
        nodes = [places.setdefault(text, len(places)) for text in pair]
        parent.extend(range(len(parent), len(places)))
        left, right = root(nodes[0]), root(nodes[1])
        parent[max(left, right)] = min(left, right)
        ends.append(nodes[0])
    groups: dict[int, list[int]] = {}
    for row, node in enumerate(ends):
        groups.setdefault(root(node), []).append(row)
    return list(groups.values())


# -- single sentences --------------------------------------------------------------------------------------------------


def _choose_single(rows: Rows, strata: np.ndarray, quotas: Quotas, rng: np.random.Generator) -> Chosen:
    texts = rows.first
    index = TokenIndex(texts, range(len(texts)))
    label = strata.tolist()
    feedback_need, selection_need = quotas
    feedback: list[int] = []
    selection: list[int] = []
    for row in rng.permutation(len(texts)).tolist():
        value = label[row]
        if not feedback_need[value] and not selection_need[value]:
            continue  # most rows of a large task end here, unexamined
        if next(index.containing(texts[row], apart_from=row), None) is not None:
            continue
        need, split = (feedback_need, feedback) if feedback_need[value] else (selection_need, selection)
        need[value] -= 1
        split.append(row)
    _check_filled(feedback_need, "rows that no other row contains")
    _check_filled(selection_need, "rows that no other row contains")
    held_out = feedback + selection
    inside = TokenIndex(texts, held_out)
    held = set(held_out)
    candidates = (row for row in range(len(texts)) if row not in held)
    dropped = [row for row in candidates if next(inside.containing(texts[row]), None) is not None]
    return feedback, selection, dropped


class TokenIndex:
    """Finds the texts that contain a given one, looking only at those that share its rarest token."""

    def __init__(self, texts: Sequence[str], rows: Sequence[int]) -> None:
        self._padded = {row: f" {texts[row]} " for row in rows}
        self._rows_with: dict[str, list[int]] = {}
        for row in rows:
            for token in set(texts[row].split()):
                self._rows_with.setdefault(token, []).append(row)

    def containing(self, text: str, apart_from: int | None = None) -> Iterator[int]:
        """Rows whose text contains ``text`` as a run of whole tokens."""
        tokens = text.split()
        if tokens:
            candidates: Sequence[int] = min((self._rows_with.get(token, []) for token in tokens), key=len)
        else:
            candidates = list(self._padded)  # an empty text is contained in every other
        needle = f" {text} " if tokens else ""
        for row in candidates:
            if row != apart_from and needle in self._padded[row]:
                yield row


def _check_filled(need: dict[int, int], what: str) -> None:
    missing = {value: count for value, count in need.items() if count}
    if missing:
        words = ", ".join(f"{count} more with label (or score bin) {value}" for value, count in missing.items())
        raise ValueError(f"Too few {what}: {words} needed; lower feedback_rows and selection_rows.")


def content_hash(rows: Rows) -> str:
    """16 hex digits that are equal where the texts and labels of rows are, and their order."""
    return _hash(rows, "kd-env rows 1|")


def _fingerprint(rows: Rows, seed: int, feedback_size: int, selection_size: int, edition: int) -> str:
    return _hash(rows, f"kd-env splits {edition}|{seed}|{feedback_size}|{selection_size}|")


def _hash(rows: Rows, about: str) -> str:
    digest = hashlib.sha256(about.encode())
    columns = [rows.first] if rows.second is None else [rows.first, rows.second]
    for column in columns:
        for text in column:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data))  # lengths keep "ab","c" apart from "a","bc"
            digest.update(data)
        digest.update(b"|")
    digest.update(str(rows.labels.dtype).encode() + np.ascontiguousarray(rows.labels).tobytes())
    return digest.hexdigest()[:16]
