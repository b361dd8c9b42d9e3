"""Files of answers: what an LLM, an ensemble or anybody else has said about the rows of a task, by row id.

Tables (parquet, csv, tsv, jsonl) have a column ``id`` and, for each label, a column ``probability.<label>`` or
``logit.<label>`` (of a task of scores one column ``score``); other columns are passed over. ``.npz`` files have the
arrays ``ids [R]`` and ``labels [C]``, both of texts, and ``probabilities [R, C]`` or ``logits [R, C]`` (of a task of
scores ``scores [R]``, and no labels). Rows may stand in any order, and those that nobody asks for may be there, too.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_env.data.files.formats import read_tables
from kd_env.data.files.places import FORMATS
from kd_env.data.tasks import Rows, Task
from kd_env.teachers.answers.row_ids import row_ids
from kd_env.teachers.answers.values import KINDS, Answers, as_logits, shown_ids

ARRAYS = ".npz"
ENDINGS = (*FORMATS, ARRAYS)
_COLUMNS = {"probability.": "probabilities", "logit.": "logits"}
_SHOWN = 3


class AnswerFile:
    """A file of answers, read once.

    Args:
        path: of the file.
        task: gives the labels.

    Raises:
        ValueError: a file that cannot be read, a row twice, or answers as :func:`as_logits` refuses them.
    """

    def __init__(self, path: str | Path, task: Task) -> None:
        self.source = f"The file of answers {str(path)!r}"
        ids, answers = _read(Path(path), self.source)
        if not ids:
            raise ValueError(f"{self.source} holds no rows.")
        if len(answers.values) != len(ids):
            raise ValueError(f"{self.source} has {len(ids)} ids and answers of {len(answers.values)} rows.")
        self._logits = as_logits(answers, task, self.source, lambda rows: [ids[row] for row in rows.tolist()])
        self._places = {name: place for place, name in enumerate(ids)}
        if len(self._places) < len(ids):
            twice = next(name for place, name in enumerate(ids) if self._places[name] != place)
            raise ValueError(f"{self.source} answers the row {twice!r} twice; leave one of the answers out.")

    @property
    def fitted_here(self) -> bool:
        """False: nobody knows which rows those who answered had seen."""
        return False

    def logits(self, rows: Rows, split: str, index: np.ndarray) -> np.ndarray:
        """Answers ``[R, C]`` to rows ``index [R]`` of a split.

        Args:
            rows: all rows of the split.
            split: ``train`` or the name of a dev split.
            index: numbers of the rows.

        Raises:
            ValueError: rows that are not there: how many, the first ids, and whether another text has their number.
        """
        names = row_ids(rows, split, index)
        missing = [name for name in names if name not in self._places]
        if missing:
            raise ValueError(self._lacks(missing, len(names), split))
        return self._logits[[self._places[name] for name in names]]

    def _lacks(self, missing: Sequence[str], count: int, split: str) -> str:
        numbers = {name.rsplit(":", 1)[0] for name in self._places}
        other = sum(name.rsplit(":", 1)[0] in numbers for name in missing)
        changed = (
            f" To {other} of them it has answers of other texts: the data files have changed since, or are of another "
            "data set."
            if other
            else ""
        )
        return (
            f"{self.source} lacks answers to {len(missing)} of {count} rows of the {split} split: "
            f"{shown_ids(missing[:_SHOWN], len(missing))}.{changed} `kd-env teacher rows=<file.parquet>` with the same "
            "task options writes the ids and texts of all rows that are asked for."
        )


def _read(path: Path, source: str) -> tuple[list[str], Answers]:
    if path.suffix not in ENDINGS:
        raise ValueError(f"{source} has the ending {path.suffix!r}; allowed are {', '.join(ENDINGS)}.")
    if not path.is_file():
        raise ValueError(f"{source} is not there; check the path.")
    return _arrays(path, source) if path.suffix == ARRAYS else _table(path, source)


def _arrays(path: Path, source: str) -> tuple[list[str], Answers]:
    try:
        with np.load(path, allow_pickle=False) as opened:
            held = {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{source} cannot be read as npz ({' '.join(str(error).split())}); write it with np.savez, texts as "
            "np.array(texts, dtype=str), since objects would have to be unpickled."
        ) from error
    kinds = [kind for kind in KINDS if kind in held]
    if len(kinds) != 1 or "ids" not in held:
        raise ValueError(
            f"{source} has the arrays {sorted(held)}; it needs ids, and one of {', '.join(KINDS)} (with labels)."
        )
    [kind] = kinds
    if kind != "scores" and "labels" not in held:
        raise ValueError(
            f"{source} has no array labels: which column stands for which label cannot be established. Add labels, the "
            "names in the order of the columns."
        )
    labels = None if kind == "scores" else _texts(held["labels"], "labels", source)
    return list(_texts(held["ids"], "ids", source)), Answers(kind, labels, held[kind])


def _texts(array: np.ndarray, name: str, source: str) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(
            f"{source}: the array {name} is {array.dtype} of the shape {list(array.shape)}; it must be a list of "
            "texts, np.array(texts, dtype=str)."
        )
    return tuple(str(text) for text in array)


def _table(path: Path, source: str) -> tuple[list[str], Answers]:
    columns = read_tables([path]).columns
    if "id" not in columns:
        raise ValueError(f"{source} has no column id; its columns: {', '.join(columns) or '(none)'}.")
    faulty = next((value for value in columns["id"] if not isinstance(value, str)), None)
    if faulty is not None or None in columns["id"]:
        raise ValueError(f"{source}: the column id holds {faulty!r}; ids are texts such as 'train:17:3fa9c2d1'.")
    named = {
        kind: {name.removeprefix(prefix): name for name in columns if name.startswith(prefix)}
        for prefix, kind in _COLUMNS.items()
    }
    found = [kind for kind, labels in named.items() if labels] + ["scores"] * ("score" in columns)
    if len(found) != 1:
        raise ValueError(
            f"{source} has {' and '.join(found) or 'no answers'}; it needs, beside id, a column probability.<label> or "
            f"logit.<label> for each label, or for scores one column score. Its columns: {', '.join(columns)}."
        )
    [kind] = found
    labels = named.get(kind)
    values = [_numbers(columns[name], name, columns["id"], source) for name in (labels or {"": "score"}).values()]
    return columns["id"], Answers(kind, tuple(labels) if labels else None, np.stack(values, axis=1))


def _numbers(values: list[Any], name: str, ids: Sequence[str], source: str) -> np.ndarray:
    try:
        return np.array([float(value) for value in values])
    except (TypeError, ValueError):
        place = next(place for place, value in enumerate(values) if not _is_number(value))
        raise ValueError(
            f"{source}: the column {name!r} holds {values[place]!r} for the row {ids[place]!r}; every row that is "
            "there needs a number."
        ) from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
