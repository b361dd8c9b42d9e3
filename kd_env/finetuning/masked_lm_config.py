"""Options of the training of masked language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_env.core import checks
from kd_env.data.masking import MASK_RATE, check_rate
from kd_env.finetuning.config import from_options

_NOT_IDENTITY = ("output", "show_progress", "resume", "device")


@dataclass(frozen=True, kw_only=True)
class MlmConfig:
    """Options of :func:`kd_env.finetuning.masked_lm.train_mlm`, whose output is a folder in Hugging Face layout."""

    text: str | tuple[str, ...]
    """Source of the text, or several, as in :func:`kd_env.data.corpora.load_texts`."""
    name_or_path: str
    """Folder or hub name of the encoder; a head that it has is kept, else one is drawn."""
    output: str
    """Folder that is written."""
    data_dir: str | None = None
    """Of GLUE tasks as ``text``: folder with ``<task>/train.parquet``; None reads them from the hub."""
    column: str | None = None
    """Of data sets of the hub as ``text``."""
    split_seed: int = 0
    """Seed of the cut into train, feedback and selection, and of the masking of selection."""
    feedback_rows: int | None = None
    selection_rows: int | None = None
    max_train_rows: int | None = None
    """Upper limit of train texts after the cut."""
    max_length: int = 128
    """Tokens a text is cut to."""
    mask_rate: float = MASK_RATE
    """Probability with which each ordinary token is predicted."""
    train_encoder: bool = True
    """False trains the head alone; the encoder and the tied word embeddings stay, without dropout."""
    num_hidden_layers: int | None = None
    """Keep the first n blocks of the encoder; None keeps all."""
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    """Decoupled (AdamW); biases and layer norms are not decayed."""
    warmup: float = 0.1
    """Share of the updates over which the learning rate rises linearly, before it falls linearly."""
    max_grad_norm: float = 1.0
    seed: int = 0
    """Seed of a new head, order, masking and dropout."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast of the forward passes)."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    evaluations_per_epoch: int = 1
    """Evaluations on the selection texts, each with a checkpoint."""
    show_progress: bool = True
    resume: bool = True
    """Continue an interrupted run with the same options; False starts afresh."""

    @classmethod
    def from_kwargs(cls, **options: Any) -> MlmConfig:
        """Validated configuration from plain keywords; unknown and missing ones are refused by name."""
        config = from_options(cls, options, "option of a masked language model", "Training a masked language model")
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value outside its range."""
        checks.check_fields("", self, dict.fromkeys(("name_or_path", "output"), checks.filled))
        checks.check_fields("", self, dict.fromkeys(("data_dir", "column"), checks.optional(checks.filled)))
        if not isinstance(self.text, str):
            checks.names("toy")("text", self.text)
        numbers = {
            "epochs": 1,
            "batch_size": 1,
            "evaluations_per_epoch": 1,
            "max_length": 3,
            "split_seed": 0,
            "seed": 0,
        }
        checks.check_fields("", self, {name: checks.whole(low) for name, low in numbers.items()})
        some = ("feedback_rows", "selection_rows", "max_train_rows", "num_hidden_layers")
        checks.check_fields("", self, dict.fromkeys(some, checks.optional(checks.whole(1))))
        checks.check_fields("", self, dict.fromkeys(("learning_rate", "max_grad_norm"), checks.positive))
        checks.check_fields("", self, {"weight_decay": checks.within(0), "warmup": checks.within(0, 1.0)})
        checks.check_fields("", self, {"mask_rate": check_rate, "precision": checks.one_of("fp32", "bf16")})
        checks.check_fields("", self, dict.fromkeys(("train_encoder", "show_progress", "resume"), checks.boolean))

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out; local paths are made absolute."""
        options = {key: value for key, value in dataclasses.asdict(self).items() if key not in _NOT_IDENTITY}
        for key in ("name_or_path", "data_dir"):
            options[key] = _absolute(options[key])
        options["text"] = [_absolute(name) for name in sources(self.text)]
        return options


def sources(text: str | Sequence[str]) -> list[str]:
    """The sources of text as a list."""
    return [text] if isinstance(text, str) else list(text)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path
