"""Any Hugging Face encoder as teacher or student: loading, cutting, fresh initialisation and the functional forward.

The forward pass asks the encoder's attention through a function of our own, which records raw scores, queries, keys and
values where a knowledge term needs them, in the unmodified model and under ``torch.func.vmap``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_env.types import Batch, EncoderFacts, ModelOutput, Signal

ATTENTION = "kd_env"
_ATTENTION_KINDS = ("attention_scores", "queries", "keys", "values")


class _Recorder(threading.local):
    """What the attention function keeps during one forward pass."""

    def __init__(self) -> None:
        self.wanted: frozenset[Signal] = frozenset()
        self.eager = False
        self.layer = 0
        self.found: dict[Signal, Tensor] = {}


_recorder = _Recorder()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention ``[B, A, S, D] -> [B, S, A, D]`` that records what was asked for."""
    _recorder.layer += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    wanted = {kind for kind in _ATTENTION_KINDS if Signal(kind, _recorder.layer) in _recorder.wanted}  # type: ignore[arg-type]
    for kind, tensor in (("queries", query), ("keys", key), ("values", value)):
        if kind in wanted:
            _recorder.found[Signal(kind, _recorder.layer)] = tensor  # type: ignore[arg-type]
    if not _recorder.eager and "attention_scores" not in wanted:
        out = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if "attention_scores" in wanted:
        _recorder.found[Signal("attention_scores", _recorder.layer)] = scores
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(torch.softmax(scores, -1), dropout, training=dropout > 0)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


def encoder_facts(config: Any) -> EncoderFacts:
    """Sizes of a Hugging Face configuration."""
    return EncoderFacts(
        num_layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        num_heads=int(config.num_attention_heads),
        num_labels=int(config.num_labels),
        vocab_size=int(config.vocab_size),
    )


def load_encoder(name_or_path: str, *, num_labels: int | None = None, seed: int = 0) -> Any:
    """A sequence classifier in float32, with our attention.

    Args:
        name_or_path: local folder in Hugging Face layout, or a hub name.
        num_labels: size of the classifier head; None keeps what the folder says.
        seed: of a head that the folder lacks.

    Raises:
        ValueError: the folder is no model, or there is no network (with the local option).
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as hf_logging

    check_source(name_or_path)
    _register_attention()
    options: dict[str, Any] = {} if num_labels is None else {"num_labels": num_labels}
    verbosity = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_pretrained(
                name_or_path, dtype=torch.float32, attn_implementation=ATTENTION, use_safetensors=True, **options
            )
    except OSError as error:
        raise ValueError(_no_model(name_or_path, str(error))) from error
    except ValueError as error:
        raise ValueError(
            f"{name_or_path!r} cannot be used as an encoder: {error} Name an encoder that "
            "AutoModelForSequenceClassification knows and that lets its attention function be set."
        ) from error
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
    return model.eval()


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
    """Refuse a local folder that is no model, before anything heavy is imported."""
    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").is_file():
        held = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"The folder {name_or_path!r} is no model: it has no config.json (it holds {held}). Give a folder in "
            "Hugging Face layout, such as one that `kd-env teacher` writes."
        )
    if not path.exists() and (path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1):
        raise ValueError(
            f"There is no folder {name_or_path!r}; check the path, or give a hub name such as 'org/model'."
        )


def _no_model(name_or_path: str, reason: str) -> str:
    first = reason.strip().splitlines()[0] if reason.strip() else "unknown reason"
    return (
        f"The model {name_or_path!r} could not be loaded ({first}). Without a network give a local folder in "
        "Hugging Face layout that holds config.json and model.safetensors."
    )


def layer_list(model: nn.Module, num_layers: int) -> str:
    """Dotted name of the module list that holds the encoder's blocks.

    Raises:
        ValueError: there is none, or more than one, of that length.
    """
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    outer = [name for name in found if not any(name != other and name.startswith(other + ".") for other in found)]
    if len(outer) != 1:
        raise ValueError(
            f"{type(model).__name__} does not have one list of {num_layers} blocks (found {outer or 'none'}); cut "
            "students need such an encoder: use a fresh or a pre-trained student instead."
        )
    return str(outer[0])


def cut_encoder(source: Any, layers: tuple[int, ...], *, num_labels: int, dropout: float) -> Any:
    """A new classifier with the named blocks (from 1) of ``source`` and its embeddings and pooler.

    Its prediction layer is new (MT-BERT: "own prediction"), so that it can be drawn afresh for every episode.
    """
    config = type(source.config).from_dict({**source.config.to_dict(), "num_hidden_layers": len(layers)})
    config.num_labels = num_labels
    set_dropout(config, dropout)
    student = new_encoder(type(source), config)
    blocks = layer_list(source, source.config.num_hidden_layers) + "."
    wanted = {f"{blocks}{layer - 1}.": f"{blocks}{place}." for place, layer in enumerate(layers)}
    target = student.state_dict()
    for name, tensor in source.state_dict().items():
        new_name: str | None = name
        if name.startswith(blocks):
            old = next((prefix for prefix in wanted if name.startswith(prefix)), None)
            new_name = None if old is None else wanted[old] + name[len(old) :]
        if new_name in target and target[new_name].shape == tensor.shape:
            target[new_name] = tensor
    student.load_state_dict(target)
    return student


def new_encoder(kind: type, config: Any) -> Any:
    """A classifier from a configuration, in float32 with our attention; values are drawn later, by seed."""
    _register_attention()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)  # type: ignore[attr-defined]
    return model.eval()


def set_dropout(config: Any, dropout: float) -> None:
    """Set every dropout probability of a configuration."""
    for name in vars(config):
        if "dropout" in name and isinstance(getattr(config, name), int | float):
            setattr(config, name, dropout)


@dataclass(frozen=True)
class Encoder:
    """A template module whose parameters are given at every call.

    Attributes:
        module: the Hugging Face classifier; its own values are the frozen ones and the start of copied ones.
        facts: sizes.
        trainable: names of the parameters that a student trains.
        fresh: those of them that are drawn anew from the episode's seed.
    """

    module: Any
    facts: EncoderFacts
    trainable: tuple[str, ...]
    fresh: frozenset[str]

    @classmethod
    def build(cls, module: Any, *, train_embeddings: bool, fresh: str) -> Encoder:
        """Wrap a classifier; ``fresh`` is ``all`` (everything is drawn by seed) or ``head`` (the prediction layers)."""
        embeddings = module.get_input_embeddings()
        frozen = {id(embeddings.weight)} if not train_embeddings else set()
        base = module.base_model
        inner = {id(parameter) for parameter in base.parameters()}
        named = {name: parameter for name, parameter in module.named_parameters() if id(parameter) not in frozen}
        drawn = named if fresh == "all" else {n: p for n, p in named.items() if id(p) not in inner}
        _check_initialisable(module, set(drawn))
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return cls(module, encoder_facts(module.config), tuple(named), frozenset(drawn))

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Trainable parameters of one student at the start of an episode, a function of the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        std = float(getattr(self.module.config, "initializer_range", 0.02))
        owners = {
            f"{prefix}.{name}" if prefix else name: module
            for prefix, module in self.module.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }
        result = {}
        for name in self.trainable:
            value = self.module.get_parameter(name)
            if name in self.fresh:
                owner = owners[name]
                if isinstance(owner, nn.Linear | nn.Embedding) and name.endswith("weight"):
                    fresh = torch.empty(value.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
                    if isinstance(owner, nn.Embedding) and owner.padding_idx is not None:
                        fresh[owner.padding_idx] = 0.0
                else:
                    fresh = torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape)
                result[name] = fresh.to(value)
            else:
                result[name] = value.detach().clone()
        return result

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, signals: Iterable[Signal], *, eager: bool = False
    ) -> ModelOutput:
        """Outputs of one student (or, with no parameters, of the module itself) on one batch.

        Args:
            params: trainable tensors by name; the others are the module's own.
            batch: ``[B, S]`` fields.
            signals: what to return beside the logits.
            eager: plain matrix products in the attention, which ``vmap`` and forward-mode derivatives need.
        """
        wanted = frozenset(signals)
        # A 2-D mask makes the model branch on its values, which vmap refuses.
        dtype = self.module.dtype
        mask = torch.zeros(batch.attention_mask.shape, dtype=dtype, device=batch.input_ids.device)
        mask = mask.masked_fill(~batch.attention_mask, -1e9)[:, None, None, :]
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": mask}
        types = int(getattr(self.module.config, "type_vocab_size", 0) or 0)
        if types > 0:  # RoBERTa has one segment only
            inputs["token_type_ids"] = batch.token_type_ids if types > 1 else torch.zeros_like(batch.input_ids)
        states = any(signal.kind in ("hidden_states", "cls") for signal in wanted)
        _recorder.wanted, _recorder.eager, _recorder.layer, _recorder.found = wanted, eager, 0, {}
        try:
            own = {name: params[name] for name in self.trainable if name in params}
            out = functional_call(self.module, own, (), {**inputs, "output_hidden_states": states})
            found = _recorder.found
        finally:
            _recorder.wanted, _recorder.found = frozenset(), {}
        return ModelOutput(
            logits=out.logits,
            cls={s.layer: out.hidden_states[s.layer][:, 0] for s in wanted if s.kind == "cls"},
            hidden_states={s.layer: out.hidden_states[s.layer] for s in wanted if s.kind == "hidden_states"},
            **{kind: {s.layer: found[s] for s in wanted if s.kind == kind} for kind in _ATTENTION_KINDS},
        )


def check_encoder(encoder: Encoder, batch: Batch, signals: Iterable[Signal], what: str) -> None:
    """One pass at construction: every signal is there, and padding does not reach the logits.

    Raises:
        ValueError: the architecture does not give a signal, or lets padded positions influence real ones.
    """
    wanted = frozenset(signals)
    kind = type(encoder.module).__name__
    with torch.no_grad():
        try:
            output = encoder.forward({}, batch, wanted)
        except KeyError as error:
            raise ValueError(
                f"The {what} ({kind}) does not give the signal {error}; choose terms without attention for it."
            ) from error
        padded = batch._replace(
            input_ids=F.pad(batch.input_ids, (0, 2), value=int(encoder.module.config.pad_token_id or 0)),
            attention_mask=F.pad(batch.attention_mask, (0, 2), value=False),
            token_type_ids=F.pad(batch.token_type_ids, (0, 2)),
        )
        positions = int(getattr(encoder.module.config, "max_position_embeddings", padded.input_ids.shape[1] + 2))
        if padded.input_ids.shape[1] < positions - 1:
            other = encoder.forward({}, padded, ())
            tolerance = 1e-3 * max(1.0, float(output.logits.abs().max()))
            if float((other.logits - output.logits).abs().max()) > tolerance:
                raise ValueError(f"The {what} ({kind}) lets padding change its logits; use an encoder that masks it.")


def draw_projection(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A map ``[out, in]`` that keeps the scale of its input: normal with variance 1 / in."""
    return torch.empty(shape).normal_(0.0, 1.0 / math.sqrt(shape[1]), generator=generator)


def _check_initialisable(module: nn.Module, names: set[str]) -> None:
    for prefix, owner in module.named_modules():
        mine = [f"{prefix}.{n}" if prefix else n for n, _ in owner.named_parameters(recurse=False)]
        known = isinstance(owner, nn.Linear | nn.Embedding | nn.LayerNorm) or "Norm" in type(owner).__name__
        if not known and names.intersection(mine):
            raise ValueError(
                f"{type(owner).__name__} parameters ({mine[0]}) cannot be drawn by seed; use a student cut from a "
                "teacher or a pre-trained one."
            )
