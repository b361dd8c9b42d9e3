"""Training of masked language models: dynamic masking, choice on the selection texts, exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_env.core import trees
from kd_env.core.locks import alone
from kd_env.core.types import Batch
from kd_env.data.corpora import load_texts
from kd_env.data.masking import bernoulli_slots, corrupt, draw_slots, ordinary_tokens
from kd_env.data.tables import Table
from kd_env.data.text import TextSplits, TokenFacts, cut_texts, token_facts, tokenize_texts
from kd_env.finetuning.contents import MADE_FROM, encoders_of, text_contents
from kd_env.finetuning.loop import epoch_batches
from kd_env.finetuning.masked_lm_config import MlmConfig, sources
from kd_env.finetuning.store import Checkpoints, becoming, finished, source_record, versions, write_record
from kd_env.models import pretrained
from kd_env.models.checks import check_masked_lm
from kd_env.models.library.reading import quiet_transformers
from kd_env.models.masked_lm import MaskedLM, head_parameters, start_masked_lm
from kd_env.numerics.optim import learning_rate_factor

__all__ = ["Masked", "MlmConfig", "MlmData", "evaluate", "mask", "masked_logits", "prepare", "train_mlm"]

_EVALUATION_BATCH = 64
_ORDER, _DROPOUT, _MASKING, _SELECTION = range(4)
"""What a generator is for; stands behind the seed, so that no two draw the same numbers."""


class MlmData(NamedTuple):
    """The two splits that training may see, tokenised on the host."""

    cut: TextSplits
    facts: TokenFacts
    train: Table
    selection: Table
    dropped: int  # texts of both without an ordinary token
    chunks: tuple[Masked, ...]  # of selection, under their fixed masking


class Masked(NamedTuple):
    """A batch whose tokens are corrupted, and what is predicted; all on the device of the run."""

    batch: Batch
    rows: Tensor  # [M] int64, row of each masked token
    places: Tensor  # [M] int64, its position
    targets: Tensor  # [M] int64, what stood there


def train_mlm(config: MlmConfig, *, on_evaluation: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train a masked language model on the train texts and write it as a Hugging Face folder with its record.

    Each update masks anew (15% of the ordinary tokens, 80/10/10); the loss stands at these tokens alone, and logits are
    made for no others. AdamW with linear warm-up and decay over the whole schedule, batches of similar length. The
    checkpoint with the lowest loss on the selection texts under one fixed masking is kept, ties going to the better
    accuracy. Finished outputs, interruptions and other processes are treated as in
    :func:`kd_env.finetuning.classifier.finetune`; dev texts are never read.

    Args:
        config: the options.
        on_evaluation: called after each evaluation with ``step``, ``epoch``, ``loss`` and ``accuracy``.

    Returns:
        The output folder.

    Raises:
        ValueError: bad options or texts, no model, an output that holds something else; before any training.
        FloatingPointError: a loss that is not finite, with the step.
    """
    config.validate()
    output, contents = Path(config.output), text_contents(sources(config.text), config.data_dir, config.name_or_path)
    is_finished = partial(finished, output, config.identity(), contents, lambda: _cut(config).fingerprint)
    if is_finished():
        return output
    from kd_env.models.devices import resolve_device

    device = resolve_device(config.device)
    tokenizer = pretrained.load_tokenizer(config.name_or_path)
    data = prepare(config, tokenizer, device)
    started = start_masked_lm(config.name_or_path, num_hidden_layers=config.num_hidden_layers, seed=config.seed)
    model = started.model
    for table in (data.selection, data.train):
        check_masked_lm(config.name_or_path, tokenizer, model, table, config.max_length)
    model.module.to(device)
    if not config.train_encoder:
        model.module.base_model.requires_grad_(False)
    with alone(output, "teacher"):
        if is_finished():  # by another process, while this one waited
            return output
        identity = {**config.identity(), "fingerprint": data.cut.fingerprint, **encoders_of(contents)}
        store = Checkpoints(output, identity, resume=config.resume)
        state = _train(config, data, model, store, device, on_evaluation)
        store.load_model(state["best_step"], model.module)
        record = {
            **_making(config, data, state, source_record(config.name_or_path, started.had_task_head)),
            "head": "kept" if started.had_head else "drawn",
            "selection": evaluate(config, data, model),
            MADE_FROM: contents,
        }
        with quiet_transformers(), becoming(output) as folder:
            model.module.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_record(folder, record)
        store.remove()
    return output


def prepare(config: MlmConfig, tokenizer: Any, device: torch.device) -> MlmData:
    """Load, cut and tokenise the texts, and mask those of selection, on which models are compared, once.

    Raises:
        ValueError: texts or tokenizer that do not fit the options.
    """
    facts = token_facts(tokenizer, config.name_or_path)
    cut = _cut(config)
    train, selection = (
        tokenize_texts(split_texts, tokenizer, facts, config.max_length) for split_texts in (cut.train, cut.selection)
    )
    chunks = []
    for index, rows in enumerate(selection.table.chunks(_EVALUATION_BATCH)):
        rng = np.random.default_rng([config.split_seed, _SELECTION, index])
        chunks.append(mask(selection.table.gather(rows), facts, config.mask_rate, rng, device))
    return MlmData(cut, facts, train.table, selection.table, train.dropped + selection.dropped, tuple(chunks))


def _cut(config: MlmConfig) -> TextSplits:
    texts = load_texts(config.text, data_dir=config.data_dir, column=config.column)
    return cut_texts(texts, config.split_seed, config.feedback_rows, config.selection_rows, config.max_train_rows)


def mask(batch: Batch, facts: TokenFacts, rate: float, rng: np.random.Generator, device: torch.device) -> Masked:
    """Corrupt a batch of the host; each ordinary token is chosen with probability ``rate``.

    Where that chooses none in the whole batch, one token of every row is: an update needs something to predict.

    Args:
        batch: on the host; every row with an ordinary token.
        facts: of the tokenizer.
        rate: strictly between 0 and 1.
        rng: source of all draws.
        device: where the result lies.
    """
    ids, attention = batch.input_ids.numpy(), batch.attention_mask.numpy()
    ordinary = ordinary_tokens(ids, attention, facts.special_ids)
    positions, valid, _ = bernoulli_slots(ordinary, rate, ids.shape[1], rng)
    if not valid.any():
        positions, valid = draw_slots(ordinary, 1, rng), np.ones((len(ids), 1), dtype=bool)
    corrupted = corrupt(ids, positions, valid, facts.mask_id, facts.candidates, rng)
    rows, slots = np.nonzero(valid)
    places = positions[rows, slots]
    moved = trees.to_device(batch._replace(input_ids=torch.from_numpy(corrupted)), device)
    return Masked(moved, *(torch.from_numpy(values).to(device) for values in (rows, places, ids[rows, places])))


def masked_logits(model: MaskedLM, masked: Masked, precision: str = "fp32") -> Tensor:
    """Logits ``[M, V]`` in float32 at the masked tokens."""
    bf16 = precision == "bf16"
    with torch.autocast(masked.rows.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
        hidden = model.encode(masked.batch).hidden
        return model.logits(hidden[masked.rows, masked.places]).float()


def evaluate(config: MlmConfig, data: MlmData, model: MaskedLM) -> dict[str, float]:
    """Mean ``loss`` and ``accuracy`` over all masked tokens of the selection texts."""
    model.module.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for chunk in data.chunks:
            logits = masked_logits(model, chunk, config.precision)
            loss += float(F.cross_entropy(logits, chunk.targets, reduction="sum"))
            right += int((logits.argmax(-1) == chunk.targets).sum())
            count += len(chunk.targets)
    return {"loss": loss / count, "accuracy": right / count}


def _train(
    config: MlmConfig,
    data: MlmData,
    model: MaskedLM,
    store: Checkpoints,
    device: torch.device,
    on_evaluation: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Train to the end, from the last checkpoint where there is one; the state of the end."""
    from tqdm import tqdm

    per_epoch = math.ceil(len(data.train) / config.batch_size)
    total = per_epoch * config.epochs
    counts = range(1, config.evaluations_per_epoch + 1)
    pauses = {math.ceil(count * per_epoch / config.evaluations_per_epoch) for count in counts}
    optimizer = _optimizer(config, model)
    state = store.latest() or {"step": 0, "best_step": None, "best": None, "history": []}
    if state["step"]:
        store.load_model(state["step"], model.module)
        store.load_optimizer(state["step"], model.module, optimizer)
    title = f"masked LM {'+'.join(Path(name).name for name in sources(config.text))}"
    with tqdm(total=total, initial=state["step"], desc=title, unit="update", disable=not config.show_progress) as bar:
        for step in range(state["step"] + 1, total + 1):
            epoch, place = divmod(step - 1, per_epoch)
            if place == 0 or step == state["step"] + 1:
                order = np.random.default_rng([config.seed, _ORDER, epoch])
                batches = epoch_batches(data.train.lengths, config.batch_size, order)
            factor = float(learning_rate_factor(np.array([step - 1.0]), np.array([float(total)]), config.warmup)[0])
            rng = np.random.default_rng([config.seed, _MASKING, step])
            masked = mask(data.train.gather(batches[place]), data.facts, config.mask_rate, rng, device)
            loss = _update(config, model, optimizer, masked, step, config.learning_rate * factor)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            if place + 1 not in pauses:
                continue
            entry = {"step": step, "epoch": step / per_epoch, **evaluate(config, data, model)}
            key = [entry["loss"], -entry["accuracy"]]
            better = state["best"] is None or key < state["best"]
            state = {
                "step": step,
                "best_step": step if better else state["best_step"],
                "best": key if better else state["best"],
                "history": [*state["history"], entry],
            }
            store.save(state, model.module, optimizer)
            bar.set_postfix_str(f"selection loss {entry['loss']:.3f}, accuracy {entry['accuracy']:.3f}")
            if on_evaluation is not None:
                on_evaluation(dict(entry))
    return state


def _update(
    config: MlmConfig,
    model: MaskedLM,
    optimizer: torch.optim.Optimizer,
    masked: Masked,
    step: int,
    learning_rate: float,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    model.module.train()
    if not config.train_encoder:
        model.module.base_model.eval()  # a frozen encoder gives what it gives in use, without dropout
    # Dropout can only read the global generator: it is seeded per update, and given back as it was.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(int(np.random.SeedSequence([config.seed, _DROPOUT, step]).generate_state(1)[0]))
        loss = F.cross_entropy(masked_logits(model, masked, config.precision), masked.targets)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The loss of the masked language model is {value} at update {step}; lower "
            f"learning_rate={config.learning_rate}."
        )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(_trained(config, model), config.max_grad_norm)
    optimizer.step()
    return value


def _trained(config: MlmConfig, model: MaskedLM) -> list[torch.nn.Parameter]:
    return list(model.module.parameters() if config.train_encoder else head_parameters(model).values())


def _optimizer(config: MlmConfig, model: MaskedLM) -> torch.optim.Optimizer:
    trained = _trained(config, model)
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    plain = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _making(
    config: MlmConfig, data: MlmData, state: Mapping[str, Any], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The record of how the model was made, so that its provenance can be checked."""
    identity = config.identity()
    return {
        "task": "mlm",
        "text": identity["text"],
        "trained_on": "train",
        "fingerprint": data.cut.fingerprint,
        "source": source,
        "split_seed": config.split_seed,
        "feedback_rows": len(data.cut.feedback),
        "selection_rows": len(data.selection),
        "train_rows": len(data.train),
        "without_ordinary_tokens": data.dropped,
        "best_step": state["best_step"],
        "history": state["history"],
        "config": identity,
        "versions": versions(),
    }
