"""Text for masked language modelling: sentences of tasks, folders of text files, data sets of the hub; and its cut.

The train texts are cut into train, feedback and selection by the rules for single sentences of
:mod:`kd_env.data.splits`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_env.core.registry import unknown_name
from kd_env.data.loading import load_dev, load_train
from kd_env.data.masking import ordinary_tokens
from kd_env.data.splits import TokenIndex, cut, normalize
from kd_env.data.tables import Table, tokenize
from kd_env.data.tasks import EMBEDDED, GLUE, Rows

log = logging.getLogger(__name__)

DEV_SHARE = 0.1
"""Share of different texts that are held back as dev where a source has no such split."""
_DEV_SPLITS = ("validation", "dev", "test")


class Texts(NamedTuple):
    """The texts of one or several sources, without blank ones."""

    train: list[str]
    dev: list[str]
    """Empty unless it was asked for. Only reports may ask."""


class TextSplits(NamedTuple):
    """Texts without repeats (in the form that :func:`kd_env.data.splits.normalize` gives), disjoint in content."""

    train: list[str]
    feedback: list[str]  # in random order: any prefix is a random sample
    selection: list[str]  # in random order
    dev: list[str]
    dropped: int  # train texts that are repeats or share content with feedback or selection
    fingerprint: str  # 16 hex digits; equal where texts, seed and the sizes of feedback and selection are


class TokenFacts(NamedTuple):
    """What masking has to know of a tokenizer."""

    special_ids: np.ndarray  # [*] int64, never masked; the unknown token among them
    mask_id: int
    candidates: np.ndarray  # [*] int64, the ordinary tokens of the vocabulary


class TokenizedTexts(NamedTuple):
    """Texts as tokens, without those that have too few ordinary ones."""

    table: Table
    kept: np.ndarray  # [R] int64, places of the table's rows in the list that was given
    dropped: int


def load_texts(
    source: str | Sequence[str], *, data_dir: str | None = None, column: str | None = None, dev: bool = False
) -> Texts:
    """The texts that ``source`` names, blank ones dropped.

    Args:
        source: ``toy`` or ``toy_pair`` (the sentences of its grammar); a GLUE task (the sentences of its train split,
            both columns of pairs as texts of their own); a folder of ``.txt`` files with one text a line; or a data set
            of the hub, ``name`` or ``name:configuration``. Several are put together.
        data_dir: of GLUE tasks, as in :func:`kd_env.data.loading.load_train`.
        column: of data sets of the hub, the column that holds the text.
        dev: whether to load the dev texts as well: the official dev split of a task, the validation (else test) split
            of a data set. Where there is none, 10% of the texts are held back by their content, whether asked for or
            not: the same text is never in both. Only reports may ask: no reward or feature can reach dev texts.

    Raises:
        ValueError: no such source, an empty folder or source, or a column that is missing or of no use.
    """
    names = (source,) if isinstance(source, str) else tuple(source)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"text={source!r} must name a source of text, or be a list of different ones.")
    kinds = [_kind(name) for name in names]
    if column is not None and "hub" not in kinds:
        raise ValueError(
            f"column={column!r} is for data sets of the hub, and text={source!r} names none; leave it out."
        )
    loaded = [_load(name, kind, data_dir, column, dev) for name, kind in zip(names, kinds, strict=True)]
    train = _without_blanks(text for texts in loaded for text in texts.train)
    held_out = _without_blanks(text for texts in loaded for text in texts.dev)
    for split, texts in (("train", train), *((("dev", held_out),) if dev else ())):
        if not texts:
            raise ValueError(f"text={source!r} gives no {split} texts; give more lines.")
    return Texts(train, held_out)


def cut_texts(
    texts: Texts,
    split_seed: int,
    feedback_rows: int | None = None,
    selection_rows: int | None = None,
    max_train_rows: int | None = None,
) -> TextSplits:
    """Cut train texts into train, feedback and selection, none of which holds a text that stands in another one's.

    Repeats (after :func:`kd_env.data.splits.normalize`) are dropped first; then the rules of
    :func:`kd_env.data.splits.cut` for single sentences hold. Dev texts that stand whole in a text of the other splits
    are dropped; the other way round a short train text (SST-2 holds phrases) may stand in a dev text, since train must
    not depend on dev.

    Args:
        texts: from :func:`load_texts`.
        split_seed: of the cut.
        feedback_rows: size of feedback; None: min(512, 10% of the different texts).
        selection_rows: size of selection; None: as ``feedback_rows``.
        max_train_rows: upper limit of train texts, a random subset taken after the cut.

    Raises:
        ValueError: too few texts for these sizes.
    """
    unique = list({normalize(text): text for text in reversed(texts.train)}.values())[::-1]
    if len(unique) < 3:
        raise ValueError(f"There are {len(unique)} different texts; train, feedback and selection need at least 3.")
    splits = cut(
        Rows(unique, None, np.zeros(len(unique), dtype=np.int64)),
        seed=split_seed,
        feedback_rows=feedback_rows,
        selection_rows=selection_rows,
        max_train_rows=max_train_rows,
    )
    train, feedback, selection = (
        [unique[row] for row in rows.tolist()] for rows in (splits.train, splits.feedback, splits.selection)
    )
    return TextSplits(
        train=train,
        feedback=feedback,
        selection=selection,
        dev=_outside({normalize(text): text for text in texts.dev}, (train, feedback, selection)),
        dropped=splits.dropped + len(texts.train) - len(unique),
        fingerprint=splits.fingerprint,
    )


def token_facts(tokenizer: Any, source: str) -> TokenFacts:
    """What masking has to know of ``tokenizer``, which comes from ``source``.

    Raises:
        ValueError: it has no mask token, no padding token, or no ordinary token.
    """
    for kind in ("mask", "pad"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise ValueError(
                f"The tokenizer of {source!r} has no {kind} token, which masked language modelling needs; give an "
                "encoder such as BERT, whose tokenizer has one."
            )
    special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
    candidates = np.setdiff1d(np.arange(len(tokenizer), dtype=np.int64), special)
    if len(candidates) == 0:
        raise ValueError(f"The tokenizer of {source!r} has special tokens alone; give one with a vocabulary.")
    return TokenFacts(special, int(tokenizer.mask_token_id), candidates)


def tokenize_texts(
    texts: Sequence[str], tokenizer: Any, facts: TokenFacts, max_length: int, *, at_least: int = 1
) -> TokenizedTexts:
    """Texts as tokens on the host, where they are masked; those with too few ordinary tokens are dropped, and counted.

    Args:
        texts: at least one.
        tokenizer: a Hugging Face tokenizer.
        facts: from :func:`token_facts`.
        max_length: tokens a text is cut to, specials included.
        at_least: ordinary tokens that a text needs.

    Raises:
        ValueError: no text is left.
    """
    host = torch.device("cpu")

    def table(chosen: Sequence[str]) -> Table:
        rows = Rows(list(chosen), None, np.zeros(len(chosen), dtype=np.int64))
        return tokenize(rows, tokenizer, max_length, host, torch.float32)

    tokenized = table(texts)
    ids = tokenized.input_ids.numpy()
    ordinary = ordinary_tokens(ids, np.arange(ids.shape[1]) < tokenized.lengths[:, None], facts.special_ids)
    kept_rows = np.flatnonzero(ordinary.sum(axis=1) >= at_least)
    dropped = len(texts) - len(kept_rows)
    if len(kept_rows) == 0:
        raise ValueError(
            f"None of {len(texts)} texts has {at_least} ordinary tokens within max_length={max_length}; give longer "
            "texts, a tokenizer that knows their words, or a larger max_length."
        )
    if dropped:
        log.warning("%d of %d texts have fewer than %d ordinary tokens and are dropped.", dropped, len(texts), at_least)
        tokenized = table([texts[row] for row in kept_rows.tolist()])
    return TokenizedTexts(tokenized, kept_rows.astype(np.int64), dropped)


# -- sources -----------------------------------------------------------------------------------------------------------


def _kind(name: str) -> str:
    if name in EMBEDDED or name in GLUE:
        return "task"
    path = Path(name).expanduser()
    if path.is_dir():
        return "folder"
    if path.exists():
        raise ValueError(f"text={name!r} is a file; give the folder that holds it, with one text a line in .txt files.")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"text={name!r}: there is no such folder; check the path.")
    return "hub"


def _load(name: str, kind: str, data_dir: str | None, column: str | None, dev: bool) -> Texts:
    if kind == "hub":
        return _hub(name, column, dev)
    if kind == "folder":
        return _held_back(_folder(Path(name).expanduser()), dev)
    task = {**EMBEDDED, **GLUE}[name]
    held = load_dev(task, data_dir).values() if dev else ()
    return Texts(_sentences(load_train(task, data_dir)), [text for rows in held for text in _sentences(rows)])


def _sentences(rows: Rows) -> list[str]:
    return [*rows.first, *(rows.second or ())]


def _folder(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"The folder {str(folder)!r} holds no .txt files (it holds {held}); each line of one is a text."
        )
    lines: list[str] = []
    for path in files:
        try:
            # Not splitlines: it also breaks at rare characters, such as U+2028, that stand inside of texts.
            lines += path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error}); convert it.") from error
    if not any(line.strip() for line in lines):
        raise ValueError(
            f"The {len(files)} .txt files of {str(folder)!r} hold blank lines alone; write one text a line."
        )
    return lines


def _hub(name: str, column: str | None, dev: bool) -> Texts:
    if column is None:
        raise ValueError(
            unknown_name("text source", name, (*EMBEDDED, *GLUE))
            + " A folder of .txt files is a source, too; a data set of the hub needs the name of its text column."
        )
    from datasets import get_dataset_split_names, load_dataset

    path, _, configuration = name.partition(":")
    try:
        splits = get_dataset_split_names(path, configuration or None)
        dev_split = next((split for split in _DEV_SPLITS if split in splits), None)
        wanted = ("train", dev_split) if dev and dev_split is not None else ("train",)
        loaded = [load_dataset(path, configuration or None, split=split) for split in wanted]
    except Exception as error:  # many libraries fail here in their own ways; the cause is kept
        raise ValueError(
            f"Could not read the data set {name!r} from the hub: {type(error).__name__}: {error}. Without a network, "
            "give a folder of .txt files."
        ) from error
    texts = [_column(name, data, column) for data in loaded]
    return _held_back(texts[0], dev) if dev_split is None else Texts(texts[0], texts[1] if len(texts) > 1 else [])


def _column(name: str, data: Any, column: str) -> list[str]:
    if column not in data.column_names:
        raise ValueError(unknown_name(f"column of {name}:", column, data.column_names))
    values: list[Any] = data[column][:]
    wrong = next((value for value in values if value is not None and not isinstance(value, str)), None)
    if wrong is not None:
        raise ValueError(f"The column {column!r} of {name!r} holds {wrong!r}; masked language modelling needs texts.")
    return [value for value in values if value is not None]


def _held_back(texts: Sequence[str], dev: bool) -> Texts:
    """Train and, where asked for, dev by the hash of each text: equal texts go the same way."""
    limit = int(DEV_SHARE * 2**32)
    held = [
        int.from_bytes(hashlib.sha256(normalize(text).encode("utf-8", "surrogatepass")).digest()[:4], "big") < limit
        for text in texts
    ]
    pairs = list(zip(texts, held, strict=True))
    return Texts([text for text, out in pairs if not out], [text for text, out in pairs if out and dev])


def _without_blanks(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]


def _outside(dev: dict[str, str], splits: Sequence[Sequence[str]]) -> list[str]:
    """Dev texts, by their normal forms, that stand in no text of the other splits."""
    if not dev:
        return []
    forms = [normalize(text) for split in splits for text in split]
    index = TokenIndex(forms, range(len(forms)))
    return [text for form, text in dev.items() if next(index.containing(form), None) is None]
