"""Sources of text for masked language modelling: sentences of tasks, folders of text files, data sets of the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_env.core.hub import hub_asked_once
from kd_env.core.registry import unknown_name
from kd_env.data.files.formats import open_text
from kd_env.data.forms import case_and_spaces, normalize
from kd_env.data.loading import load_dev, load_train
from kd_env.data.tasks import TASKS, Rows, Task, brings_rows

DEV_SHARE = 0.1
"""Share of different texts that are held back as dev where a source has no such split."""
_DEV_SPLITS = ("validation", "dev", "test")


class Texts(NamedTuple):
    """The texts of one or several sources, without blank ones."""

    train: list[str]
    dev: list[str]
    """Empty unless it was asked for. Only reports may ask."""


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
    names = source_names(source)
    kinds = [source_kind(name) for name in names]
    if column is not None and "hub" not in kinds:
        raise ValueError(
            f"column={column!r} is for data sets of the hub, and text={source!r} names none; leave it out."
        )
    check_data_dir(data_dir, names)
    loaded = [_load(name, kind, data_dir, column, dev) for name, kind in zip(names, kinds, strict=True)]
    train = _without_blanks(text for texts in loaded for text in texts.train)
    held_out = _without_blanks(text for texts in loaded for text in texts.dev)
    for split, texts in (("train", train), *((("dev", held_out),) if dev else ())):
        if not texts:
            raise ValueError(f"text={source!r} gives no {split} texts; give more lines.")
    return Texts(train, held_out)


def source_names(source: str | Sequence[str]) -> tuple[str, ...]:
    """One or several sources by name; raises ``ValueError`` for none, and for one that is named twice."""
    names = (source,) if isinstance(source, str) else tuple(source)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"text={source!r} must name a source of text, or be a list of different ones.")
    return names


def check_data_dir(data_dir: str | None, names: Sequence[str]) -> None:
    """Refuse a folder of tasks where no source of text has files in it; raises ``ValueError``."""
    if data_dir is not None and all(name not in TASKS or brings_rows(name) for name in names):
        text = names[0] if len(names) == 1 else list(names)
        raise ValueError(
            f"data_dir={data_dir!r} is for GLUE tasks and others in files, and text={text!r} names none; leave it out."
        )


def task_folder(name: str, data_dir: str | None) -> str | None:
    """``data_dir`` for a task in files; None for one that has none in it."""
    return None if brings_rows(name) else data_dir


def source_kind(name: str) -> str:
    """``task``, ``folder`` or ``hub``; raises ``ValueError`` for a file, and for a folder that is not there."""
    if name in TASKS:
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
    task = TASKS[name]
    data_dir = task_folder(name, data_dir)
    held = load_dev(task, data_dir).values() if dev else ()
    return Texts(task_texts(task, data_dir), [text for rows in held for text in _sentences(rows)])


def task_texts(task: Task, data_dir: str | None = None) -> list[str]:
    """The sentences of the train split of a task, both columns of pairs as texts of their own."""
    return _sentences(load_train(task, data_dir))


def _sentences(rows: Rows) -> list[str]:
    return [*rows.first, *(rows.second or ())]


def _folder(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"The folder {str(folder)!r} holds no .txt files (it holds {held}); each line of one is a text. With "
            "packing=true students read .jsonl, .parquet, .arrow and .feather files, too."
        )
    lines: list[str] = []
    for path in files:
        try:
            with open_text(path) as text:
                lines += text
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}.") from error
    if not any(line.strip() for line in lines):
        raise ValueError(
            f"The {len(files)} .txt files of {str(folder)!r} hold blank lines alone; write one text a line."
        )
    return lines


def _hub(name: str, column: str | None, dev: bool) -> Texts:
    if column is None:
        raise ValueError(
            unknown_name("text source", name, TASKS)
            + " A folder of .txt files is a source, too; a data set of the hub needs the name of its text column."
        )
    from datasets import get_dataset_split_names, load_dataset

    path, _, configuration = name.partition(":")
    try:
        with hub_asked_once():
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
    """Train and, where asked for, dev by the hash of each text; equal texts go the way of the first one."""
    limit, firsts = int(DEV_SHARE * 2**32), dict[str, str]()
    hashed = (firsts.setdefault(normalize(text), case_and_spaces(text)) for text in texts)
    held = [
        int.from_bytes(hashlib.sha256(form.encode("utf-8", "surrogatepass")).digest()[:4], "big") < limit
        for form in hashed
    ]
    pairs = list(zip(texts, held, strict=True))
    return Texts([text for text, out in pairs if not out], [text for text, out in pairs if out and dev])


def _without_blanks(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]
