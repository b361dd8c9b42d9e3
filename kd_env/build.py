"""From options to a problem: data, teacher and student are loaded, and everything that does not fit is refused here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kd_env import losses, models, observations, rewards, splits, teachers, toy
from kd_env.config import EnvConfig
from kd_env.encoder_check import check_encoder, probe_batch
from kd_env.glue import EMBEDDED, Rows, Task, get_task, load_train
from kd_env.knowledge import TermSpec, build_terms
from kd_env.layermap import cut_layers, layer_pairs, layer_table
from kd_env.problem import Assets, Problem, label_width
from kd_env.records import read_record
from kd_env.students import cut_encoder, fresh_encoder
from kd_env.tables import Table, make_buckets, tokenize
from kd_env.types import Signal

logger = logging.getLogger("kd_env")

_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


def build_problem(config: EnvConfig) -> Problem:
    """Load data, teacher and student, compute the teacher's outputs once, and check that they fit together.

    Raises:
        ValueError: anything that does not fit, before training starts, with the remedy.
    """
    device, dtype = resolve_device(config.device), _DTYPES[config.precision]
    rewards.REWARDS[config.reward]
    task = get_task(config.task, config.columns, config.data_dir)
    observations.resolve(config.features, task.regression, len(config.terms))
    teacher_name = teacher_folder(config, task)
    models.check_source(teacher_name)
    rows = load_train(task, config.data_dir)
    cut = splits.cut(
        rows,
        seed=config.split_seed,
        feedback_rows=config.feedback_rows,
        selection_rows=config.selection_rows,
        max_train_rows=config.max_train_rows,
        regression=task.regression,
    )
    saw_feedback = provenance(teacher_name, task, cut.fingerprint)
    labels = rows.labels
    if config.label_noise > 0:
        labels = splits.add_label_noise(labels, cut.train, config.label_noise, task.num_labels, config.split_seed)
    train_rows = cut.train if config.train_on == "train" else np.concatenate([cut.train, cut.feedback])

    tokenizer = models.load_tokenizer(teacher_name)
    teacher_encoder = models.Encoder.build(
        models.load_encoder(teacher_name).to(device, dtype), train_embeddings=True, fresh="none"
    )
    check_teacher(teacher_encoder, teacher_name, task)
    student = build_student(config, teacher_encoder, tokenizer, task, device, dtype)

    def table(index: np.ndarray, values: np.ndarray) -> Table:
        chosen = Rows(
            [rows.first[i] for i in index],
            None if rows.second is None else [rows.second[i] for i in index],
            values[index],
        )
        return tokenize(chosen, tokenizer, config.max_length, device, dtype)

    train, selection = table(train_rows, labels), table(cut.selection, rows.labels)
    make_buckets(train.lengths, config.batch_size)  # refuses a table smaller than a batch before the teacher runs
    evaluated = np.sort(
        np.random.default_rng([config.split_seed, 1]).permutation(cut.feedback)[: config.evaluation_rows]
    )
    feedback = table(evaluated, rows.labels)
    for part, encoder in (("student", student), ("teacher", teacher_encoder)):
        check_positions(encoder, max(int(t.lengths.max()) for t in (train, selection, feedback)), part)

    # As a control the student is its own teacher: then the layers and widths are its own, too.
    facts = student.facts if config.teacher_source == "student" else teacher_encoder.facts
    pairs = layer_pairs(config.layer_map, student.facts.num_layers, facts.num_layers)
    terms = build_terms(config.terms, TermSpec(student.facts, facts, pairs, task.regression, label_width(task) or 1.0))
    logger.info("Layer map:\n%s", layer_table(pairs))
    signals = {s for term in terms for s in term.teacher_signals}
    if any(observations.FEATURES[name].next_batch for name in config.features):
        signals.add(Signal("cls", facts.num_layers))
    probe = probe_batch(train, config.max_length, (teacher_encoder, student))
    if config.teacher_source != "student":
        check_encoder(teacher_encoder, probe, signals, "teacher")
    check_encoder(student, probe, {s for term in terms for s in term.student_signals if s.kind != "logits"}, "student")

    identity = teachers.weights_hash(teacher_encoder)
    exact = "float64" if dtype == torch.float64 else None

    def outputs(part: Table, wanted: set[Signal]) -> dict[Signal, np.ndarray]:
        return teachers.teacher_outputs(
            teacher_encoder,
            part,
            wanted,
            dtype=exact or (config.cache_dtype if wanted else "float32"),
            precision=config.precision,
            cache_dir=config.cache_dir,
            identity=identity,
            progress=config.show_progress,
        )

    selection_logits = np.asarray(outputs(selection, set())[teachers.LOGITS])
    feedback_logits = np.asarray(outputs(feedback, set())[teachers.LOGITS])
    source: teachers.TeacherSource
    if config.teacher_source == "cached":
        held = outputs(train, signals)
        train_logits = np.asarray(held[teachers.LOGITS], dtype=np.float32)
        source = teachers.CachedTeacher(facts, held, train, dtype)
    else:
        online = teachers.OnlineTeacher(teacher_encoder, signals, config.precision)
        source = teachers.StudentAsTeacher(facts) if config.teacher_source == "student" else online
        train_logits = np.asarray(outputs(train, set())[teachers.LOGITS])
    temperature = 1.0 if task.regression else losses.fit_temperature(selection_logits, selection.labels)
    projections = {
        f"projections.{term.name}.{name}": shape for term in terms for name, shape in term.projections.items()
    }
    assets = Assets(
        task=task,
        tokenizer=tokenizer,
        splits=cut,
        train=train,
        feedback=feedback,
        selection=selection,
        teacher_name=teacher_name,
        teacher_encoder=teacher_encoder,
        teacher_identity=identity,
        student=student,
        terms=terms,
        pairs=pairs,
        projections=projections,
        teacher=source,
        teacher_train_logits=train_logits,
        teacher_feedback_logits=feedback_logits,
        teacher_selection_logits=selection_logits,
        temperature=temperature,
        saw_feedback=saw_feedback,
        device=device,
        dtype=dtype,
    )
    return Problem(assets, config)


def resolve_device(name: str) -> torch.device:
    """The device of a run.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is no device; valid: auto, cpu, cuda, cuda:<n>.") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise ValueError(
            f"device={name!r} is absent: this machine has {count} CUDA devices. Use device=cpu or device=auto."
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name!r} is not supported; valid: auto, cpu, cuda, cuda:<n>.")
    return device


def teacher_folder(config: EnvConfig, task: Task) -> str:
    """The teacher's folder or hub name.

    Raises:
        ValueError: the task has no packaged teacher and none is named.
    """
    if config.teacher is not None:
        return config.teacher
    if task.name not in EMBEDDED:
        raise ValueError(
            f"task={task.name!r} needs a teacher: give teacher=<folder of a fine-tuned encoder>, which "
            f"`kd-env teacher task={task.name} teacher.name_or_path=...` makes."
        )
    return str(toy.teacher_folder(task.name))


def provenance(teacher: str, task: Task, fingerprint: str) -> str:
    """Whether the teacher saw feedback rows: ``no`` or ``unknown``.

    A teacher is trusted as far as its record reaches: what it was fine-tuned from must be clean as well.

    Raises:
        ValueError: its own record, or that of an encoder that it was made from, says that it did.
    """
    record: Any = read_record(teacher)
    clean = record is not None
    while record is not None:
        # A record that is no mapping, or one without these keys, tells nothing.
        known: Mapping[str, Any] = record if isinstance(record, Mapping) else {}
        trained_on, same_split = known.get("trained_on"), known.get("fingerprint") == fingerprint
        apart = trained_on == "rows apart from every split" and known.get("task") == task.name
        if same_split and trained_on != "train" and not apart:
            raise ValueError(
                f"The teacher {teacher!r}, or an encoder that it was made from, was trained on {trained_on!r} of this "
                "very split, so it saw feedback rows. Fine-tune one on train rows: "
                f"`kd-env teacher task={task.name} teacher.name_or_path=...`."
            )
        clean = clean and (apart or (same_split and trained_on == "train"))
        record = known.get("source")
    return "no" if clean else "unknown"


def check_teacher(encoder: models.Encoder, name: str, task: Task) -> None:
    """Refuse a teacher with other labels than the task's, or in another order."""
    remedy = f"Fine-tune one for this task: `kd-env teacher task={task.name} teacher.name_or_path=...`."
    if encoder.facts.num_labels != task.num_labels:
        raise ValueError(
            f"The teacher {name!r} has {encoder.facts.num_labels} labels, the task {task.name!r} has {task.num_labels} "
            f"({', '.join(task.labels) or 'a score'}). {remedy}"
        )
    found = [str(encoder.module.config.id2label[index]) for index in range(task.num_labels)]
    if task.labels and not all(label.startswith("LABEL_") for label in found):
        plain = [label.lower().replace(" ", "_").replace("-", "_") for label in found]
        if plain != [label.lower().replace(" ", "_").replace("-", "_") for label in task.labels]:
            raise ValueError(
                f"The teacher {name!r} orders its labels {found}, the task {task.name!r} {list(task.labels)}. {remedy}"
            )


def check_positions(encoder: models.Encoder, longest: int, what: str) -> None:
    """Refuse rows longer than the encoder's positions."""
    positions = models.usable_positions(encoder.module)
    if positions is not None and longest > positions:
        raise ValueError(f"A row has {longest} tokens, the {what} {positions} positions; set max_length={positions}.")


def build_student(
    config: EnvConfig,
    teacher: models.Encoder,
    tokenizer: Any,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
) -> models.Encoder:
    """The student's template.

    Raises:
        ValueError: a vocabulary other than the teacher's, sizes that the architecture does not take, or layers that do
            not exist.
    """
    options = config.student_config
    trains = options.train_embeddings
    if options.init == "fresh":
        sizes = {
            "num_hidden_layers": options.num_hidden_layers or 1,
            "hidden_size": options.hidden_size,
            "num_attention_heads": options.num_attention_heads,
            "intermediate_size": options.intermediate_size or 4 * options.hidden_size,
        }
        if options.hidden_size % options.num_attention_heads:
            raise ValueError(
                f"student.hidden_size={options.hidden_size} is not divisible by "
                f"student.num_attention_heads={options.num_attention_heads}."
            )
        module = fresh_encoder(
            type(teacher.module), teacher.module.config, sizes, num_labels=task.num_labels, dropout=options.dropout
        )
        trains = True if trains is None else trains
        fresh = "all"
    else:
        if options.init == "teacher":
            source_module = teacher.module
        else:
            assert options.name_or_path is not None
            source_module = models.load_encoder(options.name_or_path, num_labels=task.num_labels)
            other = models.load_tokenizer(options.name_or_path)
            if other.get_vocab() != tokenizer.get_vocab():
                raise ValueError(
                    f"The student's vocabulary ({len(other.get_vocab())} tokens, {options.name_or_path}) is not the "
                    f"teacher's ({len(tokenizer.get_vocab())} tokens); use a student with the same tokenizer, "
                    "student.init=teacher or student.init=fresh."
                )
        depth = int(source_module.config.num_hidden_layers)
        count = options.num_hidden_layers
        if count is None and isinstance(options.layers, str):
            if options.init == "teacher":
                raise ValueError("student.init='teacher' needs student.num_hidden_layers, or explicit student.layers.")
            count = depth
        kept = cut_layers(options.layers, count, depth)
        module = cut_encoder(source_module, kept, num_labels=task.num_labels, dropout=options.dropout)
        trains, fresh = bool(trains), "head"
    module.config.problem_type = "regression" if task.regression else "single_label_classification"
    if task.labels:
        module.config.id2label = dict(enumerate(task.labels))
        module.config.label2id = {label: index for index, label in enumerate(task.labels)}
    return models.Encoder.build(module.to(device, dtype), train_embeddings=trains, fresh=fresh)
