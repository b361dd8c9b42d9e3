"""The parts of a task-level problem: rows with labels, a fine-tuned teacher, and who reads their masked text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from kd_env.data import splits
from kd_env.data.loading import get_task, load_train
from kd_env.data.rows import warn_absent_classes
from kd_env.data.tables import Table, make_buckets, on_device, same_tokens, tokenize
from kd_env.data.tasks import EMBEDDED, Rows, Task
from kd_env.data.toy import masked_lm_folder, teacher_folder
from kd_env.decisions.tutor_token.corpus.slots import check_first, ordinary_places, slots_of, tokens_of
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.problem import TutorAssets
from kd_env.models import encoder as models
from kd_env.models.checks import check_encoder, check_positions, probe_batch
from kd_env.models.masked_lm import check_fits, load_masked_lm
from kd_env.models.students import build_student
from kd_env.numerics import losses
from kd_env.numerics.calibration import fit_temperature
from kd_env.teachers import outputs, sources
from kd_env.teachers.loading import LoadedTeacher, load_teachers
from kd_env.teachers.provenance import warn_other_rows


def task_assets(config: TutorConfig, device: torch.device, dtype: torch.dtype) -> TutorAssets:
    """Read the rows, load teacher and language model, make the student's template.

    Raises:
        ValueError: a task of scores, a teacher or language model that is missing or does not fit, rows too short.
    """
    assert config.task is not None
    task = get_task(config.task, config.columns, config.data_dir)
    if task.regression:
        raise ValueError(
            f"task={config.task!r} has scores, and the tutor is rewarded for the teacher's confidence in a label; use "
            "a task of classes, or give text=... for pre-training distillation."
        )
    folder, reader = _folders(config, task)
    data = load_train(task, config.data_dir)
    cut = splits.cut(
        data,
        seed=config.split_seed,
        feedback_rows=config.feedback_rows,
        selection_rows=config.selection_rows,
        max_train_rows=config.max_train_rows,
    )
    warn_other_rows(folder, task.name, cut.content_hash)
    [loaded] = load_teachers({task.name: folder}, task, cut.fingerprint, device, dtype)
    language_model = load_masked_lm(reader)
    language_model = dataclasses.replace(language_model, module=language_model.module.to(device, dtype))
    tokenizer, tokens = tokens_of(reader)
    _check_tokens(loaded, reader, tokenizer, [data.first[row] for row in cut.train[:64]])

    def table(part: np.ndarray) -> Table:
        return task_table(data, part, tokenizer, config.max_length)

    whole = table(cut.train)
    slots, least = slots_of(config, ordinary_places(whole, tokens))
    kept = cut.train[ordinary_places(whole, tokens).sum(1) >= least]
    if not len(kept):
        raise ValueError(f"No train row of {task.name} has {least} ordinary tokens; set slots to fewer.")
    train = on_device(whole if len(kept) == len(cut.train) else table(kept), device)
    make_buckets(train.lengths, config.batch_size)  # refuses too few rows before the teacher runs
    evaluated = np.random.default_rng([config.split_seed, 1]).permutation(cut.feedback)[: config.evaluation_rows]
    warn_absent_classes(task, data.labels, kept, evaluated)
    feedback = on_device(table(np.sort(evaluated)), device)
    selection = on_device(table(cut.selection), device)
    longest = int(max(part.lengths.max() for part in (whole, feedback, selection)))
    check_fits(reader, tokenizer, language_model, longest)
    check_first(reader, train, tokens)
    check_positions(loaded.encoder, longest, "teacher")
    temperature = fit_temperature(_logits(loaded.encoder, feedback, config.precision), feedback.labels)
    student = task_student(config, loaded, tokenizer, task, device, dtype)
    check_positions(student, longest, "student")
    for encoder, what in ((loaded.encoder, "teacher"), (student, "student")):
        check_encoder(encoder, probe_batch(train, config.max_length, (encoder,)), (), what)
    return TutorAssets(
        tokenizer=tokenizer,
        tokens=tokens,
        train=train,
        ordinary=ordinary_places(train, tokens),
        left_out=len(cut.train) - len(kept),
        slots=slots,
        feedback=feedback,
        feedback_labels=torch.empty(0, device=device),
        loss_floor=teacher_loss(loaded.encoder, feedback, config.precision, temperature),
        temperature=temperature,
        calibration=feedback,
        teacher=language_model,
        classifier=loaded.encoder,
        student=student,
        device=device,
        dtype=dtype,
        fingerprint=cut.fingerprint,
        saw_feedback=loaded.saw_feedback,
    )


def task_table(data: Rows, part: np.ndarray, tokenizer: Any, max_length: int) -> Table:
    """Some rows of a task as tokens, on the host."""
    return tokenize(data.select(part, data.labels), tokenizer, max_length, torch.device("cpu"), torch.float32)


def teacher_loss(encoder: models.Encoder, table: Table, precision: str, temperature: float) -> float:
    """Cross-entropy of the calibrated teacher with the gold labels of a table, as in the other environments."""
    return float(losses.gold_loss(_logits(encoder, table, precision) / temperature, table.labels, None))


def _logits(encoder: models.Encoder, table: Table, precision: str) -> np.ndarray:
    found = outputs.teacher_outputs(encoder, table, (), dtype="float32", precision=precision)
    return np.asarray(found[sources.LOGITS])


def task_student(
    config: TutorConfig, loaded: LoadedTeacher, tokenizer: Any, task: Task, device: torch.device, dtype: torch.dtype
) -> models.Encoder:
    """The student's template, a classifier.

    Raises:
        ValueError: as :func:`kd_env.models.students.build_student`, or a pre-trained student that reads other tokens.
    """
    student, own = build_student(config.student_config, loaded.encoder, loaded.tokenizer, task, device, dtype)
    if own is not loaded.tokenizer and own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"The student {config.student_config.name_or_path!r} has another vocabulary than the text that is edited; "
            "use one with the teacher's tokenizer."
        )
    for module in student.module.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # as in build_tutor_student: the padding token may be chosen, too
    return student


def _folders(config: TutorConfig, task: Task) -> tuple[str, str]:
    """Folders of the teacher and of the language model."""
    packaged: Mapping[str, Any] = {"teacher": teacher_folder, "language_model": masked_lm_folder}
    ways = {
        "teacher": f"`kd-env teacher task={task.name} teacher.name_or_path=...`",
        "language_model": f"`kd-env teacher objective=mlm text={task.name} teacher.name_or_path=...`",
    }
    found = []
    for name, made_by in ways.items():
        folder = getattr(config, name)
        if folder is None and task.name in EMBEDDED:
            folder = packaged[name](task.name)
        if folder is None:
            raise ValueError(f"task={task.name!r} comes without a {name}; give {name}=<folder>, which {made_by} makes.")
        found.append(str(folder))
    return found[0], found[1]


def _check_tokens(loaded: LoadedTeacher, reader: str, tokenizer: Any, sample: list[str]) -> None:
    if not same_tokens(tokenizer, loaded.tokenizer, sample):
        raise ValueError(
            f"The teacher {loaded.folder!r} and the language model {reader!r} have different tokenizers, so that the "
            "tokens that one suggests are not those that the other reads; train both from the same encoder."
        )
