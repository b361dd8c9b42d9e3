"""Teachers that are no encoders: told by how they are named, refused where they have no meaning, and made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from kd_env.config.environment import EnvConfig
from kd_env.core.types import EncoderFacts
from kd_env.data.rows import ProblemRows
from kd_env.data.tasks import Task
from kd_env.knowledge import Term, TermSpec, build_terms
from kd_env.models.layermap import layer_pairs
from kd_env.numerics.calibration import fit_temperature
from kd_env.teachers import sources
from kd_env.teachers.answers.files import ENDINGS, AnswerFile
from kd_env.teachers.answers.functions import AskedFunction, function_of, is_function
from kd_env.teachers.answers.row_ids import TRAIN
from kd_env.teachers.teacher_set import AnswerSource, Teacher, TeacherTables
from kd_env.teachers.verdicts import Source, judge, pass_judgement


def is_answers(source: str) -> bool:
    """Whether a teacher is named as a file of answers or a function, and not as a folder or a model of the hub."""
    return (Path(source).suffix in ENDINGS and not Path(source).is_dir()) or is_function(source)


def check_answers(source: str) -> None:
    """Refuse a file that is not there, or a function that cannot be imported, before any work.

    Raises:
        ValueError: which of them, and why.
    """
    if is_function(source):
        function_of(source)
    elif not Path(source).is_file():
        raise ValueError(f"The file of answers {source!r} is not there; check the path.")


def check_use(config: EnvConfig, answering: Sequence[str], writes_tokens: bool, features: Iterable[str]) -> None:
    """Refuse teachers without an encoder where one is needed.

    Args:
        config: the options.
        answering: names of the teachers that only answer.
        writes_tokens: whether the decision edits rows.
        features: names of those that read the teacher's [CLS].

    Raises:
        ValueError: the first option that needs an encoder, and the remedy.
    """
    if not answering:
        return
    who = f"The teacher {answering[0]!r} gives answers to rows, and is no encoder"
    reading = list(features)
    if reading:
        raise ValueError(f"{who}: the features {', '.join(reading)} read its [CLS]; leave them out of features.")
    for asked, reason in (
        (writes_tokens, f"decision={config.decision!r} edits rows, to which it has given no answer"),
        (config.teacher_learns, f"teacher_updates={config.teacher_updates!r} trains the teacher; set 'none'"),
        (
            config.teacher_source == "online",
            "teacher_source='online' runs it for every batch; set 'cached' (teacher.source=cached in the main job)",
        ),
    ):
        if asked:
            raise ValueError(f"{who}: {reason}. Or name a fine-tuned encoder as the teacher.")


def load_answers(source: str, task: Task, rows: ProblemRows, cache_dir: str | None) -> AnswerSource:
    """Who answers under the name of a teacher.

    Raises:
        ValueError: as :class:`AnswerFile` and :class:`AskedFunction`.
    """
    return AskedFunction(source, task, rows, cache_dir) if is_function(source) else AnswerFile(source, task)


def make_answering(
    config: EnvConfig,
    name: str,
    source: str,
    answers: AnswerSource,
    task: Task,
    student: EncoderFacts,
    rows: ProblemRows,
    tables: TeacherTables,
    dtype: torch.dtype,
    label_width: float | None,
) -> Teacher:
    """Terms, outputs and verdict of a teacher that only answers.

    Args:
        config: options of the environment.
        name: of the teacher.
        source: file or function.
        answers: who answers.
        task: the task.
        student: sizes of the student.
        rows: which rows are used for what.
        tables: the same rows in the student's tokens.
        dtype: floating type of the run.
        label_width: of a regression task.

    Raises:
        ValueError: terms that read hidden states or attention, rows without an answer, or answers of no use.
    """
    # Whatever reads the inside of an encoder is refused by name; sizes like the student's keep anything else from it.
    pairs = layer_pairs("uniform", student.num_layers, student.num_layers)
    terms = build_terms(config.terms, TermSpec(student, student, pairs, task.regression, label_width or 1.0))
    if config.teacher_source != "student":
        _check_terms(name, terms)
    train, feedback, selection = (
        answers.logits(rows.texts, TRAIN, index) for index in (rows.train, rows.feedback, rows.splits.selection)
    )
    verdict = judge(selection, tables.selection.labels, task, tables.train.labels)
    pass_judgement(verdict, config.teacher_check, Source(name, source, (), named=True, has_config=False), task)
    facts = EncoderFacts(num_layers=0, hidden_size=0, num_heads=0, num_labels=task.num_labels, vocab_size=0)
    taught: sources.TeacherSource = sources.CachedTeacher(facts, {sources.LOGITS: train}, tables.train, dtype)
    if config.teacher_source == "student":
        taught = sources.StudentAsTeacher(student)
    said = hashlib.sha256(b"".join(part.tobytes() for part in (train, feedback, selection)))
    return Teacher(
        name=name,
        folder=source,
        network=None,
        tokenizer=None,
        foreign=False,
        identity=said.hexdigest(),
        saw_feedback="no" if answers.fitted_here else "unknown",
        pairs=(),
        terms=terms,
        source=taught,
        train_logits=train,
        feedback_logits=feedback,
        selection_logits=selection,
        temperature=1.0 if task.regression else fit_temperature(selection, tables.selection.labels, "selection"),
        verdict=verdict,
        order=(),
        answers=answers,
    )


def _check_terms(name: str, terms: Sequence[Term]) -> None:
    for term in terms:
        inside = sorted({signal.kind for signal in term.teacher_signals if signal.kind != "logits"})
        if inside:
            fitting = [other.name for other in terms if {s.kind for s in other.teacher_signals} <= {"logits"}]
            raise ValueError(
                f"The teacher {name!r} gives answers to rows, and has no hidden states or attention: the term "
                f"{term.name!r} reads its {', '.join(inside)}. Leave the term out (of these {fitting} fit; soft_label, "
                "logit_mse and dist read logits alone), or use an encoder as the teacher."
            )
