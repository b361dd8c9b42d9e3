"""Encoders and tokenizers from folders and the hub: loaded whole, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kd_env.core.records import RECORD, read_set_record
from kd_env.models.encoder import ATTENTION, register_attention
from kd_env.models.pooling import has_pooling, load_pooled
from kd_files.manifest import check_manifest


def load_encoder(name_or_path: str, *, num_labels: int | None = None, seed: int = 0) -> Any:
    """A sequence classifier in float32, with our attention; a member of a co-fine-tuned set comes with its own layers.

    Args:
        name_or_path: local folder in Hugging Face layout, or a hub name.
        num_labels: size of the classifier head, which is drawn anew where the folder has none of that size; None keeps
            the folder's head and needs one.
        seed: of such a head.

    Raises:
        ValueError: the folder is no model, its weights are damaged or do not fit its configuration, or there is no
            network (with the local option).
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as hf_logging

    check_source(name_or_path)
    register_attention()
    pooled = num_labels is None and has_pooling(name_or_path)
    options: dict[str, Any] = {} if num_labels is None else {"num_labels": num_labels}
    verbosity = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                name_or_path,
                dtype=torch.float32,
                attn_implementation=ATTENTION,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # judged below, by name
                output_loading_info=True,
                **options,
            )
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {name_or_path!r} are damaged ({first_line(error)}); model.safetensors must be a complete "
            "safetensors file: copy or download it again."
        ) from error
    except OSError as error:
        raise ValueError(_no_model(name_or_path, str(error))) from error
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(
            f"{name_or_path!r} cannot be used as an encoder: {error} Name an encoder that "
            "AutoModelForSequenceClassification knows and that lets its attention function be set."
        ) from error
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
    _check_loaded(model, name_or_path, report, new_head=pooled or num_labels is not None)
    return (load_pooled(model.base_model, name_or_path) if pooled else model).eval()


def _check_loaded(model: Any, name_or_path: str, report: Mapping[str, Any], *, new_head: bool) -> None:
    """Refuse weights that were drawn anew in silence; ``new_head`` allows it outside of the encoder itself."""
    inner = {id(tensor) for tensor in model.base_model.state_dict(keep_vars=True).values()}
    tensors = model.state_dict(keep_vars=True)
    mismatched = {
        entry[0]: f"{entry[0]} {tuple(entry[1])} instead of {tuple(entry[2])}" for entry in report["mismatched_keys"]
    }
    wrong = [
        mismatched.get(name, f"no {name}")
        for name in sorted({*report["missing_keys"], *mismatched})
        # A pooler may be missing, not misshapen: checkpoints of masked language models have none.
        if not (new_head and (id(tensors[name]) not in inner or (".pooler." in name and name not in mismatched)))
    ]
    if wrong:
        raise ValueError(
            f"The weights of {name_or_path!r} are not those of a {type(model).__name__} as config.json describes it "
            f"({', '.join(wrong[:4])}{', ...' if len(wrong) > 4 else ''}). Give a folder whose config.json and "
            f"model.safetensors belong together{'' if new_head else ' and that has a classifier head'}."
        )


def load_tokenizer(name_or_path: str) -> Any:
    """The fast tokenizer beside a model; the errors of :func:`load_encoder`."""
    check_source(name_or_path)
    path = Path(name_or_path)
    if (path / "tokenizer.json").is_file() and (path / "tokenizer_config.json").is_file():
        from transformers import PreTrainedTokenizerFast

        config = (path / "tokenizer_config.json").read_text(encoding="utf-8")
        if '"PreTrainedTokenizerFast"' in config:  # saves the import of every tokenizer class (about a second)
            return PreTrainedTokenizerFast.from_pretrained(name_or_path)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(_no_model(name_or_path, f"no tokenizer: {error}")) from error


def check_source(name_or_path: str) -> None:
    """Refuse a local folder that is no model or not as it was written, before anything heavy is imported."""
    path = Path(name_or_path)
    record = read_set_record(path)
    if record is not None:
        folders = ", ".join(repr(str(path / name)) for name in record["members"])
        raise ValueError(f"The folder {name_or_path!r} holds a set of teachers, not one: give one of {folders}.")
    if path.is_dir() and not (path / "config.json").is_file():
        held = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"The folder {name_or_path!r} is no model: it has no config.json (it holds {held}). Give a folder in "
            "Hugging Face layout, such as one that `kd-env teacher` writes."
        )
    if path.is_dir():
        check_manifest(path, ours=(path / RECORD).is_file())
    if not path.exists() and (path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1):
        raise ValueError(
            f"There is no folder {name_or_path!r}; check the path, or give a hub name such as 'org/model'."
        )


def _no_model(name_or_path: str, reason: str) -> str:
    return (
        f"The model {name_or_path!r} could not be loaded ({first_line(reason)}). Without a network give a local "
        "folder in Hugging Face layout that holds config.json and model.safetensors."
    )


def first_line(reason: object) -> str:
    """The first line of a library's message, for messages of our own."""
    return next((line for line in str(reason).strip().splitlines() if line), "unknown reason")
