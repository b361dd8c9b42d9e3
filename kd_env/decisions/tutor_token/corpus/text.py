"""From options to a tutored problem: text or rows of a task, teacher and student, refused where they do not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from kd_env.core.types import Batch
from kd_env.data.corpora import load_texts
from kd_env.data.tables import Table, make_buckets, on_device
from kd_env.data.text import TokenFacts, TokenizedTexts, cut_texts, tokenize_texts
from kd_env.data.toy import masked_lm_folder
from kd_env.decisions.tutor_token import reading
from kd_env.decisions.tutor_token.corpus.slots import check_first, ordinary_places, slots_of, tokens_of
from kd_env.decisions.tutor_token.corpus.student import build_tutor_student
from kd_env.decisions.tutor_token.corpus.task import task_assets
from kd_env.decisions.tutor_token.options import TutorConfig
from kd_env.decisions.tutor_token.problem import TutorAssets, TutorProblem, draw_slots
from kd_env.decisions.tutor_token.process import make_tutor_problem
from kd_env.finetuning.masked_lm_config import sources
from kd_env.knowledge import plausibility
from kd_env.models.checks import check_masked_lm
from kd_env.models.devices import resolve_device
from kd_env.models.masked_lm import MaskedLM, load_masked_lm
from kd_env.teachers.provenance import provenance


def build_tutor_problem(config: TutorConfig) -> TutorProblem:
    """Read the text or the rows of a task, load the teacher, make the student's template and the evaluated rows.

    Raises:
        ValueError: an option without meaning, text that is too short, or a teacher without a language-model head (with
            the command that makes one).
    """
    config.validate()
    device = resolve_device(config.device)
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    assets = text_assets(config, device, dtype) if config.task is None else task_assets(config, device, dtype)
    return make_tutor_problem(assets, config)


def text_assets(config: TutorConfig, device: torch.device, dtype: torch.dtype) -> TutorAssets:
    """The parts of pre-training distillation; errors as :func:`build_tutor_problem`."""
    name = packaged_teacher(config.text) if config.teacher is None else config.teacher
    teacher = load_masked_lm(name)
    teacher = dataclasses.replace(teacher, module=teacher.module.to(device, dtype))
    tokenizer, tokens = tokens_of(name)
    texts = load_texts(config.text, data_dir=config.data_dir, column=config.column)
    cut = cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)
    whole = tokenize_texts(cut.train, tokenizer, tokens, config.max_length)
    slots, least = slots_of(config, ordinary_places(whole.table, tokens))
    train = tokenize_texts(cut.train, tokenizer, tokens, config.max_length, at_least=least) if least > 1 else whole
    check_masked_lm(name, tokenizer, teacher, whole.table, config.max_length)
    check_first(name, train.table, tokens)
    student = build_tutor_student(config, teacher, device, dtype)
    make_buckets(train.table.lengths, config.batch_size)  # refuses too few rows before the teacher runs
    held = tokenize_texts(cut.feedback[: config.evaluation_rows], tokenizer, tokens, config.max_length, at_least=least)
    feedback, labels, floor = evaluated_rows(config, teacher, tokens, held, slots, device)
    return TutorAssets(
        tokenizer=tokenizer,
        tokens=tokens,
        train=on_device(train.table, device),
        ordinary=ordinary_places(train.table, tokens),
        left_out=len(cut.train) - len(train.kept),
        slots=slots,
        feedback=feedback,
        feedback_labels=labels,
        loss_floor=floor,
        temperature=1.0,
        calibration=None,
        teacher=teacher,
        classifier=None,
        student=student,
        device=device,
        dtype=dtype,
        fingerprint=cut.fingerprint,
        # A record of one source says nothing about the others: no record names several as its task.
        saw_feedback=provenance(name, "+".join(sources(config.text)), cut.fingerprint),
        verdict=None,
    )


def packaged_teacher(text: str | tuple[str, ...]) -> str:
    """Folder of the packaged masked language model of an embedded task.

    Raises:
        ValueError: there is none for this text, or for several sources together.
    """
    names = sources(text)
    folder = masked_lm_folder(names[0]) if len(names) == 1 else None
    if folder is None:
        word = names[0] if len(names) == 1 else f"[{','.join(names)}]"
        raise ValueError(
            f"text={text!r} comes without a teacher; give teacher=<folder or hub name of a masked language model>, "
            f"such as one that `kd-env teacher objective=mlm text={word}` writes."
        )
    return str(folder)


def evaluated_rows(
    config: TutorConfig,
    teacher: MaskedLM,
    tokens: TokenFacts,
    held: TokenizedTexts,
    slots: int,
    device: torch.device,
) -> tuple[Table, Tensor, float]:
    """The evaluated rows with fixed slots, in which samples of the teacher stand; their plausibility, and its floor."""
    table = held.table
    rng = np.random.default_rng([config.split_seed, 1])
    ids, ordinary = table.input_ids.numpy(), ordinary_places(table, tokens)
    drawn = draw_slots(config, tokens, ids, ordinary, slots, rng)
    labels = np.ones(ids.shape)
    written = ids.copy()
    moved = on_device(table, device)
    for rows in table.chunks(32):
        batch = moved.gather(rows)
        places, there = (torch.as_tensor(array[rows], device=device) for array in (drawn.positions, drawn.valid))
        one = Batch(*(part[None] for part in batch))
        masked = reading.edited(
            one, places[None], there[None], torch.as_tensor(drawn.masked[rows], device=device)[None]
        )
        with torch.no_grad():
            hidden, _ = teacher.encode(Batch(*(part[0] for part in masked)), frozenset())
            features = teacher.features(reading.at_slots(hidden[None], places[None]))
            logits = teacher.decode(features).double().cpu().numpy()[0]
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        original = np.take_along_axis(ids[rows], drawn.positions[rows], axis=-1)
        at = [np.take_along_axis(logits, token[..., None].astype(np.int64), -1)[..., 0] for token in (chosen, original)]
        label = np.exp(np.minimum(at[0] - at[1], 0.0))
        for array, value in ((written, chosen), (labels, label)):
            here = array[rows]
            old = np.take_along_axis(here, drawn.positions[rows], axis=-1)
            np.put_along_axis(here, drawn.positions[rows], np.where(drawn.valid[rows], value, old), axis=-1)
            array[rows] = here
    mask = torch.arange(ids.shape[1]) < torch.as_tensor(table.lengths)[:, None]
    floor = float(plausibility.plausibility_floor(torch.as_tensor(labels), mask))
    edited = dataclasses.replace(table, input_ids=torch.as_tensor(written))
    dtype = teacher.module.dtype
    return on_device(edited, device), torch.as_tensor(labels, dtype=dtype, device=device), floor
