"""A classifier of an encoder with attention pooling and a prediction layer that several encoders may share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

POOLING = "pooling.safetensors"
_ENCODER = "encoder."


class PooledOutput(NamedTuple):
    """What a classifier of the library gives, as far as it is read."""

    logits: Tensor  # [B, C]
    hidden_states: tuple[Tensor, ...] | None  # of the embeddings and of every block, [B, S, H]


class AttentionPooling(nn.Module):
    """One vector per row: ``sum_s alpha_s h_s`` with ``alpha = softmax_s(v^T tanh(W h_s + b))`` over real tokens.

    Co-fine-tuning (MT-BERT; Wu et al., Findings of ACL 2021) shares a pooling layer between the teachers. The paper
    does not state its form; this is additive attention with one learned query, as is usual in its authors' work.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """``[B, W]`` from hidden states ``[B, S, W]`` and ``[B, S]``, True at real tokens."""
        scores = self.score(torch.tanh(self.project(hidden)))[..., 0]
        # Not -inf: a derivative of exp(-inf) times 0 is NaN in forward mode.
        weights = torch.softmax(scores.masked_fill(~real, torch.finfo(scores.dtype).min), -1)
        return (weights[..., None] * hidden).sum(-2)


class PooledClassifier(nn.Module):
    """An encoder, a map to the shared width where its own differs, attention pooling and a prediction layer.

    Behaves like a sequence classifier of the library as far as :class:`kd_env.models.encoder.Encoder` asks.

    Args:
        encoder: of the library, without prediction layers; its ``config`` names the labels.
        pooling: of the shared width; other classifiers may hold the same module.
        prediction: from the shared width to C classes (1 score); other classifiers may hold the same module.
    """

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any, pooling: AttentionPooling, prediction: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.prediction = prediction
        width = int(encoder.config.hidden_size)
        shared = prediction.in_features
        self.width_map: nn.Module = nn.Identity() if width == shared else nn.Linear(width, shared)

    @property
    def config(self) -> Any:
        """The encoder's configuration, with the labels."""
        return self.encoder.config

    @property
    def base_model(self) -> Any:
        """The encoder."""
        return self.encoder

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return self.prediction.weight.dtype

    def get_input_embeddings(self) -> Any:
        """The table of word embeddings."""
        return self.encoder.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> PooledOutput:
        """Logits, and hidden states if asked for.

        Args:
            input_ids: ``[B, S]``.
            attention_mask: ``[B, S]``, 1 at real tokens, or additive ``[B, 1, 1, S]``, 0 there.
            token_type_ids: ``[B, S]``, or None where the encoder has no segments.
            output_hidden_states: whether to return them.
        """
        real = attention_mask[:, 0, 0] == 0 if attention_mask.dim() == 4 else attention_mask.bool()
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states, **segments
        )
        pooled = self.pooling(self.width_map(out.last_hidden_state), real)
        return PooledOutput(self.prediction(pooled), out.hidden_states)


def has_pooling(name_or_path: str | Path) -> bool:
    """Whether a folder holds the encoder of a :class:`PooledClassifier` and its layers."""
    return (Path(name_or_path) / POOLING).is_file()


def save_pooled(model: PooledClassifier, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the encoder in Hugging Face layout, and the layers on top of it beside it.

    Args:
        model: the classifier.
        folder: exists.
        state: tensors by the names of ``model.state_dict()``; None writes the model's own.
    """
    from safetensors.torch import save_file

    values = model.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in values.items()}
    inner = {name.removeprefix(_ENCODER): tensors[name] for name in tensors if name.startswith(_ENCODER)}
    model.encoder.save_pretrained(folder, state_dict=inner)
    save_file({name: tensors[name] for name in tensors if not name.startswith(_ENCODER)}, str(folder / POOLING))


def load_pooled(encoder: Any, folder: str | Path) -> PooledClassifier:
    """The classifier of a folder that :func:`save_pooled` wrote, whose encoder is loaded already.

    Raises:
        ValueError: layers that are damaged, or do not fit the encoder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / POOLING
    remedy = "it must be the file that was written with the encoder beside it: copy the folder again."
    try:
        tensors = load_file(str(path))
        classes, width = tensors["prediction.weight"].shape
        with torch.random.fork_rng(devices=[]):  # layers are drawn before their values are read
            model = PooledClassifier(encoder, AttentionPooling(width), nn.Linear(width, classes)).to(encoder.dtype)
        layers = {f"{_ENCODER}{name}": tensor for name, tensor in encoder.state_dict().items()}
        model.load_state_dict({**layers, **tensors})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or of another encoder ({reason}); {remedy}") from error
    if classes != int(encoder.config.num_labels):
        raise ValueError(f"{path} predicts {classes} labels, config.json names {encoder.config.num_labels}; {remedy}")
    return model
