"""From options to a problem: data, teacher and student are loaded, and everything that does not fit is refused here."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch

from kd_env.config.environment import EnvConfig
from kd_env.core.types import Batch, Signal
from kd_env.data.loading import get_task
from kd_env.data.rows import ProblemRows, read_rows
from kd_env.data.tables import Table, make_buckets, same_tokens
from kd_env.data.tasks import Task
from kd_env.decisions.catalog import DECISIONS
from kd_env.envs.process import check_names, make_problem, projection_shapes, reads_influence
from kd_env.envs.reader import label_reader
from kd_env.envs.text import text_assets
from kd_env.mdp.assets import Assets, label_width
from kd_env.mdp.influence.rows import check_influence
from kd_env.mdp.problem import Problem
from kd_env.models import encoder, pretrained
from kd_env.models.checks import check_encoder, check_positions, probe_batch
from kd_env.models.devices import resolve_device
from kd_env.models.layermap import layer_table
from kd_env.models.precision import resolve_precision
from kd_env.models.students.classifiers import build_student
from kd_env.models.students.taggers import train_padding
from kd_env.models.students.upper import with_upper
from kd_env.numerics.ranks import join
from kd_env.teachers.answers.loading import check_answers, check_use, is_answers, load_answers, make_answering
from kd_env.teachers.frozen import with_states
from kd_env.teachers.loading import LoadedTeacher, load_teachers, make_teacher, teacher_folders
from kd_env.teachers.provenance import warn_other_rows
from kd_env.teachers.teacher_set import Teacher, TeacherTables, best_teacher

logger = logging.getLogger("kd_env")

_DTYPES = {name: torch.float32 for name in ("auto", "fp32", "bf16")} | {"fp64": torch.float64}


def build_problem(config: EnvConfig) -> Problem:
    """Load data, teachers and student, compute the teachers' outputs once, and check that they fit together.

    Raises:
        ValueError: anything that does not fit, before training starts, with the remedy.
    """
    if config.data_parallel:
        join()  # before a device is taken: each rank has one of its own
    device, dtype = resolve_device(config.device), _DTYPES[config.precision]
    if config.objective == "text":
        check_names(config, regression=False)
        return make_problem(*text_assets(config, device, dtype))
    return make_problem(*_label_assets(config, device, dtype))


def _label_assets(config: EnvConfig, device: torch.device, dtype: torch.dtype) -> tuple[Assets, EnvConfig]:
    """The parts of a problem of labels, and the options with what its rows and models make of budget and precision."""
    task = get_task(config.task, config.columns, config.data_dir)
    features = check_names(config, task.regression)
    kind = DECISIONS[config.decision]
    folders = teacher_folders(config, task, kind.many_teachers)
    answering = {name: source for name, source in folders.items() if is_answers(source)}
    reading_cls = [name for name, feature in features.items() if feature.needs_cls]
    check_use(config, [*answering], kind.writes_tokens, reading_cls)
    for folder in folders.values():
        (check_answers if folder in answering.values() else pretrained.check_source)(folder)
    rows = read_rows(config, task)
    config = config.with_rows(len(rows.splits.train))  # the same for rules that learn from feedback rows, too
    check_influence(config, len(rows.feedback), reads_influence(config, features))
    for folder in folders.values():
        warn_other_rows(folder, task.name, rows.splits.content_hash)

    learning = config.learning_teacher_config if config.teacher_learns else None
    encoders = {name: folder for name, folder in folders.items() if name not in answering}
    loaded = load_teachers(encoders, task, rows.splits.fingerprint, device, dtype, learning)
    sample = [rows.texts.first[index] for index in rows.train[:64]]
    _check_vocabularies(config, loaded, sample)
    # Scores begin at their mean: a student that has yet to leave 0 would seem to learn.
    offset = float(rows.train_labels[rows.train].mean()) if task.regression else 0.0
    first = loaded[0] if loaded else None
    student, tokenizer = build_student(
        config.student_config, first and first.encoder, first and first.tokenizer, task, device, dtype, offset
    )
    student = dataclasses.replace(student, recomputes=config.activation_checkpointing)
    reader = None
    if kind.writes_tokens:
        train_padding(student.module)
        reader, rows = label_reader(config, task, rows, tokenizer, device, dtype)
    running = [student.facts, *([] if reader is None else [reader.model.facts])]
    if config.teacher_source == "online":
        running += [teacher.encoder.facts for teacher in loaded]
    config = dataclasses.replace(config, precision=resolve_precision(config.precision, device, running))
    tables = TeacherTables(*rows.tables(tokenizer, config.max_length, device, dtype))
    make_buckets(tables.train.lengths, config.batch_size)  # refuses a table smaller than a batch before a teacher runs
    check_positions(student, max(int(table.lengths.max()) for table in tables), "student")
    made = _teachers(config, task, loaded, rows, tables, tokenizer, sample, student, bool(reading_cls), device, dtype)
    for name, source in answering.items():
        answers = load_answers(source, task, rows, config.cache_dir)
        width = label_width(task)
        made[name] = make_answering(
            config, name, source, answers, task, student.facts, rows, tables, dtype=dtype, label_width=width
        )
    teachers = tuple(made[name] for name in folders)
    terms = [term for teacher in teachers for term in teacher.terms]
    student_signals = {s for term in terms for s in term.student_signals if s.kind != "logits"}
    probe = probe_batch(tables.train, config.max_length, (student,))
    check_encoder(student, probe, student_signals, "student")
    if config.student_config.cache_frozen:
        if config.teacher_source == "student":
            student_signals |= {s for term in terms for s in term.teacher_signals if s.kind != "logits"}
        student, tables = _kept(config, student, tables, probe, student_signals)
    assets = Assets(
        task=task,
        tokenizer=tokenizer,
        splits=rows.splits,
        train=tables.train,
        feedback=tables.feedback,
        selection=tables.selection,
        teachers=teachers,
        reference=best_teacher(teachers, tables.selection.labels, label_width(task)),
        student=student,
        projections=projection_shapes(teachers),
        device=device,
        dtype=dtype,
        reader=reader,
    )
    return assets, config


def _kept(
    config: EnvConfig, student: encoder.Encoder, tables: TeacherTables, probe: Batch, signals: set[Signal]
) -> tuple[encoder.Encoder, TeacherTables]:
    """The student's upper part, and train and feedback rows with what its frozen layers say."""
    upper = with_upper(student, probe, signals)

    def kept(table: Table) -> Table:
        return with_states(
            table,
            student,
            student.module.dtype,
            precision=config.precision,
            cache_dir=config.cache_dir,
            progress=config.show_progress,
        )

    return upper, tables._replace(train=kept(tables.train), feedback=kept(tables.feedback))


def _check_vocabularies(config: EnvConfig, loaded: Sequence[LoadedTeacher], sample: Sequence[str]) -> None:
    """Refuse embeddings of one of several teachers that do not read the same tokens: whose words would they be?"""
    if config.student_config.embedding_init != "pca" or not loaded:
        return
    first, *others = loaded
    for other in others:
        if not same_tokens(first.tokenizer, other.tokenizer, sample):
            raise ValueError(
                f"student.embedding_init='pca' reduces the word embeddings of the teacher {first.name!r}, and "
                f"{other.name!r} has another vocabulary; name teachers of one vocabulary, or set "
                "student.embedding_init='drawn'."
            )


def _teachers(
    config: EnvConfig,
    task: Task,
    loaded: Sequence[LoadedTeacher],
    rows: ProblemRows,
    tables: TeacherTables,
    tokenizer: Any,
    sample: Sequence[str],
    student: encoder.Encoder,
    needs_cls: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Teacher]:
    """The encoders among the teachers with their terms and outputs, by name, each on the rows in its own tokens."""
    teachers = {}
    for raw in loaded:
        foreign = not same_tokens(tokenizer, raw.tokenizer, sample)
        if foreign:
            teacher_tables = TeacherTables(*rows.tables(raw.tokenizer, config.max_length, device, dtype))
        teacher = make_teacher(
            config,
            raw,
            task,
            student.facts,
            teacher_tables if foreign else tables,
            foreign=foreign,
            device=device,
            dtype=dtype,
            label_width=label_width(task),
            needs_cls=needs_cls,
            edited=DECISIONS[config.decision].writes_tokens,
        )
        logger.info("Layer map to %s:\n%s", raw.name, layer_table(teacher.pairs))
        teachers[raw.name] = teacher
    return teachers
