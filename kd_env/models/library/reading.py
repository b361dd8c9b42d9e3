"""The library's own readers: quiet, one thread at a time, of local folders, and never with code from a folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kd_env.models.library.bounds import CONFIG, check_config_file

_ONE_AT_A_TIME = threading.RLock()
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.bpe", "tokenizer.bin")
"""Files of which a folder with a tokenizer has one."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """The library without its load reports and progress bars, which tell of a new head as if it were a fault.

    While it loads, the library exchanges functions and settings of the whole process: two threads would put back what
    the other one had exchanged. So one thread at a time is inside.
    """
    from transformers.utils import logging

    with _ONE_AT_A_TIME:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


def read_config(folder: Path, name: str) -> Any:
    """The configuration of a folder.

    Args:
        folder: in Hugging Face layout.
        name: of the model in messages.

    Raises:
        ValueError: it is damaged, of sizes without measure, of a family that the library does not know, or needs code
            of its own.
    """
    from transformers import AutoConfig

    content = check_config_file(folder)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each family checks its options in its own way; the cause is kept
        raise ValueError(_no_config(name, content, error)) from error
    for implementation in ("_attn_implementation", "_experts_implementation"):
        if hasattr(config, implementation):  # a file could name code of the hub, which the library would fetch and run
            setattr(config, implementation, None)
    return config


def read_model(kind: type, folder: Path, name: str, config: Any, *, seed: int, **options: Any) -> tuple[Any, Any]:
    """A model in float32 with the weights of a folder, and the library's report of what it found.

    Args:
        kind: one of the library's ``AutoModelFor...``.
        folder: in Hugging Face layout.
        name: of the model in messages.
        config: from :func:`read_config`.
        seed: of what is drawn where the folder has no weights for it.
        **options: of the library.

    Raises:
        ValueError: weights that are damaged or not finite, or a family without such a model.
    """
    from safetensors import SafetensorError

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            model, report = kind.from_pretrained(  # type: ignore[attr-defined]
                folder,
                config=config,
                dtype=torch.float32,  # checkpoints in half precision would otherwise stay in half precision
                ignore_mismatched_sizes=True,  # judged by the caller, by name
                output_loading_info=True,
                use_safetensors=True,  # pickled weights are never read
                trust_remote_code=False,
                local_files_only=True,
                **options,
            )
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {name!r} are damaged ({first_line(error)}); model.safetensors must be a complete "
            "safetensors file: copy or download it again."
        ) from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # each family refuses in its own way; the cause is kept
        raise ValueError(
            f"The model {name!r} could not be loaded ({type(error).__name__}: {first_line(error)}). Give a folder in "
            f"Hugging Face layout that holds {CONFIG} and model.safetensors, of an encoder such as BERT."
        ) from error
    check_finite(model, name)
    for parameter in model.parameters():
        if parameter.untyped_storage().nbytes() > parameter.nbytes:  # cut from a larger tensor: none could be saved
            parameter.data = parameter.data.clone()
    return model, report


def read_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer of a folder.

    Raises:
        ValueError: there is none, it is damaged, or it needs code of its own.
    """
    try:
        with quiet_transformers():
            tokenizer = _tokenizer(folder)
    except Exception as error:  # broken files fail in many ways; the cause is kept
        if not any(file for pattern in _VOCABULARIES for file in folder.glob(pattern)):
            raise ValueError(_no_tokenizer(name)) from error
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(
            f"The tokenizer of {name!r} is damaged, or not one that can be read without code of its own ({reason}). "
            f"Copy its files again, or write them with tokenizer.save_pretrained({name!r})."
        ) from error
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - set(tokenizer.get_added_vocab())
    if not words:
        raise ValueError(_no_tokenizer(name))
    return tokenizer


def _tokenizer(folder: Path) -> Any:
    if (folder / "tokenizer.json").is_file() and (folder / "tokenizer_config.json").is_file():
        from transformers import PreTrainedTokenizerFast

        config = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        if '"PreTrainedTokenizerFast"' in config:  # saves the import of every tokenizer class (about a second)
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _no_tokenizer(name: str) -> str:
    return (
        f"The folder of {name!r} has no tokenizer (no tokenizer.json, vocab.txt or other vocabulary): every word would "
        f"be unknown. Write the one of its encoder there, with tokenizer.save_pretrained({name!r})."
    )


def _no_config(name: str, content: Mapping[str, Any], error: Exception) -> str:
    if "auto_map" in content:
        return (
            f"{name!r} is a model that only code in its own folder can build (auto_map in its {CONFIG}), and kd-env "
            "never runs code from a folder. Use a model of a family that the transformers library knows, such as BERT."
        )
    return (
        f"The {CONFIG} of {name!r} cannot be used ({type(error).__name__}: {first_line(error)}). Give a folder in "
        "Hugging Face layout of an encoder such as BERT."
    )


def check_finite(model: Any, name: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        ValueError: with the first tensor that does, and how many.
    """
    for tensor_name, tensor in model.state_dict().items():
        # The sum is one pass, and finite wherever all are; only where it is not, they are counted.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()):
            count = int((~torch.isfinite(tensor)).sum())
            if count:
                raise ValueError(
                    f"The weights of {name!r} are not finite: {tensor_name} holds {count} of NaN or infinity. Copy or "
                    "download them again, or train the model again with a lower learning rate."
                )


def first_line(reason: object) -> str:
    """The first line of a library's message, for messages of our own."""
    return next((line for line in str(reason).strip().splitlines() if line), "unknown reason")
