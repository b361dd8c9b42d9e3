"""Who reads masked rows: a masked language model, with what masking has to know of the rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from kd_env.config.environment import EnvConfig
from kd_env.data import masking
from kd_env.data.rows import ProblemRows
from kd_env.data.tables import Table, same_tokens
from kd_env.data.tasks import EMBEDDED, Task
from kd_env.data.text import TokenFacts, token_facts
from kd_env.data.toy import masked_lm_folder
from kd_env.mdp.assets import Reader
from kd_env.models.checks import check_masked_lm
from kd_env.models.masked_lm import MaskedLM, load_masked_lm
from kd_env.models.pretrained import load_tokenizer
from kd_env.teachers.outputs import weights_hash


def ordinary_places(table: Table, tokens: TokenFacts) -> np.ndarray:
    """Places that may be masked, ``[R, S]`` bool: neither special tokens nor padding."""
    ids = table.input_ids.cpu().numpy()
    return masking.ordinary_tokens(ids, np.arange(ids.shape[1]) < table.lengths[:, None], tokens.special_ids)


def slots_of(config: EnvConfig, ordinary: np.ndarray) -> tuple[int, int]:
    """Slots of a row, and the ordinary tokens that a row needs; from the places of all rows ``[R, S]``."""
    counts = ordinary.sum(1)
    return slots_for(config, int(counts.max()), float(counts.mean()))


def slots_for(config: EnvConfig, longest: int, mean: float) -> tuple[int, int]:
    """Slots of a row, and the ordinary tokens that a row needs.

    Args:
        config: the options.
        longest: ordinary tokens of the row that has most.
        mean: ordinary tokens of a row on average.
    """
    if config.slots == "all":
        return masking.enough_slots(longest, config.mask_rate), 1
    given = None if config.slots is None else int(config.slots)
    slots = given or masking.default_slots(mean, config.mask_rate)
    return slots, slots if config.masking == "fixed" else 1


def language_model(name: str, device: torch.device, dtype: torch.dtype) -> MaskedLM:
    """A masked language model on the device of the run."""
    model = load_masked_lm(name)
    return dataclasses.replace(model, module=model.module.to(device, dtype))


def tokens_of(name: str) -> tuple[Any, TokenFacts]:
    """The tokenizer of a masked language model, and what masking has to know of it.

    Raises:
        ValueError: it lacks a mask or padding token.
    """
    tokenizer = load_tokenizer(name)
    return tokenizer, token_facts(tokenizer, name)


def make_reader(folder: str, model: MaskedLM, tokens: TokenFacts, train: Table, slots: int, left_out: int) -> Reader:
    """The reader of a train table.

    Raises:
        ValueError: rows that begin without a special token.
    """
    ids = train.input_ids.cpu().numpy()
    if not np.isin(ids[:, 0], tokens.special_ids).all():  # slots that are not used point there
        raise ValueError(
            f"The tokenizer of {folder!r} begins rows without a special token, and slots that are not used point "
            "there; use an encoder such as BERT, whose rows begin with [CLS]."
        )
    return Reader(folder, weights_hash(model.body), model, tokens, ids, ordinary_places(train, tokens), slots, left_out)


def label_reader(
    config: EnvConfig, task: Task, rows: ProblemRows, tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> tuple[Reader, ProblemRows]:
    """Who reads the rows of a task, and the rows without train rows that have too few tokens.

    Raises:
        ValueError: a language model that is missing, does not fit or has other tokens, or rows too short.
    """
    folder = _folder(config, task)
    model = language_model(folder, device, dtype)
    own_tokenizer, tokens = tokens_of(folder)
    if not same_tokens(own_tokenizer, tokenizer, [rows.texts.first[row] for row in rows.train[:64]]):
        raise ValueError(
            f"The student's tokenizer (its teacher's, or its own where it is pre-trained) and the language model "
            f"{folder!r} have different vocabularies, so that the tokens that one suggests are not those that the "
            "other reads; use encoders with one tokenizer."
        )
    whole, *_ = rows.tables(tokenizer, config.max_length, torch.device("cpu"), torch.float32)
    check_masked_lm(folder, own_tokenizer, model, whole, config.max_length)
    ordinary = ordinary_places(whole, tokens)
    slots, least = slots_of(config, ordinary)
    kept = np.flatnonzero(ordinary.sum(1) >= least)
    if not len(kept):
        raise ValueError(f"No train row of {task.name} has {least} ordinary tokens; set slots to fewer.")
    rows, left_out = rows._replace(train=rows.train[kept]), len(whole) - len(kept)
    table = rows.tables(tokenizer, config.max_length, torch.device("cpu"), torch.float32)[0] if left_out else whole
    return make_reader(folder, model, tokens, table, slots, left_out), rows


def _folder(config: EnvConfig, task: Task) -> str:
    folder = config.language_model
    if folder is None and task.name in EMBEDDED:
        packaged = masked_lm_folder(task.name)
        folder = None if packaged is None else str(packaged)
    if folder is None:
        raise ValueError(
            f"task={task.name!r} comes without a language_model; give language_model=<folder>, which `kd-env teacher "
            f"objective=mlm text={task.name} teacher.name_or_path=...` makes."
        )
    return str(folder)
