"""What fine-tuning may see: the train and selection splits, in the tokens of one encoder or of every one of a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from kd_env.data import splits
from kd_env.data.label_noise import add_label_noise, noise_seed, rows_with_words
from kd_env.data.loading import get_task, load_train
from kd_env.data.tables import Table, same_tokens, tokenize
from kd_env.data.tasks import Rows, Task
from kd_env.finetuning.config import TrainingOptions
from kd_env.models import encoder
from kd_env.models.checks import check_family, check_vocabulary, probe_batch


class Tokens(NamedTuple):
    """Both splits in one tokenizer's tokens."""

    train: Table  # rows in the order of cut.train, with label noise
    selection: Table  # rows in the order of cut.selection


class Data(NamedTuple):
    """The two splits that fine-tuning may see, tokenised; of a set in the tokens of its first member."""

    task: Task
    cut: splits.Splits
    train: Table  # rows in the order of cut.train, with label noise
    selection: Table  # rows in the order of cut.selection
    tokens: tuple[Tokens, ...] = ()  # of each classifier of a set; empty where all read the same

    def of(self, place: int) -> Data:
        """What the classifier at ``place`` reads."""
        return self._replace(**self.tokens[place]._asdict()) if self.tokens else self


def cut_rows(options: TrainingOptions, task: Task) -> tuple[Rows, splits.Splits]:
    """The official train split, and its cut."""
    rows = load_train(task, options.data_dir)
    cut = splits.cut(
        rows,
        seed=options.split_seed,
        feedback_rows=options.feedback_rows,
        selection_rows=options.selection_rows,
        max_train_rows=options.max_train_rows,
        regression=task.regression,
    )
    return rows, cut


def split_fingerprint(options: TrainingOptions) -> str:
    """The fingerprint of the split as the files are now."""
    return cut_rows(options, get_task(options.task, options.columns, options.data_dir))[1].fingerprint


def prepare(
    options: TrainingOptions,
    task: Task,
    tokenizer: Any,
    source: str,
    device: torch.device,
    members: Sequence[tuple[Any, str]] = (),
) -> Data:
    """Cut, tokenise and, in train, make labels wrong.

    Args:
        options: of the fine-tuning.
        task: gives the rows.
        tokenizer: of the encoder, or of the first one of a set.
        source: that encoder, for messages.
        device: of the tables.
        members: tokenizers and encoders of a set, the first one included; those of one vocabulary share their tables.

    Raises:
        ValueError: data or tokenizer (of the encoder ``source``) that do not fit the options.
    """
    for reader, origin in members or ((tokenizer, source),):
        if reader.pad_token_id is None:
            raise ValueError(f"The tokenizer of {origin!r} has no padding token; batches need one.")
    rows = load_train(task, options.data_dir)
    cut = splits.cut(
        rows,
        seed=options.split_seed,
        feedback_rows=options.feedback_rows,
        selection_rows=options.selection_rows,
        max_train_rows=options.max_train_rows,
        regression=task.regression,
    )
    labels = rows.labels
    if options.label_noise:
        words = options.noisy_words
        row_indices = cut.train if words is None else rows_with_words(rows, cut.train, words)
        labels = add_label_noise(labels, row_indices, options.label_noise, task.num_labels, noise_seed(options))

    def read(reader: Any) -> Tokens:
        return Tokens(
            *(
                tokenize(rows.select(row_indices, labels), reader, options.max_length, device, torch.float32)
                for row_indices in (cut.train, cut.selection)
            )
        )

    first = read(tokenizer)
    sample = [rows.first[row] for row in cut.train[:64].tolist()]
    tokens = tuple(first if same_tokens(tokenizer, reader, sample) else read(reader) for reader, _ in members)
    shared = all(tables is first for tables in tokens)
    return Data(task, cut, first.train, first.selection, () if shared else tokens)


def check_fits(source: str, tokenizer: Any, model: Any, data: Data) -> None:
    """Refuse an encoder ``source`` without embeddings for every token, or without positions for the longest row."""
    check_vocabulary(tokenizer, model, source)
    longest = int(max(data.train.lengths.max(), data.selection.lengths.max()))
    positions = encoder.usable_positions(model)
    if positions is not None and longest > positions:
        raise ValueError(f"A row has {longest} tokens, {source!r} only {positions} positions; set max_length to them.")


def check_can_teach(source: str, model: Any, data: Data, max_length: int) -> None:
    """Refuse a classifier of a family that our forward pass would run wrongly, before it is trained as a teacher."""
    wrapped = encoder.Encoder(model, encoder.encoder_facts(model.config), (), frozenset())
    check_family(model, probe_batch(data.train, max_length, (wrapped,)), f"encoder {source!r}")
