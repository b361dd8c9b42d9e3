"""The last block of BERT and its kin for the first token alone, where nobody reads another one.

Their classifiers read the last hidden state of [CLS]. All tokens give keys and values to its attention, but what comes
after it (most of a block's arithmetic) is done for each token by itself, so that the other tokens' is never read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

CLASSIFIERS = (
    "BertForSequenceClassification",
    "CamembertForSequenceClassification",
    "ElectraForSequenceClassification",
    "RobertaForSequenceClassification",
    "XLMRobertaForSequenceClassification",
)
"""Classes whose blocks are BERT's and whose classifier reads the first token."""


def shorten(module: nn.Module, wanted: Callable[[], bool]) -> bool:
    """Let the last block of a classifier go on with the first token alone after its attention, while ``wanted()``.

    Args:
        module: a Hugging Face classifier.
        wanted: asked in every forward pass.

    Returns:
        Whether the classifier is one of those that can; others are left as they are.
    """
    if type(module).__name__ not in CLASSIFIERS:
        return False

    def first_token(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return tuple(tensor[:, :1] for tensor in inputs) if wanted() else None

    base: Any = module.base_model
    base.encoder.layer[-1].attention.output.register_forward_pre_hook(first_token)
    return True
