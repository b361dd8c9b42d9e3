"""The rows of a task as a file of texts, for whoever answers to them in the place of an encoder."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_env.data import splits
from kd_env.data.loading import get_task, load_train
from kd_env.data.tasks import Rows
from kd_env.evaluation.judging.dev import dev_texts
from kd_env.teachers.answers.row_ids import TRAIN, row_ids
from kd_files.writing import atomic_write

ENDING = ".parquet"


def write_rows(
    path: str | Path,
    task: str,
    *,
    data_dir: str | None = None,
    columns: Mapping[str, Any] | None = None,
    split_seed: int = 0,
    feedback_rows: int | None = None,
    selection_rows: int | None = None,
    max_train_rows: int | None = None,
) -> dict[str, int]:
    """Write ids and texts of all rows that a teacher is asked about in these options; how many of each part.

    The parquet file has the columns ``id``, ``part`` (``train``, ``feedback``, ``selection`` or a dev split), ``text``
    and, of pairs, ``text_pair``; no labels. An answer that is learned may learn from ``train`` alone: feedback and
    selection rows judge students and teachers.

    Args:
        path: ends in ``.parquet``.
        task: name of the task; the other options are those of the environments.
        data_dir: folder of its files.
        columns: of ``task="custom"``.
        split_seed: of the cut.
        feedback_rows: size of feedback.
        selection_rows: size of selection.
        max_train_rows: upper limit of train rows.

    Raises:
        ValueError: another ending, or a task that cannot be read or cut.
    """
    path = Path(path)
    if path.suffix != ENDING or not path.parent.is_dir():
        raise ValueError(f"rows={str(path)!r} must be a file that ends in {ENDING}, in a folder that is there.")
    described = get_task(task, columns, data_dir)
    rows = load_train(described, data_dir)
    cut = splits.cut(
        rows,
        seed=split_seed,
        feedback_rows=feedback_rows,
        selection_rows=selection_rows,
        max_train_rows=max_train_rows,
        regression=described.regression,
    )
    parts = [("train", TRAIN, rows, cut.train), ("feedback", TRAIN, rows, cut.feedback)]
    parts.append(("selection", TRAIN, rows, cut.selection))
    for split, texts in dev_texts(described, data_dir).items():
        parts.append((split, split, texts, np.arange(len(texts.labels))))
    table: dict[str, list[str]] = {}
    for part, split, texts, index in parts:
        for name, values in _columns(part, split, texts, index).items():
            table.setdefault(name, []).extend(values)
    _write(path, table)
    return {part: len(index) for part, _, _, index in parts}


def _columns(part: str, split: str, rows: Rows, index: np.ndarray) -> dict[str, list[str]]:
    """The columns of one part."""
    numbers = index.tolist()
    columns = {"id": row_ids(rows, split, index), "part": [part] * len(numbers)}
    columns["text"] = [rows.first[row] for row in numbers]
    return columns if rows.second is None else {**columns, "text_pair": [rows.second[row] for row in numbers]}


def _write(path: Path, table: Mapping[str, list[str]]) -> None:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(table)), buffer)
    atomic_write(path, buffer.getvalue())
