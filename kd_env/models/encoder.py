"""Any Hugging Face encoder as teacher or student: loading, cutting, fresh initialisation and the functional forward.

The forward pass asks the encoder's attention through a function of our own, which records raw scores, queries, keys and
values where a knowledge term needs them, in the unmodified model and under ``torch.func.vmap``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_env.core.records import read_set_record
from kd_env.core.types import Batch, EncoderFacts, ModelOutput, Signal
from kd_env.models.pooling import has_pooling, load_pooled

ATTENTION = "kd_env"
_ATTENTION_KINDS = ("attention_scores", "queries", "keys", "values")


class _Recorder(threading.local):
    """What the attention function keeps during one forward pass."""

    def __init__(self) -> None:
        self.wanted: frozenset[Signal] = frozenset()
        self.eager = False
        self.layer = 0
        self.tensors: dict[Signal, Tensor] = {}


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
            _recorder.tensors[Signal(kind, _recorder.layer)] = tensor  # type: ignore[arg-type]
    if not _recorder.eager and "attention_scores" not in wanted:
        out = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if "attention_scores" in wanted:
        _recorder.tensors[Signal("attention_scores", _recorder.layer)] = scores
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(torch.softmax(scores, -1), dropout, training=dropout > 0)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def register_attention() -> None:
    """Make :data:`ATTENTION` known to transformers; doing it again changes nothing."""
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


def usable_positions(module: Any) -> int | None:
    """Tokens that a row may have in this encoder; None where positions set no limit.

    RoBERTa and its kin count positions from ``padding_idx + 1``, so that 514 positions take 512 tokens.
    """
    positions = getattr(module.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet writes -1
        return None
    for name, table in module.named_modules():
        if name.split(".")[-1] == "position_embeddings" and getattr(table, "padding_idx", None) is not None:
            return positions - int(table.padding_idx) - 1
    return positions


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
            f"The weights of {name_or_path!r} are damaged ({_first_line(error)}); model.safetensors must be a complete "
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
    """Refuse a local folder that is no model, before anything heavy is imported."""
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
    if not path.exists() and (path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1):
        raise ValueError(
            f"There is no folder {name_or_path!r}; check the path, or give a hub name such as 'org/model'."
        )


def _no_model(name_or_path: str, reason: str) -> str:
    return (
        f"The model {name_or_path!r} could not be loaded ({_first_line(reason)}). Without a network give a local "
        "folder in Hugging Face layout that holds config.json and model.safetensors."
    )


def _first_line(reason: object) -> str:
    return next((line for line in str(reason).strip().splitlines() if line), "unknown reason")


def new_encoder(kind: type, config: Any) -> Any:
    """A classifier from a configuration, in float32 with our attention; values are drawn later, by seed.

    Raises:
        ValueError: the architecture cannot be built with these sizes.
    """
    register_attention()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = kind._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)  # type: ignore[attr-defined]
        except Exception as error:  # every architecture refuses sizes in its own way; the cause is kept
            raise ValueError(
                f"A {kind.__name__} cannot be built with these sizes ({type(error).__name__}: {_first_line(error)}). "
                "Choose other sizes, or init=pretrained with a ready encoder."
            ) from error
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
        zero: those of the fresh ones that are 0 instead.
    """

    module: Any
    facts: EncoderFacts
    trainable: tuple[str, ...]
    fresh: frozenset[str]
    zero: frozenset[str] = frozenset()

    @cached_property
    def _tied(self) -> bool:
        """Whether tensors of the module are shared: looked for once, since each call would walk over all of them."""
        named = [
            *self.module.named_parameters(remove_duplicate=False),
            *self.module.named_buffers(remove_duplicate=False),
        ]
        return len({id(tensor) for _, tensor in named}) < len(named)

    @classmethod
    def build(cls, module: Any, *, train_embeddings: bool, fresh: str, zero_head: bool = False) -> Encoder:
        """Wrap a classifier; drawn anew by seed is ``all`` of it, its ``head`` (the prediction layers), or ``none``.

        With ``zero_head`` the last of its prediction layers is 0 instead.
        """
        embeddings = module.get_input_embeddings()
        frozen = {id(embeddings.weight)} if not train_embeddings else set()
        base = module.base_model
        inner = {id(parameter) for parameter in base.parameters()}
        named = {name: parameter for name, parameter in module.named_parameters() if id(parameter) not in frozen}
        drawn = {n: p for n, p in named.items() if fresh == "all" or (fresh == "head" and id(p) not in inner)}
        _check_initialisable(module, set(drawn))
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        zero = _last_layer(module) & set(drawn) if zero_head else frozenset()
        return cls(module, encoder_facts(module.config), tuple(named), frozenset(drawn), frozenset(zero))

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
            if name in self.zero:
                result[name] = torch.zeros_like(value)
            elif name in self.fresh:
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
        _recorder.wanted, _recorder.eager, _recorder.layer, _recorder.tensors = wanted, eager, 0, {}
        try:
            trained = {name: params[name] for name in self.trainable if name in params}
            inputs["output_hidden_states"] = states
            if trained:
                out = functional_call(self.module, trained, (), inputs, tie_weights=self._tied)
            else:
                out = self.module(**inputs)
            recorded = _recorder.tensors
        finally:
            # Also eager: a module that is called on its own afterwards (training of a teacher) would keep its rounding.
            _recorder.wanted, _recorder.tensors, _recorder.eager = frozenset(), {}, False
        return ModelOutput(
            logits=out.logits,
            cls={s.layer: out.hidden_states[s.layer][:, 0] for s in wanted if s.kind == "cls"},
            hidden_states={s.layer: out.hidden_states[s.layer] for s in wanted if s.kind == "hidden_states"},
            **{kind: {s.layer: recorded[s] for s in wanted if s.kind == kind} for kind in _ATTENTION_KINDS},
        )


def _last_layer(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of a classifier's last linear layer: a head that is 0 in all its layers never learns."""
    name, layer = [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)][-1]
    return frozenset(f"{name}.{parameter}" for parameter, _ in layer.named_parameters())


def draw_projection(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A map ``[out, in]`` that keeps the scale of its input: normal with variance 1 / in."""
    return torch.empty(shape).normal_(0.0, 1.0 / math.sqrt(shape[1]), generator=generator)


def _check_initialisable(module: nn.Module, names: set[str]) -> None:
    for prefix, owner in module.named_modules():
        own_names = [f"{prefix}.{n}" if prefix else n for n, _ in owner.named_parameters(recurse=False)]
        known = isinstance(owner, nn.Linear | nn.Embedding | nn.LayerNorm) or "Norm" in type(owner).__name__
        if not known and names.intersection(own_names):
            raise ValueError(
                f"{type(owner).__name__} parameters ({own_names[0]}) cannot be drawn by seed; use a student cut from a "
                "teacher or a pre-trained one."
            )
