"""The nine GLUE tasks (Wang et al. 2019, table 1), the embedded ones, plug-ins and own files: columns, labels, rows."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_env.core import checks
from kd_env.core.hub import hub_asked_once
from kd_env.core.metrics import check_metrics
from kd_env.core.registry import unknown_name
from kd_env.data.files.formats import Table, read_tables
from kd_env.data.files.labels import class_names, classes, label_key, label_name, score, scores
from kd_env.data.files.places import FORMATS, find_tables, listing
from kd_env.data.tasks import EMBEDDED, GLUE, TASKS, Rows, Task, brings_rows
from kd_env.data.toy import toy_rows
from kd_files.plugins import check_loads

log = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"
_SURROGATE = re.compile("[\ud800-\udfff]")

_CUSTOM_KEYS = ("text", "label", "kind", "labels", "label_range", "metrics")


def get_task(name: str, columns: Mapping[str, Any] | None = None, data_dir: str | None = None) -> Task:
    """The task called ``name``: a GLUE task, ``toy``, ``toy_pair``, a plug-in, or ``custom`` described by ``columns``.

    Args:
        name: task name.
        columns: for ``custom`` only: ``text`` (one or two column names), ``label``, ``kind`` (``classification`` or
            ``regression``), and optionally ``labels`` (class names in order), ``label_range`` and ``metrics``.
        data_dir: folder of the files, None for the hub. Absent ``labels`` or ``label_range`` of ``custom`` are read off
            its train split; the embedded tasks have none.

    Raises:
        ValueError: a value of another type, an unknown name or key (with near matches), ``columns`` that do not
            describe a task, or options without effect on it.
    """
    checks.filled("task", name)
    checks.optional(checks.mapping)("columns", columns)
    checks.optional(checks.filled)("data_dir", data_dir)
    if data_dir is not None and brings_rows(name):
        raise ValueError(
            f"data_dir={data_dir!r} is for tasks in files, and task={name!r} "
            f"{'is embedded' if name in EMBEDDED else 'brings its rows'}; leave it out (task.data_dir=null) or choose "
            "another task."
        )
    if name == "custom":
        return _custom_task(columns, data_dir)
    if columns is not None:
        raise ValueError(f"columns={dict(columns)!r} is only for task='custom', but task={name!r}.")
    if name not in TASKS:
        check_loads(TASKS.group, TASKS.kind, name)
        raise ValueError(unknown_name("task", name, (*TASKS, "custom")))
    task = TASKS[name]
    check_metrics(task.metrics, task.regression, None if task.regression else len(task.labels))
    return task


def load_train(task: Task, data_dir: str | None) -> Rows:
    """Rows of the official train split.

    Args:
        task: from :func:`get_task`.
        data_dir: folder of the files (:func:`kd_env.data.files.places.find_tables`); None reads GLUE from the hub. The
            embedded tasks need neither.

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
    if data_dir is not None and not brings_rows(task.name):
        present = tuple(split for split in splits if find_tables(data_dir, task.name, split))
        if present and present != splits:
            missing = ", ".join(split for split in splits if split not in present)
            log.warning("Task %s: no %s in %s; it is left out of the report.", task.name, missing, data_dir)
            splits = present
    return {split: _load(task, split, data_dir) for split in splits}


class UnlabelledRows(NamedTuple):
    """Rows whose labels are hidden, in the order of their file."""

    rows: Rows
    """Every label is -1, whatever the file says."""
    numbering: str
    """Where the file numbers its rows otherwise than by their places from 0: how, in words; else empty."""


def load_test(task: Task, place: str, split: str, data_dir: str | None) -> UnlabelledRows:
    """Rows of a test split, for predictions alone: labels may be there, be -1 or be absent, and are not read.

    Args:
        task: whose columns the rows have.
        place: folder below ``data_dir``, or configuration of the hub; of the diagnostic set ``ax``.
        split: ``test``, ``test_matched`` or ``test_mismatched``.
        data_dir: as in :func:`load_train`.

    Raises:
        ValueError: no such split (listing what is there), no rows, or a missing column.
    """
    named = dataclasses.replace(task, name=place)
    table = _local_table(named, split, data_dir) if data_dir is not None else _from_hub(place, split)
    _check_columns(table, task.text_columns)
    texts = [_texts(table, column) for column in task.text_columns]
    labels = np.full(len(texts[0]), -1, np.float32 if task.regression else np.int64)
    return UnlabelledRows(Rows(texts[0], texts[1] if len(texts) == 2 else None, labels), _numbering(table))


def _numbering(table: Table) -> str:
    column = next((name for name in ("idx", "index") if name in table.columns), None)
    if column is None:
        return ""
    numbers = [label_name(value) for value in table.columns[column]]
    if numbers == [str(row) for row in range(len(numbers))]:
        return ""
    fault = "names a number twice" if len(set(numbers)) < len(numbers) else "does not count from 0 without gaps"
    return f"column {column!r} of {table.source} {fault}"


def _load(task: Task, split: str, data_dir: str | None) -> Rows:
    if task.name in EMBEDDED:
        return toy_rows(task.name, "train" if split == "train" else "validation")
    if task.read is not None:
        columns = {name: list(values) for name, values in task.read(split).items()}
        return rows_from_table(task, Table(f"the {split} split of task {task.name!r}", columns))
    table = _local_table(task, split, data_dir) if data_dir is not None else _hub_table(task, split)
    return rows_from_table(task, table)


def _local_table(task: Task, split: str, data_dir: str) -> Table:
    paths = find_tables(data_dir, task.name, split)
    if not paths:
        endings = ", ".join(FORMATS)
        raise ValueError(
            f"No {split} split of task {task.name!r}: expected {Path(data_dir) / task.name / split} with one of the "
            f"endings {endings}. There is: {listing(data_dir, task.name)}."
        )
    return read_tables(paths)


def _hub_table(task: Task, split: str) -> Table:
    if task.name not in GLUE:
        raise ValueError(f"Task {task.name!r} needs data_dir, the folder with its train.parquet (csv, tsv, jsonl).")
    return _from_hub(task.name, split)


def _from_hub(name: str, split: str) -> Table:
    from datasets import load_dataset

    try:
        with hub_asked_once():
            data = load_dataset(HUB_NAME, name, split=split)
    except Exception as error:  # many libraries fail here in their own ways; the cause is kept
        raise ValueError(
            f"Could not read {name}/{split} from the hub ({HUB_NAME}): {type(error).__name__}: {error}. Without a "
            f"network, give data_dir, a folder that holds {name}/{split}.parquet (csv, tsv, jsonl)."
        ) from error
    return Table(f"{HUB_NAME} {name}/{split}", {column: data[column][:] for column in data.column_names})


def rows_from_table(task: Task, table: Table) -> Rows:
    """Checked rows of ``table``; see :func:`load_train` for the errors. Row numbers in messages count from 0."""
    _check_columns(table, (*task.text_columns, task.label_column))
    raw = table.columns[task.label_column]
    texts = [_texts(table, column) for column in task.text_columns]
    labels = scores(task, table.source, raw) if task.regression else classes(task, table.source, raw)
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
        if not value.isascii() and _SURROGATE.search(value):  # what JSON can escape, and no tokenizer takes
            raise ValueError(
                f"{table.source}: column {column!r} holds half a surrogate pair in row {row}, which is no character; "
                "write the whole pair or leave it out."
            )
    return values


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
    given = columns.get("labels")
    names = _class_names(text, columns["label"], data_dir) if given is None else tuple(map(label_name, given))
    valid = tuple(name for name in names if name is not None)
    if len(valid) < max(2, len(names)) or len(set(map(label_key, valid))) < len(valid):
        raise ValueError(f"columns.labels={list(names)!r} must be at least two different class names.")
    check_metrics(metrics, regression, len(valid))
    return Task("custom", text, columns["label"], valid, metrics)


def _check_types(columns: Mapping[str, Any]) -> None:
    """Refuse values that are neither names nor lists of them, before anything is read."""
    one_name, lists = ("label", "kind"), ("labels", "label_range")
    for key, value in columns.items():
        several = isinstance(value, list | tuple)
        items = list(value) if several and key not in one_name else [value]
        numbers = key == "label_range"
        allowed = (int, float) if numbers else (str, int, float, bool) if key == "labels" else (str,)
        fits = items and (several or key not in lists) and all(isinstance(item, allowed) for item in items)
        if value is not None and not fits:
            listed = "a list of names" if key == "labels" else "a name or a list of names"
            expected = "two numbers" if numbers else "a name" if key in one_name else listed
            raise ValueError(f"columns.{key}={value!r} must be {expected}.")


def _custom_metrics(metrics: Any, regression: bool) -> tuple[str, ...]:
    metrics = metrics or (("pearson", "spearmanr") if regression else ("accuracy",))
    return (metrics,) if isinstance(metrics, str) else tuple(metrics)


def _train_labels(text: tuple[str, ...], label: str, data_dir: str | None) -> tuple[str, list[Any]]:
    """Where they stand, and the labels of the train split as they are there."""
    probe = Task("custom", text, label, (), ())
    table = _local_table(probe, "train", data_dir) if data_dir is not None else _hub_table(probe, "train")
    _check_columns(table, (label,))
    return table.source, table.columns[label]


def _class_names(text: tuple[str, ...], label: str, data_dir: str | None) -> tuple[str, ...]:
    return class_names(*_train_labels(text, label, data_dir))


def _score_range(text: tuple[str, ...], label: str, data_dir: str | None) -> tuple[float, ...]:
    _, values = _train_labels(text, label, data_dir)
    numbers = [number for number in map(score, values) if number is not None]
    return (min(numbers), max(numbers)) if numbers else ()
