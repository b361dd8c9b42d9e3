"""Students and teachers as what is shipped: functions from tokens to logits, in PyTorch or in ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.data.tables import Table
from kd_env.data.tasks import Task
from kd_env.models.library.reading import quiet_transformers, read_config, read_model
from kd_env.models.loading import name_labels
from kd_env.models.pooling import PooledClassifier, has_pooling
from kd_env.models.pretrained import load_encoder, load_tokenizer, local_folder

Inputs = dict[str, NDArray[np.int64]]
"""Arrays ``[B, S]`` by the names that models of the library give them."""
Model = Callable[[Inputs], Floats]
"""Logits ``[B, C]`` of a batch."""
ROWS_AT_ONCE = 64


def input_names(config: Any, tokenizer: Any) -> tuple[str, ...]:
    """What a model reads: segments only where it tells several apart, and its tokenizer gives them."""
    several = int(getattr(config, "type_vocab_size", 0) or 0) > 1
    segments = several and "token_type_ids" in tokenizer.model_input_names
    return ("input_ids", "attention_mask", *(("token_type_ids",) if segments else ()))


def inputs_of(table: Table, rows: NDArray[np.int64], names: tuple[str, ...]) -> Inputs:
    """Rows of a table, padded to the longest of them."""
    batch = table.gather(rows)
    return {name: getattr(batch, name).cpu().numpy().astype(np.int64) for name in names}


def read_classifier(name_or_path: str) -> Any:
    """A classifier in float32, ready to be asked: as the library reads it, or with our pooling where it has that.

    Raises:
        ValueError: as :func:`kd_env.models.pretrained.load_encoder`; no code of a folder is run.
    """
    from transformers import AutoModelForSequenceClassification

    folder = local_folder(name_or_path)
    if has_pooling(folder):
        return load_encoder(str(folder))
    config = read_config(folder, name_or_path)
    model, _ = read_model(AutoModelForSequenceClassification, folder, name_or_path, config, seed=0)
    return model.eval()


def write_classifier(source: Path, folder: Path, task: Task) -> None:
    """Write a saved student and its tokenizer again: in float32, with the names of its labels, and nothing beside.

    Args:
        source: folder of the student.
        folder: is there.
        task: that it was made for.
    """
    module, tokenizer = read_classifier(str(source)), load_tokenizer(str(source))
    name_labels(module.config, task)
    with quiet_transformers():
        if isinstance(module, PooledClassifier):  # read, it may have layers that its own ones stand for
            module.config.save_pretrained(folder)
            for path in source.glob("*.safetensors"):
                shutil.copyfile(path, folder / path.name)
        else:
            module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def torch_model(module: Any) -> Model:
    """A classifier in PyTorch, on the host and without gradients."""

    def logits(inputs: Inputs) -> Floats:
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        with torch.inference_mode():
            return np.asarray(module(**tensors).logits.float().numpy())

    return logits


def onnx_model(path: Path) -> Model:
    """A classifier in ONNX Runtime, on one thread of the host."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits(inputs: Inputs) -> Floats:
        return np.asarray(session.run(["logits"], inputs)[0])

    return logits


def predict(model: Model, table: Table, names: tuple[str, ...]) -> Floats:
    """Logits ``[R, C]`` on the rows of a table."""
    found: Floats | None = None
    for rows in table.chunks(ROWS_AT_ONCE):
        logits = model(inputs_of(table, rows, names))
        if found is None:
            found = np.zeros((len(table), logits.shape[1]))
        found[rows] = logits
    assert found is not None, "a table has rows"
    return found


def parameters(module: Any) -> int:
    """How many numbers a model has, those that it shares once."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread of the host."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def megabytes(place: Path) -> float:
    """Size of a file in MB (10^6 bytes), or of the files of weights in a folder."""
    return sum(path.stat().st_size for path in (place.glob("*.safetensors") if place.is_dir() else [place])) / 1e6
