"""From options to masked text: texts and language models are read, students made, feedback texts edited for good."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from kd_env.config.environment import EnvConfig
from kd_env.core import trees
from kd_env.data.tables import Table, on_device, same_tokens
from kd_env.data.tasks import Task
from kd_env.data.text import TokenFacts
from kd_env.data.toy import masked_lm_folder
from kd_env.envs.reader import language_model, ordinary_places, tokens_of
from kd_env.envs.texts.rows import ReadingModel, packed_rows, rows_in_memory, text_sources
from kd_env.knowledge import TermSpec, build_terms
from kd_env.mdp.assets import Assets
from kd_env.mdp.objectives import reading
from kd_env.mdp.objectives.batches import at_slots, edited
from kd_env.models.checks import check_masked_lm, check_positions
from kd_env.models.layermap import layer_pairs
from kd_env.models.masked_lm import MaskedLM
from kd_env.models.precision import resolve_precision
from kd_env.models.students.taggers import build_token_student
from kd_env.teachers.answers.loading import is_answers
from kd_env.teachers.outputs import weights_hash
from kd_env.teachers.provenance import provenance
from kd_env.teachers.sources import OnlineTeacher
from kd_env.teachers.teacher_set import Teacher, named_folders

METRIC = "token_accuracy"
"""Share of tokens that the student puts on the side of 1/2 on which their plausibility lies."""


def text_assets(config: EnvConfig, device: torch.device, dtype: torch.dtype) -> tuple[Assets, EnvConfig]:
    """The parts of a problem of masked text, and the options with what its models make of precision.

    Raises:
        ValueError: an option without meaning, text that is too short, or a teacher without a language-model head (with
            the command that makes one).
    """
    folders = _folders(config)
    for folder in folders.values():
        if is_answers(folder):
            raise ValueError(
                f"The teacher {folder!r} gives answers to rows of a task, and with objective='text' it has to be a "
                "masked language model: give its folder or hub name."
            )
    models = {name: language_model(folder, device, dtype) for name, folder in folders.items()}
    first = next(iter(folders))  # the first of several reads the masks
    folder, model = folders[first], models[first]
    tokenizer, tokens = tokens_of(folder)
    student = build_token_student(config.student_config, config.student_head, model, device, dtype)
    student = dataclasses.replace(student, recomputes=config.activation_checkpointing)

    def check(sample: Sequence[str], rows: Table) -> None:
        """Refuse models that cannot read these texts, or rows of them."""
        for name, other in folders.items():
            if name != first and not same_tokens(tokenizer, tokens_of(other)[0], sample):
                raise ValueError(
                    f"The teachers {folder!r} and {other!r} have different tokenizers, and every teacher reads the "
                    "same edited text; use masked language models of one vocabulary."
                )
            check_masked_lm(other, tokenizer, models[name], rows, config.max_length)
        check_positions(student, int(rows.lengths.max()), "student")

    reading_model = ReadingModel(folder, model, tokenizer, tokens)
    rows = (packed_rows if config.packing else rows_in_memory)(config, reading_model, device, check)
    running = [student.facts, *(each.facts for each in models.values())]
    config = dataclasses.replace(config, precision=resolve_precision(config.precision, device, running))
    config = config.with_rows(len(rows.train))
    rows.train.order(config.batch_size)  # refuses too few rows before the teacher runs
    reader = rows.reader

    def judged(held: Table) -> Table:
        return evaluated_texts(config, model, tokens, held, reader.slots, device)

    feedback = judged(rows.feedback)
    teachers = []
    for name, path in folders.items():
        facts = models[name].facts
        pairs = layer_pairs(config.layer_map, student.facts.num_layers, facts.num_layers)
        terms = build_terms(config.terms, TermSpec(student.facts, facts, pairs, regression=False, text=True))
        empty = np.zeros((len(rows.train), 0), np.float32)
        # A record of one source says nothing about the others: no record names several as its task.
        saw = provenance(path, "+".join(text_sources(config)), rows.splits.fingerprint)
        teachers.append(
            Teacher(
                name=name,
                folder=path,
                network=models[name].body,
                tokenizer=tokenizer,
                foreign=False,
                identity=reader.identity if name == first else weights_hash(models[name].body),
                saw_feedback=saw,
                pairs=pairs,
                terms=terms,
                source=OnlineTeacher(models[name].body, (), config.precision),
                train_logits=empty,
                feedback_logits=empty,
                selection_logits=empty,
                temperature=1.0,
                verdict=None,
                order=(),
                language_model=models[name],
            )
        )
    assets = Assets(
        task=Task("+".join(text_sources(config)), ("text",), "", (), (METRIC,), ("dev",)),
        tokenizer=tokenizer,
        splits=rows.splits,
        train=rows.train,
        feedback=feedback,
        selection=judged(rows.selection),
        teachers=tuple(teachers),
        reference=0,
        student=student,
        projections={},
        device=device,
        dtype=dtype,
        reader=reader,
    )
    return assets, config


def _folders(config: EnvConfig) -> dict[str, str]:
    """Folders of the teachers by name."""
    if config.teachers is not None:
        return named_folders(config.teachers)
    sources = text_sources(config)
    folder = config.teacher if config.teacher is not None else packaged_teacher(sources)
    return {"+".join(sources): folder}


def packaged_teacher(sources: Sequence[str]) -> str:
    """Folder of the packaged masked language model of an embedded task.

    Raises:
        ValueError: there is none for this text, or for several sources together.
    """
    folder = masked_lm_folder(sources[0]) if len(sources) == 1 else None
    if folder is None:
        text = sources[0] if len(sources) == 1 else tuple(sources)
        word = sources[0] if len(sources) == 1 else f"[{','.join(sources)}]"
        raise ValueError(
            f"text={text!r} comes without a teacher; give teacher=<folder or hub name of a masked language model>, "
            f"such as one that `kd-env teacher objective=mlm text={word}` writes."
        )
    return str(folder)


def evaluated_texts(
    config: EnvConfig, model: MaskedLM, tokens: TokenFacts, table: Table, slots: int, device: torch.device
) -> Table:
    """Texts with fixed slots in which samples of the teacher stand, labelled with the plausibility of every token."""
    rng = np.random.default_rng([config.split_seed, 1])
    ids, ordinary = table.input_ids.numpy(), ordinary_places(table, tokens)
    drawn = reading.draw_slots(config, tokens, ids, ordinary, slots, rng)
    labels = np.ones(ids.shape)
    written = ids.copy()
    moved = on_device(table, device)
    for rows in table.chunks(32):
        batch = moved.gather(rows)
        places, there = (torch.as_tensor(array[rows], device=device) for array in (drawn.positions, drawn.valid))
        one = trees.map_leaves(lambda part: part[None], batch)
        masked = edited(one, places[None], there[None], torch.as_tensor(drawn.masked[rows], device=device)[None])
        with torch.no_grad():
            hidden, _ = model.encode(trees.map_leaves(lambda part: part[0], masked), frozenset())
            features = model.features(at_slots(hidden[None], places[None]))
            logits = model.decode(features).double().cpu().numpy()[0]
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        original = np.take_along_axis(ids[rows], drawn.positions[rows], axis=-1)
        at = [np.take_along_axis(logits, token[..., None].astype(np.int64), -1)[..., 0] for token in (chosen, original)]
        label = np.exp(np.minimum(at[0] - at[1], 0.0))
        for array, value in ((written, chosen), (labels, label)):
            here = array[rows]
            old = np.take_along_axis(here, drawn.positions[rows], axis=-1)
            np.put_along_axis(here, drawn.positions[rows], np.where(drawn.valid[rows], value, old), axis=-1)
            array[rows] = here
    on_text = dataclasses.replace(
        table,
        input_ids=torch.as_tensor(written),
        label_tensor=torch.as_tensor(labels, dtype=model.module.dtype),
        labels=labels,
    )
    return on_device(on_text, device)
