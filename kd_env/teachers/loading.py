"""From options to teachers: folders, provenance, labels, terms and outputs, each refused where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_env.config.environment import EnvConfig
from kd_env.config.learning_teacher import LearningTeacherConfig
from kd_env.core.types import EncoderFacts, Signal
from kd_env.data import toy
from kd_env.data.tables import Table
from kd_env.data.tasks import EMBEDDED, Task
from kd_env.knowledge import Term, TermSpec, build_terms
from kd_env.models import encoder as models
from kd_env.models import pretrained
from kd_env.models.checks import check_encoder, check_positions, check_vocabulary, probe_batch
from kd_env.models.layermap import cut_layers, layer_pairs
from kd_env.models.library.padding import settle_padding
from kd_env.models.students.cut import cut_encoder
from kd_env.numerics.calibration import fit_temperature
from kd_env.teachers import outputs, sources
from kd_env.teachers.catalog import BUILT_IN, TEACHER_SOURCES, SourceParts, logits_of
from kd_env.teachers.label_order import are_default, label_names, put_in_task_order
from kd_env.teachers.provenance import provenance
from kd_env.teachers.teacher_set import Teacher, TeacherTables, named_folders
from kd_env.teachers.verdicts import Source, judge, pass_judgement


class LoadedTeacher(NamedTuple):
    """A teacher before its rows are there."""

    name: str
    folder: str
    encoder: models.Encoder
    tokenizer: Any
    saw_feedback: str
    order: tuple[int, ...]
    """For each label of the task the output of the folder's model; empty where they are alike."""
    named: bool
    """Whether the folder names its outputs."""

    @property
    def source(self) -> Source:
        """Where it comes from, for messages."""
        return Source(self.name, self.folder, self.order, self.named)


def teacher_folders(config: EnvConfig, task: Task, many: bool) -> dict[str, str]:
    """Folders or hub names of the teachers by name; with ``many`` the packaged set of the embedded task.

    Raises:
        ValueError: the task has no packaged teacher and none is named, or two teachers have one name.
    """
    if config.teachers is not None:
        return named_folders(config.teachers)
    if config.teacher is None:
        if task.name not in EMBEDDED:
            raise ValueError(
                f"task={task.name!r} needs a teacher: give teacher=<folder of a fine-tuned encoder>, which "
                f"`kd-env teacher task={task.name} teacher.name_or_path=...` makes."
            )
        if many:
            return toy.teacher_set(task.name)
        bare = toy.masked_lm_folder(task.name)
        if config.teacher_learns and config.learning_teacher_config.init == "pretrained" and bare is not None:
            return {task.name: str(bare)}
        return {task.name: str(toy.teacher_folder(task.name))}
    return {task.name: config.teacher}


def load_teachers(
    folders: Mapping[str, str],
    task: Task,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype,
    learning: LearningTeacherConfig | None = None,
) -> list[LoadedTeacher]:
    """The encoders of :func:`teacher_folders` with their tokenizers, in order; with ``learning`` to be trained.

    Raises:
        ValueError: no model, other labels than the task's, or a record that says that it saw feedback rows.
    """
    teachers = []
    for name, folder in folders.items():
        saw_feedback = provenance(folder, task.name, fingerprint)
        has_head = learning is None or learning.init == "finetuned"
        module = pretrained.load_encoder(folder, num_labels=None if has_head else task.num_labels)
        named = has_head and not are_default(label_names(module))
        order = put_in_task_order(module, folder, task) if has_head else ()
        if learning is None:
            encoder = models.Encoder.build(module.to(device, dtype), train_embeddings=True, fresh="none")
        else:
            encoder = _learning_teacher(learning, module, folder, task, device, dtype)
        tokenizer = pretrained.load_tokenizer(folder)
        settle_padding(tokenizer, encoder.module, folder)
        check_vocabulary(tokenizer, encoder.module, folder)
        teachers.append(LoadedTeacher(name, folder, encoder, tokenizer, saw_feedback, order, named))
    return teachers


def _learning_teacher(
    options: LearningTeacherConfig, module: Any, folder: str, task: Task, device: torch.device, dtype: torch.dtype
) -> models.Encoder:
    bare = options.init != "finetuned"
    if options.num_hidden_layers is not None or options.dropout > 0:  # dropout is set where an encoder is made
        depth = int(module.config.num_hidden_layers)
        layers = cut_layers("first", options.num_hidden_layers or depth, depth)
        cut = cut_encoder(module, layers, num_labels=task.num_labels, dropout=options.dropout)
        if not bare:  # the cut has a new head
            lacking = cut.load_state_dict(module.state_dict(), strict=False).missing_keys
            if lacking:
                raise ValueError(
                    f"The teacher {folder!r} cannot be cut, or given dropout, with its head: there is no {lacking[0]} "
                    "in it. Set learning_teacher.num_hidden_layers=null and learning_teacher.dropout=0, or "
                    "learning_teacher.init='pretrained' for a new head."
                )
        module = cut
    if bare and task.labels:
        module.config.id2label = dict(enumerate(task.labels))
    module = module.to(device, dtype)
    drawn = {"finetuned": "none", "pretrained": "head", "fresh": "all"}[options.init]
    trains, zero = options.train_embeddings, options.zero_head
    return models.Encoder.build(module, train_embeddings=trains, fresh=drawn, zero_head=zero)


def make_teacher(
    config: EnvConfig,
    loaded: LoadedTeacher,
    task: Task,
    student: EncoderFacts,
    tables: TeacherTables,
    *,
    foreign: bool,
    device: torch.device,
    dtype: torch.dtype,
    label_width: float | None,
    needs_cls: bool,
    edited: bool = False,
) -> Teacher:
    """Terms, source and outputs of one teacher.

    Args:
        config: options of the environment.
        loaded: the teacher.
        task: the task.
        student: sizes of the student.
        tables: the rows in this teacher's tokens.
        foreign: whether these are other tokens than the student's.
        device: of the run.
        dtype: floating type of the run.
        label_width: of a regression task.
        needs_cls: whether a feature reads its last [CLS].
        edited: whether train rows are edited, so that nothing is asked about them as they are.

    Raises:
        ValueError: rows longer than its positions, terms that need what it cannot give, or an encoder that our forward
            pass would run wrongly.
    """
    encoder = loaded.encoder
    what = "teacher" if config.teachers is None else f"teacher {loaded.name!r}"
    check_positions(encoder, max(int(table.lengths.max()) for table in tables), what)
    # As a control the student is its own teacher: then the layers and widths are its own, too.
    facts = student if config.teacher_source == "student" else encoder.facts
    pairs = layer_pairs(config.layer_map, student.num_layers, facts.num_layers)
    terms = build_terms(config.terms, TermSpec(student, facts, pairs, task.regression, label_width or 1.0))
    signals = {signal for term in terms for signal in term.teacher_signals}
    if foreign:
        _check_foreign(loaded.name, terms)
        if config.teacher_learns:
            raise ValueError(
                f"The teacher {loaded.name!r} has another tokenizer than the student, and learns from the student's "
                "batches; use a student with its tokenizer (student.init=fresh or teacher), or teacher_updates='none'."
            )
    if needs_cls:
        signals.add(Signal("cls", facts.num_layers))
    if config.teacher_source != "student":
        check_encoder(encoder, probe_batch(tables.train, config.max_length, (encoder,)), signals, what)
    identity = outputs.weights_hash(encoder)
    exact = "float64" if dtype == torch.float64 else None

    def compute(table: Table, wanted: set[Signal]) -> Mapping[Signal, np.ndarray]:
        return outputs.teacher_outputs(
            encoder,
            table,
            wanted,
            dtype=exact or (config.cache_dtype if wanted else "float32"),
            precision=config.precision,
            cache_dir=config.cache_dir,
            identity=identity,
            progress=config.show_progress,
            name="" if config.teachers is None else loaded.name,
        )

    def logits(table: Table) -> np.ndarray:
        return np.asarray(compute(table, set())[sources.LOGITS])

    def fixed_logits(table: Table) -> np.ndarray:
        # What a teacher that learns says at first is read nowhere but in its verdict.
        return np.zeros((len(table), task.num_labels), np.float32) if config.teacher_learns else logits(table)

    verdict, labels = None, tables.selection.labels
    selection_logits = fixed_logits(tables.selection)
    learning = config.learning_teacher_config
    # Without its head or some of its blocks it has everything still to learn.
    if not config.teacher_learns or (learning.init == "finetuned" and learning.num_hidden_layers is None):
        first_logits = logits(tables.selection) if config.teacher_learns else selection_logits
        verdict = judge(first_logits, labels, task, tables.train.labels)
        pass_judgement(verdict, config.teacher_check, loaded.source, task)
    feedback_logits, fixed = fixed_logits(tables.feedback), task.regression or config.teacher_learns
    held: dict[Signal, np.ndarray] = {}

    def kept() -> Mapping[Signal, np.ndarray]:
        held.update(compute(tables.train, signals))
        return held

    parts = SourceParts(encoder, facts, frozenset(signals), tables.train, foreign, config.precision, dtype, kept)
    source = TEACHER_SOURCES[config.teacher_source](parts)
    if config.teacher_source not in BUILT_IN:
        train_logits = logits_of(source, tables.train, task.num_labels)
    elif held:
        train_logits = np.asarray(held[sources.LOGITS], dtype=np.float32)
    else:
        nothing = np.zeros((len(tables.train), task.num_labels), np.float32)
        train_logits = nothing if edited else fixed_logits(tables.train)
    return Teacher(
        name=loaded.name,
        folder=loaded.folder,
        network=encoder,
        tokenizer=loaded.tokenizer,
        foreign=foreign,
        identity=identity,
        saw_feedback=loaded.saw_feedback,
        pairs=pairs,
        terms=terms,
        source=source,
        train_logits=train_logits,
        feedback_logits=feedback_logits,
        selection_logits=selection_logits,
        temperature=1.0 if fixed else fit_temperature(selection_logits, labels, "selection"),
        verdict=verdict,
        order=loaded.order,
    )


def _check_foreign(name: str, terms: Sequence[Term]) -> None:
    for term in terms:
        token_level = sorted({s.kind for s in term.teacher_signals if s.kind not in ("logits", "cls")})
        if token_level:
            raise ValueError(
                f"The teacher {name!r} has another tokenizer than the student, so that its tokens are not the "
                f"student's: the term {term.name!r} compares {', '.join(token_level)} token by token. Leave the term "
                "out (logits and [CLS] still work: soft_label, logit_mse, cls), or use a teacher with the student's "
                "tokenizer."
            )
