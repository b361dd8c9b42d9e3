"""From options to a problem: data, teacher and student are loaded, and everything that does not fit is refused here."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from kd_env.config.environment import EnvConfig
from kd_env.data import splits
from kd_env.data.loading import get_task, load_train
from kd_env.data.tables import Table, make_buckets, same_tokens, tokenize
from kd_env.data.tasks import Rows
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.sample_weighting import scores
from kd_env.envs.process import check_term_weights, make_problem
from kd_env.mdp import rewards
from kd_env.mdp.influence.rows import check_influence
from kd_env.mdp.observations import layout
from kd_env.mdp.problem import Assets, Problem, label_width
from kd_env.models import encoder
from kd_env.models.checks import check_encoder, check_positions, probe_batch
from kd_env.models.devices import resolve_device
from kd_env.models.layermap import layer_table
from kd_env.models.students import build_student
from kd_env.teachers.loading import load_teachers, make_teacher, teacher_folders
from kd_env.teachers.teacher_set import TeacherTables, best_teacher, entry_name

logger = logging.getLogger("kd_env")

_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


def build_problem(config: EnvConfig) -> Problem:
    """Load data, teachers and student, compute the teachers' outputs once, and check that they fit together.

    Raises:
        ValueError: anything that does not fit, before training starts, with the remedy.
    """
    device, dtype = resolve_device(config.device), _DTYPES[config.precision]
    rewards.REWARDS[config.reward]
    check_term_weights(config)
    task = get_task(config.task, config.columns, config.data_dir)
    features = layout.resolve(config.features, task.regression, len(config.terms), by_row=config.weighting == "sample")
    scores.resolve(config.score, task.regression)
    folders = teacher_folders(config, task, DECISIONS[config.decision].many_teachers)
    for folder in folders.values():
        encoder.check_source(folder)
    rows = load_train(task, config.data_dir)
    cut = splits.cut(
        rows,
        seed=config.split_seed,
        feedback_rows=config.feedback_rows,
        selection_rows=config.selection_rows,
        max_train_rows=config.max_train_rows,
        regression=task.regression,
    )
    labels = rows.labels
    if config.label_noise > 0:
        labels = splits.add_label_noise(labels, cut.train, config.label_noise, task.num_labels, config.split_seed)
    train_rows = cut.train if config.train_on == "train" else np.concatenate([cut.train, cut.feedback])
    config = config.with_rows(len(cut.train))  # the same for rules that learn from feedback rows, too
    evaluated = np.sort(
        np.random.default_rng([config.split_seed, 1]).permutation(cut.feedback)[: config.evaluation_rows]
    )
    check_influence(config, len(evaluated))
    feedback_labels = rows.labels
    if config.feedback_labels == "shuffled":
        feedback_labels = splits.shuffle_labels(rows.labels, evaluated, config.split_seed)

    learning = config.learning_teacher_config if config.teacher_learns else None
    loaded = load_teachers(folders, task, cut.fingerprint, device, dtype, learning)
    student, tokenizer = build_student(
        config.student_config, loaded[0].encoder, loaded[0].tokenizer, task, device, dtype
    )

    def tables(tokens: Any) -> TeacherTables:
        def table(index: np.ndarray, values: np.ndarray) -> Table:
            first, second = [rows.first[i] for i in index], rows.second
            indexed_rows = Rows(first, None if second is None else [second[i] for i in index], values[index])
            return tokenize(indexed_rows, tokens, config.max_length, device, dtype)

        return TeacherTables(
            table(train_rows, labels), table(evaluated, feedback_labels), table(cut.selection, rows.labels)
        )

    student_tables = tables(tokenizer)
    # Refuses a table smaller than a batch before a teacher runs.
    make_buckets(student_tables.train.lengths, config.batch_size)
    check_positions(student, max(int(table.lengths.max()) for table in student_tables), "student")
    sample = [rows.first[index] for index in train_rows[:64]]
    width = label_width(task)
    teachers = []
    for teacher in loaded:
        foreign = not same_tokens(tokenizer, teacher.tokenizer, sample)
        teacher_tables = tables(teacher.tokenizer) if foreign else student_tables
        teachers.append(
            make_teacher(
                config,
                teacher,
                task,
                student.facts,
                teacher_tables,
                foreign=foreign,
                device=device,
                dtype=dtype,
                label_width=width,
                needs_cls=any(feature.needs_cls for feature in features.values()),
            )
        )
        logger.info("Layer map to %s:\n%s", teacher.name, layer_table(teachers[-1].pairs))
    student_signals = {
        s for teacher in teachers for term in teacher.terms for s in term.student_signals if s.kind != "logits"
    }
    check_encoder(student, probe_batch(student_tables.train, config.max_length, (student,)), student_signals, "student")
    count = len(teachers)
    projections = {
        f"projections.{entry_name(term.name, teacher.name, count)}.{name}": shape
        for teacher in teachers
        for term in teacher.terms
        for name, shape in term.projections.items()
    }
    assets = Assets(
        task=task,
        tokenizer=tokenizer,
        splits=cut,
        train=student_tables.train,
        feedback=student_tables.feedback,
        selection=student_tables.selection,
        teachers=tuple(teachers),
        reference=best_teacher(teachers, student_tables.selection.labels, width),
        student=student,
        projections=projections,
        device=device,
        dtype=dtype,
    )
    return make_problem(assets, config)
