"""Encoders and tokenizers from folders and the hub: loaded whole, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_env.core.records import RECORD, read_set_record
from kd_env.models.library.attention import ATTENTION, register_attention
from kd_env.models.library.bounds import CONFIG
from kd_env.models.library.reading import (
    check_finite,
    first_line,
    quiet_transformers,
    read_config,
    read_model,
    read_tokenizer,
)
from kd_env.models.pooling import has_pooling, load_pooled
from kd_files.manifest import check_manifest

_HUB_FILES = (CONFIG, "*.safetensors", "*.safetensors.index.json", "token*", "*vocab*", "merges.txt", "*.model")
"""What is fetched of a model of the hub: no pickled weights, and no code."""


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
    from transformers import AutoModelForSequenceClassification

    folder = local_folder(name_or_path)
    register_attention()
    pooled = num_labels is None and has_pooling(folder)
    config = read_config(folder, name_or_path)
    check_family(config, name_or_path)
    if num_labels is not None:
        config.num_labels = num_labels
    model, report = read_model(
        AutoModelForSequenceClassification, folder, name_or_path, config, seed=seed, attn_implementation=ATTENTION
    )
    _check_loaded(model, name_or_path, report, new_head=pooled or num_labels is not None)
    if pooled:
        model = load_pooled(model.base_model, folder)
        check_finite(model, name_or_path)
    return model.eval()


def check_family(config: Any, name: str) -> None:
    """Refuse a model with a decoder: what it says of a row is not said by an encoder alone.

    Raises:
        ValueError: it has one.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{name!r} ({config.model_type}) is an encoder-decoder; teachers and students are encoders alone: use one "
            "such as BERT, RoBERTa, DistilBERT or ELECTRA."
        )


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
    """The tokenizer beside a model.

    Raises:
        ValueError: no folder, no tokenizer in it, or a damaged one.
    """
    return read_tokenizer(local_folder(name_or_path), name_or_path)


def local_folder(name_or_path: str) -> Path:
    """The folder of a model: as given, or that of the hub's cache, filled where there is a network.

    The network is asked once: the library's own readers ask for every file, and five times for each.

    Raises:
        ValueError: there is no such folder, it holds no model, or the hub gives none of that name.
    """
    check_source(name_or_path)
    path = Path(name_or_path)
    if path.exists():
        return path
    from huggingface_hub import snapshot_download

    try:
        with quiet_transformers():
            folder = Path(snapshot_download(name_or_path, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub's client fails in many ways; the cause is kept
        raise ValueError(
            f"The model {name_or_path!r} could not be loaded: there is no such folder, and the hub gave none "
            f"({type(error).__name__}: {first_line(error)}). Without a network give a local folder in Hugging Face "
            "layout that holds config.json, model.safetensors and a tokenizer."
        ) from error
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{name_or_path!r} is no model: the hub has no {CONFIG} of it. Name another one.")
    return folder


def check_source(name_or_path: str) -> None:
    """Refuse a local folder that is no model or not as it was written, before anything heavy is imported."""
    path = Path(name_or_path)
    record = read_set_record(path)
    if record is not None:
        folders = ", ".join(repr(str(path / name)) for name in record["members"])
        raise ValueError(f"The folder {name_or_path!r} holds a set of teachers, not one: give one of {folders}.")
    if path.is_file():
        raise ValueError(f"{name_or_path!r} is a file; give the folder that holds it, or a hub name.")
    if path.is_dir() and not (path / CONFIG).is_file():
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
