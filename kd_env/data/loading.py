"""The nine GLUE tasks (Wang et al. 2019, table 1), the embedded ones and a user's own: columns, labels, rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_env.core.metrics import check_metrics
from kd_env.core.registry import unknown_name
from kd_env.data.files import FORMATS, Table, find_table, listing, number, read_table
from kd_env.data.tasks import EMBEDDED, GLUE, Rows, Task
from kd_env.data.toy import toy_rows

log = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"


_CUSTOM_KEYS = ("text", "label", "kind", "labels", "label_range", "metrics")


def get_task(name: str, columns: Mapping[str, Any] | None = None, data_dir: str | None = None) -> Task:
    """The task called ``name``: a GLUE task, ``toy``, ``toy_pair``, or ``custom`` described by ``columns``.

    Args:
        name: task name.
        columns: for ``custom`` only: ``text`` (one or two column names), ``label``, ``kind`` (``classification`` or
            ``regression``), and optionally ``labels`` (class names in order), ``label_range`` and ``metrics``.
        data_dir: for ``custom`` only: where the train split lies; absent ``labels`` or ``label_range`` are read off it.

    Raises:
        ValueError: unknown name or key (with near matches), or ``columns`` that do not describe a task.
    """
    if name == "custom":
        return _custom_task(columns, data_dir)
    if columns is not None:
        raise ValueError(f"columns={dict(columns)!r} is only for task='custom', but task={name!r}.")
    known = {**GLUE, **EMBEDDED}
    if name not in known:
        raise ValueError(unknown_name("task", name, (*known, "custom")))
    return known[name]


def load_train(task: Task, data_dir: str | None) -> Rows:
    """Rows of the official train split.

    Args:
        task: from :func:`get_task`.
        data_dir: folder with ``<task>/train.parquet`` (or .csv, .tsv, .jsonl; for ``custom`` also ``train.*`` directly
            in it); None reads GLUE from the hub. The embedded tasks need neither.

    Raises:
        ValueError: no such split (listing what is there), no rows, a missing column, a label outside the task.
    """
    return _load(task, "train", data_dir)


def load_dev(task: Task, data_dir: str | None) -> dict[str, Rows]:
    """Rows of the official dev splits by name. Only reports may call this: no reward or feature can reach it.

    Where several dev splits exist (MNLI) and only some lie in ``data_dir``, those are returned and the others logged.
    Arguments and errors as in :func:`load_train`.
    """
    splits = task.dev_splits
    if data_dir is not None and task.name not in EMBEDDED:
        present = tuple(split for split in splits if find_table(data_dir, task.name, split) is not None)
        if present and present != splits:
            missing = ", ".join(split for split in splits if split not in present)
            log.warning("Task %s: no %s in %s; it is left out of the report.", task.name, missing, data_dir)
            splits = present
    return {split: _load(task, split, data_dir) for split in splits}


def _load(task: Task, split: str, data_dir: str | None) -> Rows:
    if task.name in EMBEDDED:
        return toy_rows(task.name, "train" if split == "train" else "validation")
    table = _local_table(task, split, data_dir) if data_dir is not None else _hub_table(task, split)
    return rows_from_table(task, table)


def _local_table(task: Task, split: str, data_dir: str) -> Table:
    path = find_table(data_dir, task.name, split)
    if path is None:
        endings = ", ".join(FORMATS)
        raise ValueError(
            f"No {split} split of task {task.name!r}: expected {Path(data_dir) / task.name / split} with one of the "
            f"endings {endings}. There is: {listing(data_dir, task.name)}."
        )
    return read_table(path, task.text_columns)


def _hub_table(task: Task, split: str) -> Table:
    if task.name not in GLUE:
        raise ValueError(f"Task {task.name!r} needs data_dir, the folder with its train.parquet (csv, tsv, jsonl).")
    from datasets import load_dataset

    try:
        data = load_dataset(HUB_NAME, task.name, split=split)
    except Exception as error:  # many libraries fail here in their own ways; the cause is kept
        raise ValueError(
            f"Could not read {task.name}/{split} from the hub ({HUB_NAME}): {type(error).__name__}: {error}. Without a "
            f"network, give data_dir, a folder that holds {task.name}/{split}.parquet (csv, tsv, jsonl)."
        ) from error
    return Table(f"{HUB_NAME} {task.name}/{split}", {name: data[name][:] for name in data.column_names})


def rows_from_table(task: Task, table: Table) -> Rows:
    """Checked rows of ``table``; see :func:`load_train` for the errors. Row numbers in messages count from 0."""
    _check_columns(table, (*task.text_columns, task.label_column))
    raw = table.columns[task.label_column]
    texts = [_texts(table, column) for column in task.text_columns]
    labels = _scores(task, table.source, raw) if task.regression else _classes(task, table.source, raw)
    return Rows(texts[0], texts[1] if len(texts) == 2 else None, labels)


def _check_columns(table: Table, needed: Sequence[str]) -> None:
    if not any(table.columns.values()):  # first: an empty file has no columns either, but they are not what it lacks
        raise ValueError(f"{table.source} holds no rows.")
    for column in needed:
        if column not in table.columns:
            names = ", ".join(table.columns) or "(none)"
            raise ValueError(f"{table.source} has no column {column!r}, which the task needs. Its columns: {names}.")


def _texts(table: Table, column: str) -> list[str]:
    values = table.columns[column]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{table.source}: column {column!r} holds {value!r} in row {row}; every row needs a text.")
    return values


def _classes(task: Task, source: str, values: list[Any]) -> np.ndarray:
    by_name = {name: index for index, name in enumerate(task.labels)}
    # Where class names are numbers, a number in the file is a name (labels 1, 2, 3), otherwise it is an index.
    numbers_are_names = any(number(name) is not None for name in task.labels)
    class_of: dict[Any, int] = {}  # value -> class: few distinct values, many rows
    labels = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        if isinstance(value, (list, dict)):  # jsonl can hold them; they are no names
            raise ValueError(_bad_class(task, source, value, row))
        index = class_of.get(value)
        if index is None:
            index = by_name.get(value if isinstance(value, str) else label_name(value))
            if index is None and not numbers_are_names:
                place = number(value)
                if place is not None and place in range(len(task.labels)):
                    index = int(place)
            if index is None:
                raise ValueError(_bad_class(task, source, value, row))
            class_of[value] = index
        labels[row] = index
    return labels


def _bad_class(task: Task, source: str, value: Any, row: int) -> str:
    if value is None or value != value:
        return f"{source}: the label in row {row} is missing ({value!r}); every row needs one."
    if number(value) == -1:
        return (
            f"{source}: the label in row {row} is -1, which stands for a hidden test label; train and dev splits need "
            "real labels."
        )
    names = ", ".join(f"{index} ({name})" for index, name in enumerate(task.labels))
    return f"{source}: label {value!r} in row {row} is not one of task {task.name!r}: {names}."


def _scores(task: Task, source: str, values: list[Any]) -> np.ndarray:
    assert task.label_range is not None
    low, high = task.label_range
    scores = np.empty(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        score = number(value)
        if score is None or not np.isfinite(score):
            raise ValueError(f"{source}: the label in row {row} is {value!r}; every row needs a finite score.")
        if not low <= score <= high:
            hidden = " (-1 stands for a hidden test label)" if score == -1 else ""
            raise ValueError(
                f"{source}: label {value!r} in row {row} lies outside [{low}, {high}], the range of task "
                f"{task.name!r}{hidden}."
            )
        scores[row] = score
    return scores


def label_name(value: Any) -> str:
    """Name of a class given as a value of a file: 1, 1.0 and "1" are one name."""
    as_number = None if isinstance(value, str) else number(value)
    return str(int(as_number)) if as_number is not None and as_number.is_integer() else str(value)


def _custom_task(columns: Mapping[str, Any] | None, data_dir: str | None) -> Task:
    example = "columns={'text': ['question', 'answer'], 'label': 'label', 'kind': 'classification'}"
    if columns is None:
        raise ValueError(f"task='custom' needs columns, for example {example}.")
    for key in columns:
        if key not in _CUSTOM_KEYS:
            raise ValueError(unknown_name("key of columns", key, _CUSTOM_KEYS))
    for key in ("text", "label", "kind"):
        if not columns.get(key):
            raise ValueError(f"columns={dict(columns)!r} lacks {key!r}; write for example {example}.")
    _check_types(columns)
    kind = columns["kind"]
    if kind not in ("classification", "regression"):
        raise ValueError(unknown_name("value of columns.kind:", kind, ("classification", "regression")))
    text = (columns["text"],) if isinstance(columns["text"], str) else tuple(columns["text"])
    if len(text) not in (1, 2) or len(set(text)) != len(text):
        raise ValueError(f"columns.text={columns['text']!r} must name one column, or two different ones.")
    regression = kind == "regression"
    stray = "labels" if regression else "label_range"
    if columns.get(stray) is not None:
        raise ValueError(f"columns.{stray}={columns[stray]!r} does not fit columns.kind={kind!r}.")
    metrics = _custom_metrics(columns.get("metrics"), regression)
    check_metrics(metrics, regression, None)  # before files are read for the number of classes
    if regression:
        limits = columns.get("label_range")
        span = _score_range(text, columns["label"], data_dir) if limits is None else tuple(float(v) for v in limits)
        if len(span) != 2 or not span[0] < span[1]:
            raise ValueError(f"label_range {span!r} must be two rising numbers; give columns.label_range=[low, high].")
        return Task("custom", text, columns["label"], (), metrics, label_range=(span[0], span[1]))
    labels = columns.get("labels")
    names = _class_names(text, columns["label"], data_dir) if labels is None else tuple(label_name(v) for v in labels)
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"columns.labels={list(names)!r} must be at least two different class names.")
    check_metrics(metrics, regression, len(names))
    return Task("custom", text, columns["label"], names, metrics)


def _check_types(columns: Mapping[str, Any]) -> None:
    """Refuse values that are neither names nor lists of them, before anything is read."""
    for key, value in columns.items():
        items = list(value) if isinstance(value, list | tuple) and key not in ("label", "kind") else [value]
        numbers = key == "label_range"
        allowed = (int, float) if numbers else (str, int, float, bool) if key == "labels" else (str,)
        if value is not None and (not items or not all(isinstance(item, allowed) for item in items)):
            one_name = key in ("label", "kind")
            expected = "two numbers" if numbers else "a name" if one_name else "a name or a list of names"
            raise ValueError(f"columns.{key}={value!r} must be {expected}.")


def _custom_metrics(metrics: Any, regression: bool) -> tuple[str, ...]:
    metrics = metrics or (("pearson", "spearmanr") if regression else ("accuracy",))
    return (metrics,) if isinstance(metrics, str) else tuple(metrics)


def _train_labels(text: tuple[str, ...], label: str, data_dir: str | None) -> list[Any]:
    probe = Task("custom", text, label, (), ())
    table = _local_table(probe, "train", data_dir) if data_dir is not None else _hub_table(probe, "train")
    _check_columns(table, (label,))
    return table.columns[label]


def _class_names(text: tuple[str, ...], label: str, data_dir: str | None) -> tuple[str, ...]:
    values = {value for value in _train_labels(text, label, data_dir) if value is not None and value == value}
    numbers = [number(value) for value in values]
    if all(value is not None for value in numbers):  # 2 before 10
        return tuple(label_name(value) for value in sorted({value for value in numbers if value is not None}))
    return tuple(sorted({label_name(value) for value in values}))


def _score_range(text: tuple[str, ...], label: str, data_dir: str | None) -> tuple[float, ...]:
    scores = [number(value) for value in _train_labels(text, label, data_dir)]
    finite = [score for score in scores if score is not None and np.isfinite(score)]
    return (min(finite), max(finite)) if finite else ()
