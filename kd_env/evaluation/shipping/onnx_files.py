"""A classifier as ONNX files: whole, and with weights of eight bits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_env.evaluation.shipping.models import Inputs

_NOISE = (
    (FutureWarning, r".*LeafSpec.*"),
    (UserWarning, r"# The axis name: .* will not be used"),
)
"""Warnings of the exporter about its own insides."""
_QUANTISED = ("MatMul", "Gemm", "Gather")
"""Not attention: from opset 23 on it is an operator of its own, whose eight-bit form takes other inputs."""


class _Logits(nn.Module):
    """What is exported: arrays in, logits out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).logits
        return logits


def write_onnx(model: Any, example: Inputs, path: Path, opset: int) -> None:
    """Write a classifier that takes batches of any size and length.

    Args:
        model: in evaluation mode.
        example: a batch of at least two rows and two tokens: the exporter takes ones for constants.
        path: of the file.
        opset: version of the operators.

    Raises:
        ValueError: the exporter does not know the model's operations.
    """
    tensors = tuple(torch.from_numpy(values) for values in example.values())
    # "batch" and "length" are the names that the file gives its axes.
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with _quiet():
        try:
            torch.onnx.export(
                _Logits(model).eval(),
                tensors,
                str(path),
                input_names=list(example),
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(example, axes),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter fails in many ways; the cause is kept
            lines = str(error).strip().splitlines() or ["no reason"]
            raise ValueError(
                f"The student cannot be written as ONNX ({type(error).__name__}: {lines[0]}); leave out onnx=true."
            ) from error
    _without_traces(path)


def _without_traces(path: Path) -> None:
    """Take out where each operation stood in the source: paths of this machine, and more bytes than small weights."""
    import onnx

    model = onnx.load(str(path))
    model.ClearField("metadata_props")
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, str(path))


def write_int8(whole: Path, path: Path) -> None:
    """Write an ONNX file again with embeddings and weights of matrix products in eight bits.

    Inputs of the products are scaled as they come.

    Args:
        whole: that :func:`write_onnx` wrote.
        path: of the new file.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(str(whole), str(path), op_types_to_quantize=list(_QUANTISED), weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporter and quantiser tell about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category, message in _NOISE:
            warnings.filterwarnings("ignore", message, category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
