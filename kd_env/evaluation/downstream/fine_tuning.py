"""After pre-training: a student's folder is fine-tuned on a task from few or all labels, and judged on dev rows.

Like :mod:`kd_env.evaluation.judging.protocol`, this alone reads dev rows. The weights of the last update are judged, so
that n labels mean n labels; who chooses between fine-tunings asks for the selection split, and no dev row is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_env.core.records import read_record
from kd_env.data.loading import get_task, load_dev
from kd_env.data.splits import Splits
from kd_env.data.tables import Table, share_unknown, tokenize
from kd_env.data.tasks import Task
from kd_env.evaluation.downstream.submission import ServerFile
from kd_env.evaluation.downstream.unlabelled import Unlabelled, tokenized
from kd_env.finetuning.config import TeacherConfig
from kd_env.finetuning.loop import Trainee, evaluate, logits_on, train
from kd_env.finetuning.preparation import Data, check_fits, cut_rows, prepare
from kd_env.finetuning.store import Checkpoints
from kd_env.models import pretrained
from kd_env.models.devices import resolve_device
from kd_env.models.library.copies import library_copy
from kd_env.models.loading import draw_head, load_classifier
from kd_env.teachers.label_order import put_in_task_order

_UPDATES_A_REPORT = 25
_FEW = 3  # the random stream of few labels, beside those of :mod:`kd_env.data.splits`
_NO_ROWS = np.zeros(0, np.int64)
_NOT_FINITE = "The student's logits on held-out rows are not finite; lower learning_rate."
_NO_CUT = Splits(_NO_ROWS, _NO_ROWS, _NO_ROWS, 0, "", "")


class Material(NamedTuple):
    """The rows of one task, tokenised for students of one vocabulary."""

    data: Data
    """``train`` holds every row whose label a student may see: official train rows without feedback and selection, as
    in the environments. ``selection`` is cut to one row: no weights are chosen on it."""
    selection: Table
    """The selection split, on which fine-tunings may be chosen."""
    dev: dict[str, Table]
    """Official dev splits by name; empty where none was read."""
    test: Mapping[str, Unlabelled] = MappingProxyType({})
    """Test splits by title of the server's file; empty where none was read."""

    @property
    def task(self) -> Task:
        """What the rows look like."""
        return self.data.task


def load_material(config: TeacherConfig, *, dev: bool = True) -> Material:
    """Rows of ``config.task`` for the tokenizer of ``config.name_or_path``.

    Args:
        config: of a fine-tuning.
        dev: whether dev rows are read; without them nothing can be judged but on the selection split.

    Raises:
        ValueError: an unknown task, rows that are missing or cannot be read, no tokenizer, or one that does not know
            the words of the task.
    """
    source, device = config.name_or_path, resolve_device(config.device)
    tokenizer = pretrained.load_tokenizer(source)
    task = get_task(config.task, config.columns, config.data_dir)
    data = prepare(config, task, tokenizer, source, device)
    unknown = share_unknown(data.train, tokenizer)
    if unknown > 0.5:
        raise ValueError(
            f"The tokenizer of {source!r} does not know {unknown:.0%} of the words of task {task.name!r}; fine-tune on "
            "a task in the language that the student was distilled on."
        )
    material = Material(data._replace(selection=data.selection.take(np.arange(1))), data.selection, {})
    return with_dev(config, material) if dev else material


def with_dev(config: TeacherConfig, material: Material) -> Material:
    """The material with the official dev splits beside it; raises ``ValueError`` where they cannot be read."""
    return material._replace(dev=_dev_tables(config, material.task))


def with_tests(config: TeacherConfig, material: Material, files: Sequence[ServerFile]) -> Material:
    """The material with test splits beside it; raises ``ValueError`` where they cannot be read."""
    return material._replace(test=tokenized(config, files))


def _dev_tables(config: TeacherConfig, task: Task) -> dict[str, Table]:
    tokenizer, device = pretrained.load_tokenizer(config.name_or_path), resolve_device(config.device)
    return {
        split: tokenize(rows, tokenizer, config.max_length, device, torch.float32)
        for split, rows in load_dev(task, config.data_dir).items()
    }


def check_student(config: TeacherConfig, material: Material) -> None:
    """Refuse a student that cannot be fine-tuned or judged, before any work.

    Raises:
        ValueError: no model, damaged weights, or an encoder without embeddings or positions for the rows.
    """
    source = config.name_or_path
    model, tokenizer = start(config, material.task), pretrained.load_tokenizer(source)
    for table in (material.selection, *material.dev.values(), *(one.table for one in material.test.values())):
        check_fits(source, tokenizer, model, material.data._replace(selection=table))


def check_rows(rows: int | None, material: Material) -> None:
    """Refuse a number of labels that the task does not have, or from which nothing can be learned.

    Raises:
        ValueError: naming the range.
    """
    check_number(rows, material.task, len(material.data.train))


def check_number(rows: int | None, task: Task, most: int) -> None:
    """Refuse a number of labels that is none of the ``most`` rows of a task; raises as :func:`check_rows`."""
    least = max(2, task.num_labels)
    if rows is not None and not least <= rows <= most:
        raise ValueError(
            f"train_rows={rows} is out of range for task {task.name!r}: choose {least} to {most} (what "
            "feedback_rows and selection_rows leave of the official train split), or null for all."
        )


def start(config: TeacherConfig, task: Task) -> Any:
    """The student's encoder under a new head for ``task``, on the CPU.

    The head is always drawn anew from ``config.seed``: the scalar that a student gave every token has the shape of a
    regression head, and would be taken for one. So is the pooler where the folder has none.
    """
    model = load_classifier(config.name_or_path, task, config.num_hidden_layers, config.seed).model
    draw_head(model, config.seed)
    return model


def labelled_rows(total: int, rows: int | None, *, split_seed: int, seed: int) -> np.ndarray:
    """Places ``[rows]`` of the train rows whose labels are used, ascending; None: all.

    The draw depends on ``split_seed`` and ``seed`` alone: every student of one fine-tuning seed sees the same labels,
    another seed sees others (so that an interval over seeds covers the choice of labels too), and the rows of a smaller
    number are among those of a larger one.
    """
    order = np.random.default_rng([split_seed, _FEW, seed]).permutation(total)
    return np.sort(order[:rows])


def training_length(config: TeacherConfig, rows: int, min_updates: int) -> tuple[int, int]:
    """Epochs and updates on ``rows`` labels: ``config.epochs``, or as many more as ``min_updates`` needs."""
    per_epoch = math.ceil(rows / config.batch_size)
    epochs = max(config.epochs, math.ceil(min_updates / per_epoch))
    return epochs, epochs * per_epoch


def fine_tune(
    config: TeacherConfig,
    material: Material,
    *,
    rows: int | None = None,
    min_updates: int = 0,
    on_updates: Callable[[int], None] | None = None,
    judged: str = "dev",
) -> dict[str, Any]:
    """Fine-tune one student once and judge its last weights; nothing is written.

    Args:
        config: ``name_or_path`` is the student's folder; ``seed`` draws head, pooler, order of rows, dropout and, with
            ``rows``, which rows carry labels. ``keep`` and ``evaluations_per_epoch`` do not count: the end is judged.
        material: of the same task, and of a tokenizer like the student's.
        rows: number of labels; None: all.
        min_updates: epochs are added until there are so many updates.
        on_updates: told from time to time how many updates have been added.
        judged: ``dev``, every official dev split; or ``selection``, that split alone.

    Returns:
        ``labels`` (how many), ``updates``, and under the name of what was judged: by split its ``rows`` and every
        metric with the ``loss``. Beside dev splits, where the material has test splits: ``selection``, too, and
        by title of the file ``test`` (its ``rows`` and the hash of their ``texts``) and ``logits`` ``[R, C]``.

    Raises:
        ValueError: a number of labels that does not fit, or a student that cannot be loaded.
        FloatingPointError: the training diverged.
    """
    check_rows(rows, material)
    row_indices = labelled_rows(len(material.data.train), rows, split_seed=config.split_seed, seed=config.seed)
    cut = material.data.cut
    train_table = material.data.train.take(row_indices)
    data = material.data._replace(cut=cut._replace(train=cut.train[row_indices]), train=train_table)
    epochs, updates = training_length(config, len(row_indices), min_updates)
    pauses = max(1, updates // epochs // _UPDATES_A_REPORT)
    options = dataclasses.replace(config, epochs=epochs, evaluations_per_epoch=pauses, show_progress=False)
    model = start(config, material.task).to(data.train.input_ids.device)
    trainee = Trainee("", model, (model,), ())
    reported_updates = 0

    def tell(entry: Mapping[str, Any]) -> None:
        nonlocal reported_updates
        if on_updates is not None:
            on_updates(entry["step"] - reported_updates)
        reported_updates = entry["step"]

    train(options, data, trainee, _Nothing(), tell)
    found: dict[str, Any] = {"labels": len(row_indices), "updates": updates}
    if judged == "dev":
        found["dev"] = _judge_all(options, data, trainee, material.dev)
    if judged == "selection" or material.test:
        found["selection"] = _judge_all(options, data, trainee, {"selection": material.selection})
    return {**found, **_predict(options, data.task, model, material.test)}


def judge_classifier(
    config: TeacherConfig, files: Sequence[ServerFile] = (), *, selection: bool = False
) -> dict[str, Any]:
    """Judge a folder that is a classifier of ``config.task`` already, as it is, on every official dev split.

    Args:
        config: ``name_or_path`` is the folder, whose outputs are put into the order of the task by their names; of the
            rest ``data_dir``, ``max_length``, ``precision`` and ``device`` count.
        files: test splits for which it predicts.
        selection: whether it is judged on the selection split, too, as ``config`` cuts it.

    Returns:
        ``dev``, ``selection``, ``test`` and ``logits``, as :func:`fine_tune`; with ``selection`` also ``cut``, whether
        it was made from the same cut of the train split: true or false, or None where no record says it.

    Raises:
        ValueError: no classifier, one of other labels, or rows that are missing or do not fit it.
    """
    source, task = config.name_or_path, get_task(config.task, config.columns, config.data_dir)
    model = pretrained.load_encoder(source)
    put_in_task_order(model, source, task, "classifier")
    device = resolve_device(config.device)
    model = library_copy(model, None).to(device)
    tokenizer, trainee = pretrained.load_tokenizer(source), Trainee("", model, (model,), ())
    tables, found = {"dev": _dev_tables(config, task)}, {}
    if selection:
        rows, cut = cut_rows(config, task)
        held = tokenize(rows.select(cut.selection, rows.labels), tokenizer, config.max_length, device, torch.float32)
        tables["selection"] = {"selection": held}
        made = (read_record(source) or {}).get("fingerprint")
        found["cut"] = None if made is None else made == cut.fingerprint
    tests = tokenized(config, files)
    for table in (*(table for each in tables.values() for table in each.values()), *(t.table for t in tests.values())):
        check_fits(source, tokenizer, model, Data(task, _NO_CUT, table, table))
    for name, each in tables.items():
        data = Data(task, _NO_CUT, *(next(iter(each.values())),) * 2)
        found[name] = _judge_all(config, data, trainee, each)
    return {**found, **_predict(config, task, model, tests)}


def _predict(config: TeacherConfig, task: Task, model: Any, tests: Mapping[str, Unlabelled]) -> dict[str, Any]:
    """Logits of test rows, and what they are of; nothing where there are no test rows."""
    if not tests:
        return {}
    model.eval()
    logits = {title: logits_on(config, task, model, one.table) for title, one in tests.items()}
    if not all(np.isfinite(each).all() for each in logits.values()):
        raise FloatingPointError(_NOT_FINITE)
    facts = {title: {"rows": len(one.table), "texts": one.texts} for title, one in tests.items()}
    return {"test": facts, "logits": logits}


def _judge_all(config: TeacherConfig, data: Data, trainee: Trainee, tables: Mapping[str, Table]) -> dict[str, Any]:
    return {split: _judge(config, data._replace(selection=table), trainee) for split, table in tables.items()}


def _judge(config: TeacherConfig, data: Data, trainee: Trainee) -> dict[str, Any]:
    """Rows and metrics of what stands in the place of the selection split."""
    [evaluation] = evaluate(config, data, trainee)
    if not np.isfinite(evaluation.logits).all():
        raise FloatingPointError(_NOT_FINITE)
    return {"rows": len(data.selection), **evaluation.metrics}


class _Nothing(Checkpoints):
    """No checkpoints: a fine-tuning of few labels takes less time than its files would."""

    def __init__(self) -> None:
        pass

    def latest(self) -> None:
        """Every training starts at its beginning."""
        return None

    def save(self, *_: Any) -> None:
        """The last weights are in the model."""
