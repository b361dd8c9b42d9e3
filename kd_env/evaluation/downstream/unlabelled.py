"""Test splits, whose labels the GLUE server keeps: their rows in the tokens of a student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kd_env.data.loading import load_test
from kd_env.data.splits import content_hash
from kd_env.data.tables import Table, tokenize
from kd_env.data.tasks import GLUE
from kd_env.evaluation.downstream.submission import ServerFile
from kd_env.finetuning.config import TeacherConfig
from kd_env.models import pretrained
from kd_env.models.devices import resolve_device


class Unlabelled(NamedTuple):
    """Tokenised rows of a test split."""

    table: Table
    texts: str
    """Hash of the texts in their order: predictions belong to them."""


class SplitFacts(NamedTuple):
    """What there is of a test split."""

    rows: int
    texts: str
    """Hash of the texts in their order."""
    numbering: str
    """Where its file does not number the rows by their places: how, in words."""


def facts_of(file: ServerFile, data_dir: str | None) -> SplitFacts:
    """Read a test split; raises ``ValueError`` where it cannot be read, or lacks a column."""
    found = load_test(GLUE[file.task], file.place, file.split, data_dir)
    return SplitFacts(len(found.rows.first), content_hash(found.rows), found.numbering)


def tokenized(config: TeacherConfig, files: Sequence[ServerFile]) -> dict[str, Unlabelled]:
    """Test splits by the titles of their files, for the tokenizer of ``config.name_or_path``; raises as above."""
    tokenizer, device = pretrained.load_tokenizer(config.name_or_path), resolve_device(config.device)
    found = {}
    for file in files:
        rows = load_test(GLUE[file.task], file.place, file.split, config.data_dir).rows
        table = tokenize(rows, tokenizer, config.max_length, device, torch.float32)
        found[file.title] = Unlabelled(table, content_hash(rows))
    return found
