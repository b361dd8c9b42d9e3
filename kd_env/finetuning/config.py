"""Options of fine-tuning: those of the data and the training, which one teacher and a set share, and the encoder's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kd_env.core import checks
from kd_env.core.registry import unknown_name

_NOT_IDENTITY = ("output", "show_progress", "resume", "device")
_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size")
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Which encoder is fine-tuned."""

    name_or_path: str
    """Folder or hub name of the pre-trained encoder; with ``init=fresh`` of the architecture and the vocabulary."""
    init: str = "pretrained"
    """``pretrained`` starts from the weights of ``name_or_path``; ``fresh`` draws all of them anew by seed."""
    num_hidden_layers: int | None = None
    """Keep the first n blocks of the encoder; None keeps all. With ``init=fresh`` any number."""
    hidden_size: int | None = None
    """Only with ``init=fresh``, as the two below; None keeps the source's."""
    num_attention_heads: int | None = None
    intermediate_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of the data and of the training. The split options must be those of the environment of the teacher."""

    task: str
    """``toy``, ``toy_pair``, a GLUE task, or ``custom`` with ``columns``."""
    output: str
    """Folder that is written."""
    data_dir: str | None = None
    """Folder of the files, as in the environment; None reads GLUE from the hub."""
    columns: Mapping[str, Any] | None = None
    """For ``task=custom``, as in the environment."""
    split_seed: int = 0
    """Seed of the cut into train, feedback and selection, and of label noise where ``noise_seed`` is None."""
    feedback_rows: int | None = None
    selection_rows: int | None = None
    max_train_rows: int | None = None
    """Upper limit of train rows after the cut."""
    max_length: int = 128
    """Tokens a row is cut to."""
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    """Decoupled (AdamW); biases and layer norms are not decayed."""
    warmup: float = 0.1
    """Share of the updates over which the learning rate rises linearly, before it falls linearly."""
    max_grad_norm: float = 1.0
    label_noise: float = 0.0
    """Share of train labels replaced by a wrong one, after the cut; the selection split stays clean."""
    noise_seed: int | None = None
    """Seed of which labels are replaced; None: ``split_seed``."""
    noisy_words: tuple[str, ...] | None = None
    """Label noise only in train rows with one of these words (whole, in lower case, in either text), or, where they
    begin with ``!``, only in rows without any of them; None: in all. ``label_noise`` is then a share of those rows."""
    seed: int = 0
    """Seed of new layers, order of rows and dropout."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast of the forward passes)."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    evaluations_per_epoch: int = 1
    """Evaluations on the selection split, each with a checkpoint."""
    keep: str | int = "best"
    """``best``: the checkpoint with the lowest loss on the selection split; ``last``: the end of the training; a
    number: the checkpoint after that epoch, under the schedule of all ``epochs``, where the training ends. The
    selection split is clean, so that ``best`` is the one that learned the least from wrong labels."""
    show_progress: bool = True
    resume: bool = True
    """Continue an interrupted run with the same options; False starts afresh."""

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out; local paths are made absolute.

        ``init``, ``noise_seed``, ``noisy_words``, ``keep`` and the sizes stand here only where they are set: teachers
        that were made before these options keep their identity.
        """
        options = {key: value for key, value in dataclasses.asdict(self).items() if key not in _NOT_IDENTITY}
        if options["data_dir"] is not None:
            options["data_dir"] = _absolute(options["data_dir"])
        for key in ("noisy_words", "noise_seed"):
            if options[key] is None:
                del options[key]
        if options["keep"] == "best":
            del options["keep"]
        return options


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(EncoderOptions, TrainingOptions):
    """Options of :func:`kd_env.finetuning.classifier.finetune`, whose output is a folder in Hugging Face layout."""

    @classmethod
    def from_kwargs(cls, **options: Any) -> TeacherConfig:
        """Validated configuration from plain keywords; unknown and missing ones are refused by name."""
        config = from_options(cls, options, "teacher option", "Fine-tuning a teacher")
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value outside its range."""
        check_training(self)
        check_encoder(self)

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out, those of the encoder only where they are not at their defaults."""
        return encoder_identity(super().identity())


def from_options(cls: type[C], options: Mapping[str, Any], kind: str, what: str) -> C:
    """A dataclass from keywords, lists of words as tuples.

    Raises:
        ValueError: an unknown keyword, or a missing one, by name.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    for key in options:
        if key not in {field.name for field in fields}:
            raise ValueError(unknown_name(kind, key, [field.name for field in fields]))
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and options.get(f.name) is None]
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}; give {missing[0]}=...")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def check_training(options: TrainingOptions) -> None:
    """Raise ``ValueError`` for the first option of data or training outside its range."""
    checks.check_fields("", options, dict.fromkeys(("task", "output"), checks.filled))
    checks.check_fields("", options, {"data_dir": checks.optional(checks.filled)})
    checks.check_fields("", options, {"columns": checks.optional(checks.mapping)})
    numbers = {"epochs": 1, "batch_size": 1, "evaluations_per_epoch": 1, "max_length": 3, "split_seed": 0, "seed": 0}
    checks.check_fields("", options, {name: checks.whole(low) for name, low in numbers.items()})
    rows = ("feedback_rows", "selection_rows", "max_train_rows")
    checks.check_fields("", options, dict.fromkeys(rows, checks.optional(checks.whole(1))))
    checks.check_fields("", options, {"noise_seed": checks.optional(checks.whole(0))})
    checks.check_fields("", options, dict.fromkeys(("learning_rate", "max_grad_norm"), checks.positive))
    checks.check_fields("", options, {"weight_decay": checks.within(0)})
    checks.check_fields("", options, dict.fromkeys(("warmup", "label_noise"), checks.within(0, 1.0)))
    checks.check_fields("", options, {"precision": checks.one_of("fp32", "bf16")})
    if not checks.is_whole(options.keep, 1):
        checks.check_fields("", options, {"keep": checks.one_of("best", "last", "<number of an epoch>")})
    elif int(options.keep) > options.epochs:
        raise ValueError(f"keep={options.keep} is an epoch after the last of epochs={options.epochs}; raise epochs.")
    checks.check_fields("", options, dict.fromkeys(("show_progress", "resume"), checks.boolean))
    if options.noisy_words is not None:
        checks.names("never")("noisy_words", options.noisy_words)
        for word in options.noisy_words:
            if word.split() != [word]:
                checks.refuse("noisy_words entry", word, "one word without spaces")
        if not options.label_noise:
            raise ValueError("noisy_words says where wrong labels go, but label_noise=0; set label_noise, up to 1.")


def check_encoder(options: EncoderOptions, prefix: str = "") -> None:
    """Raise ``ValueError`` for the first option of the encoder outside its range; ``prefix`` comes before names."""
    checks.check_fields(prefix, options, {"name_or_path": checks.filled})
    checks.check_fields(prefix, options, {"init": checks.one_of("pretrained", "fresh")})
    sizes = dict.fromkeys(("num_hidden_layers", *_SIZES), checks.optional(checks.whole(1)))
    checks.check_fields(prefix, options, sizes)
    for name in _SIZES:
        if options.init != "fresh" and getattr(options, name) is not None:
            raise ValueError(
                f"{prefix}{name}={getattr(options, name)} cannot be set for pre-trained weights; set "
                f"{prefix}init=fresh to draw an encoder of other sizes, or leave it out."
            )


def encoder_identity(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an encoder without those at their defaults; a local path is made absolute."""
    defaults = {"init": "pretrained", **dict.fromkeys(_SIZES)}
    changed = {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}
    return {**changed, "name_or_path": _absolute(options["name_or_path"])}


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path
