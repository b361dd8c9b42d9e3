"""Everything about a tutored distillation that no episode changes: text, teacher, student template, losses, spaces."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import warnings
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env import masking, models
from kd_env.build import resolve_device
from kd_env.build_teachers import provenance
from kd_env.layermap import layer_pairs
from kd_env.mlm_model import MaskedLM, check_fits, load_masked_lm
from kd_env.tables import Buckets, Table, make_buckets
from kd_env.text import TokenFacts, TokenizedTexts, cut_texts, load_texts, token_facts, tokenize_texts
from kd_env.tutor import observe, passes, terms
from kd_env.tutor.actions import TokenActions, make_token_actions
from kd_env.tutor.config import LOSSES, TutorConfig
from kd_env.tutor.student import build_tutor_student
from kd_env.types import Batch, Signal

logger = logging.getLogger("kd_env")

PROCESS_OPTIONS = frozenset(
    {
        *("mode", "teacher_every", "observation", "action_view", "num_candidates", "reward", "budget", "batch_size"),
        *("evaluate_every", "optimizer", "losses", "layer_map", "max_episode_steps", "render_mode"),
    }
)
"""Options that touch neither text nor models, and that :meth:`TutorProblem.with_options` may change."""


class Slots(NamedTuple):
    """The masked positions of one batch, on the host."""

    positions: np.ndarray  # [B, P] int64
    valid: np.ndarray  # [B, P] bool
    masked: np.ndarray  # [B, P] int64, what is written there
    dropped: int


class TutorAssets(NamedTuple):
    """The costly parts, shared by every environment of one problem."""

    tokenizer: Any
    tokens: TokenFacts
    train: Table
    ordinary: np.ndarray  # [R, S] bool, positions of train rows that may be masked
    left_out: int  # train texts with fewer ordinary tokens than slots
    slots: int
    feedback: Table  # evaluated rows, with the replacements written into them
    feedback_labels: Tensor  # [R, S] their plausibility
    loss_floor: float  # the least loss on them
    teacher: MaskedLM
    student: models.Encoder
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    saw_feedback: str  # whether the teacher was trained on feedback texts: no or unknown


class TutorProblem:
    """One problem; immutable, and shared by any number of environments.

    Attributes:
        config: the validated options.
        loss_names: the L losses of the student; ``loss_weights`` alike.
        pairs: mapped (student layer, teacher layer); ``block_pairs`` without the embeddings.
        projection: ``(out, in)`` of the map from student to teacher width, None where they are the same.
        loss_floor: the least feedback loss, ``e_T`` of the gap.
        actions: the action view.
        observation_space: a flat ``Dict`` of 1-D boxes (:mod:`kd_env.tutor.observe`).
    """

    def __init__(self, assets: TutorAssets, config: TutorConfig) -> None:
        self.assets, self.config = assets, config
        self.train, self.feedback, self.feedback_labels = assets.train, assets.feedback, assets.feedback_labels
        self.teacher, self.student = assets.teacher, assets.student
        self.device, self.dtype, self.precision = assets.device, assets.dtype, config.precision
        self.slots, self.loss_floor = assets.slots, assets.loss_floor
        self.num_candidates = config.num_candidates
        self.vocab_size = assets.teacher.facts.vocab_size
        if config.num_candidates > self.vocab_size:
            raise ValueError(
                f"num_candidates={config.num_candidates} is more than the {self.vocab_size} tokens of the vocabulary."
            )
        student, teacher = assets.student.facts, assets.teacher.facts
        self.loss_names = tuple(name for name in LOSSES if config.losses.get(name, 0.0) > 0)
        self.loss_weights = tuple(float(config.losses[name]) for name in self.loss_names)
        self.pairs = layer_pairs(config.layer_map, student.num_layers, teacher.num_layers)
        self.block_pairs = tuple(pair for pair in self.pairs if min(pair) > 0)
        if "attention" in self.loss_names:
            if student.num_heads != teacher.num_heads:
                raise ValueError(
                    f"The loss attention compares head with head, but the student has {student.num_heads} heads and "
                    f"the teacher {teacher.num_heads}; give the student {teacher.num_heads} heads, or leave attention "
                    "out of losses."
                )
            if not self.block_pairs:
                raise ValueError(f"layer_map={config.layer_map!r} maps no blocks, which the loss attention needs.")
        wide = "hidden_states" in self.loss_names and student.hidden_size != teacher.hidden_size
        self.projection = (teacher.hidden_size, student.hidden_size) if wide else None
        self.student_signals, self.teacher_signals = (self._signals(place) for place in (0, 1))
        self.buckets: Buckets = make_buckets(assets.train.lengths, config.batch_size)
        self.host_ids: np.ndarray = assets.train.input_ids.cpu().numpy()
        self.actions: TokenActions = make_token_actions(
            config.action_view,
            batch_size=config.batch_size,
            slots=self.slots if config.mode == "joint" else 1,
            vocab_size=self.vocab_size,
            num_candidates=config.num_candidates,
        )
        self.observation_space = observe.space(self)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the text, the teacher's weights and the start of the student."""
        digest = hashlib.sha256(json.dumps([self.assets.fingerprint, self.train.content_hash()]).encode())
        for module in (self.teacher.module, self.student.module):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_options(self, **options: Any) -> TutorProblem:
        """The same text and models under other options of the decision process.

        Raises:
            ValueError: an option that needs other text or models.
        """
        for key in options:
            if key not in PROCESS_OPTIONS:
                raise ValueError(
                    f"{key}={options[key]!r} cannot be changed for a shared problem; valid: "
                    f"{', '.join(sorted(PROCESS_OPTIONS))}. Build another problem for it."
                )
        return TutorProblem(self.assets, TutorConfig.from_kwargs(**{**self.config.to_dict(), **options}))

    def draw_slots(self, rows: np.ndarray, rng: np.random.Generator) -> Slots:
        """Masked positions of train rows ``[B]``."""
        return draw_slots(
            self.config, self.assets.tokens, self.host_ids[rows], self.assets.ordinary[rows], self.slots, rng
        )

    def _signals(self, place: int) -> frozenset[Signal]:
        """What the student (0) or the teacher (1) has to give beside its last output."""
        found = {Signal("hidden_states", pair[place]) for pair in self.pairs if "hidden_states" in self.loss_names}
        blocks = {
            Signal("attention_scores", pair[place]) for pair in self.block_pairs if "attention" in self.loss_names
        }
        return frozenset(found | blocks)


def draw_slots(
    config: TutorConfig,
    tokens: TokenFacts,
    input_ids: np.ndarray,
    ordinary: np.ndarray,
    slots: int,
    rng: np.random.Generator,
) -> Slots:
    """Masked positions of rows ``[B, S]``, and what stands there: the mask (80%), a random token or the original."""
    if config.masking == "fixed":
        positions = masking.draw_slots(ordinary, slots, rng)
        valid, dropped = np.ones(positions.shape, bool), 0
    else:
        positions, valid, dropped = masking.bernoulli_slots(ordinary, config.mask_rate, slots, rng)
    ids = masking.corrupt(input_ids, positions, valid, tokens.mask_id, tokens.candidates, rng)
    masked = np.take_along_axis(ids, positions, axis=-1).astype(np.int64)
    return Slots(positions, valid, masked, dropped)


def build_tutor_problem(config: TutorConfig) -> TutorProblem:
    """Read the text, load the teacher, make the student's template and the evaluated rows.

    Raises:
        ValueError: an option without meaning, text that is too short, or a teacher without a language-model head (with
            the command that makes one).
    """
    config.validate()
    device = resolve_device(config.device)
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    name = packaged_teacher(config.text) if config.teacher is None else config.teacher
    teacher = load_masked_lm(name)
    teacher = dataclasses.replace(teacher, module=teacher.module.to(device, dtype))
    tokenizer = models.load_tokenizer(name)
    tokens = token_facts(tokenizer, name)
    texts = load_texts(config.text, data_dir=config.data_dir, column=config.column)
    cut = cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)
    whole = tokenize_texts(cut.train, tokenizer, tokens, config.max_length)
    mean = float(_ordinary(whole.table, tokens).sum(1).mean())
    slots = config.slots or masking.default_slots(mean, config.mask_rate)
    least = slots if config.masking == "fixed" else 1
    train = tokenize_texts(cut.train, tokenizer, tokens, config.max_length, at_least=least) if least > 1 else whole
    check_fits(name, tokenizer, teacher, int(whole.table.lengths.max()))
    first = train.table.input_ids[:, 0].numpy()
    if not np.isin(first, tokens.special_ids).all():
        raise ValueError(
            f"The tokenizer of {name!r} begins rows without a special token, and slots that are not used point there; "
            "use an encoder such as BERT, whose rows begin with [CLS]."
        )
    student = build_tutor_student(config, teacher, device, dtype)
    make_buckets(train.table.lengths, config.batch_size)  # refuses too few rows before the teacher runs
    held = tokenize_texts(cut.feedback[: config.evaluation_rows], tokenizer, tokens, config.max_length, at_least=least)
    feedback, labels, floor = evaluated_rows(config, teacher, tokens, held, slots, device)
    assets = TutorAssets(
        tokenizer=tokenizer,
        tokens=tokens,
        train=_on(train.table, device),
        ordinary=_ordinary(train.table, tokens),
        left_out=len(cut.train) - len(train.kept),
        slots=slots,
        feedback=feedback,
        feedback_labels=labels,
        loss_floor=floor,
        teacher=teacher,
        student=student,
        device=device,
        dtype=dtype,
        fingerprint=cut.fingerprint,
        saw_feedback=provenance(name, config.text, cut.fingerprint),
    )
    return TutorProblem(assets, config)


def packaged_teacher(text: str) -> str:
    """Folder of the packaged masked language model of an embedded task.

    Raises:
        ValueError: there is none for this text.
    """
    from kd_env.toy import masked_lm_folder

    folder = masked_lm_folder(text)
    if folder is None:
        raise ValueError(
            f"text={text!r} comes without a teacher; give teacher=<folder or hub name of a masked language model>, "
            f"such as one that `kd-env teacher objective=mlm text={text}` writes."
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
    ids, ordinary = table.input_ids.numpy(), _ordinary(table, tokens)
    drawn = draw_slots(config, tokens, ids, ordinary, slots, rng)
    labels = np.ones(ids.shape)
    written = ids.copy()
    moved = _on(table, device)
    for rows in table.chunks(32):
        batch = moved.gather(rows)
        places, there = (torch.as_tensor(array[rows], device=device) for array in (drawn.positions, drawn.valid))
        one = Batch(*(part[None] for part in batch))
        masked = passes.edited(one, places[None], there[None], torch.as_tensor(drawn.masked[rows], device=device)[None])
        with torch.no_grad():
            hidden, _ = teacher.encode(Batch(*(part[0] for part in masked)), frozenset())
            features = teacher.features(passes.at_slots(hidden[None], places[None]))
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
    floor = float(terms.plausibility_floor(torch.as_tensor(labels), mask))
    edited = dataclasses.replace(table, input_ids=torch.as_tensor(written))
    dtype = teacher.module.dtype
    return _on(edited, device), torch.as_tensor(labels, dtype=dtype, device=device), floor


def _ordinary(table: Table, tokens: TokenFacts) -> np.ndarray:
    ids = table.input_ids.cpu().numpy()
    return masking.ordinary_tokens(ids, np.arange(ids.shape[1]) < table.lengths[:, None], tokens.special_ids)


def _on(table: Table, device: torch.device) -> Table:
    names = ("input_ids", "token_type_ids", "device_lengths", "label_tensor")
    return dataclasses.replace(table, **{name: getattr(table, name).to(device) for name in names})


def warn_floor(problem: TutorProblem, loss_reset: float) -> None:
    """Say that the gap is counted from a floor."""
    warnings.warn(
        f"The student's loss at reset ({loss_reset:.4f}) is hardly above the least possible one "
        f"({problem.loss_floor:.4f}); the gap is counted as 5% of the loss at reset.",
        stacklevel=2,
    )
