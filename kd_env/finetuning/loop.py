"""The training loop of fine-tuning: train rows alone, choice on the selection split, exact resume.

One teacher and a set that shares layers are trained by the same loop, on the sum of their losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kd_env.core.types import Batch
from kd_env.data.tables import Table
from kd_env.data.tasks import Task
from kd_env.finetuning.config import TrainingOptions
from kd_env.finetuning.preparation import Data
from kd_env.finetuning.store import Checkpoints, versions
from kd_env.knowledge.labels import cross_entropy, scaled_squared_error
from kd_env.numerics import losses
from kd_env.numerics.calibration import fit_temperature
from kd_env.numerics.optim import learning_rate_factor

_EVALUATION_BATCH = 64
_BUCKET_BATCHES = 50


class Trainee(NamedTuple):
    """What is trained together."""

    title: str  # of the progress bar
    module: nn.Module  # owns every parameter, shared ones once
    classifiers: tuple[Any, ...]  # sequence classifiers of the same labels, parts of the module or itself
    names: tuple[str, ...]  # of the classifiers; empty for one teacher that is no set


class Evaluation(NamedTuple):
    """One classifier on the selection split."""

    metrics: dict[str, float]  # loss and the task's metrics
    logits: np.ndarray  # [R, C]


def train(
    options: TrainingOptions,
    data: Data,
    trainee: Trainee,
    store: Checkpoints,
    on_evaluation: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Train to the end, from the last checkpoint where there is one; the state of the end.

    Batches of similar length; AdamW with linear warm-up and decay. The checkpoint with the lowest loss (summed over
    classifiers) on the selection split is ``best_step``, ties going to the better (mean) headline metric; with
    ``keep=last`` it is the last one, and with ``keep=n`` the training ends with epoch n, whose end it is.

    Raises:
        FloatingPointError: a loss that is not finite, with step and rows.
    """
    from tqdm import tqdm

    model = trainee.module
    per_epoch = math.ceil(len(data.train) / options.batch_size)
    total = per_epoch * options.epochs
    pauses = {
        math.ceil(count * per_epoch / options.evaluations_per_epoch)
        for count in range(1, options.evaluations_per_epoch + 1)
    }
    optimizer = _optimizer(options, model)
    state = store.latest() or {"step": 0, "best_step": None, "best": None, "history": []}
    if state["step"]:
        store.load_model(state["step"], model)
        store.load_optimizer(state["step"], model, optimizer)
    hidden = not options.show_progress
    ends = per_epoch * _last_epoch(options)
    with tqdm(total=ends, initial=state["step"], desc=trainee.title, unit="update", disable=hidden) as bar:
        for step, rows in _schedule(options, data, state["step"]):
            factor = float(learning_rate_factor(np.array([step - 1.0]), np.array([float(total)]), options.warmup)[0])
            loss = _update(options, data, trainee, optimizer, rows, step, options.learning_rate * factor)
            bar.update()
            bar.set_postfix_str(_postfix(loss, state), refresh=False)
            if (step - 1) % per_epoch + 1 not in pauses:
                continue
            entry = {"step": step, "epoch": step / per_epoch, **summary(trainee, evaluate(options, data, trainee))}
            key = [entry["loss"], -entry[data.task.metrics[0]]]
            better = options.keep != "best" or state["best"] is None or key < state["best"]
            state = {
                "step": step,
                "best_step": step if better else state["best_step"],
                "best": key if better else state["best"],
                "history": [*state["history"], entry],
            }
            store.save(state, model, optimizer)
            bar.set_postfix_str(_postfix(loss, state))
            if on_evaluation is not None:
                on_evaluation(dict(entry))
    return state


def _update(
    options: TrainingOptions,
    data: Data,
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    rows: np.ndarray,
    step: int,
    learning_rate: float,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    shared = data.train.gather(rows)
    batches = [
        data.of(place).train.gather(rows) if data.tokens else shared for place in range(len(trainee.classifiers))
    ]
    trainee.module.train()
    # Dropout can only read the global generator: it is seeded per update, and given back as it was.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(int(np.random.SeedSequence([options.seed, 1, step]).generate_state(1)[0]))
        outputs = [_logits(options, model, batch) for model, batch in zip(trainee.classifiers, batches, strict=True)]
    loss = torch.stack([_loss(data.task, logits, shared.labels) for logits in outputs]).sum()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The teacher's loss is {value} at update {step} (rows {data.cut.train[rows].tolist()} of the official "
            f"train split); lower learning_rate={options.learning_rate}."
        )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainee.module.parameters(), options.max_grad_norm)
    optimizer.step()
    return value


def _loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    if task.regression:
        return scaled_squared_error(logits[:, 0], labels, _width(task)).mean()
    return cross_entropy(logits, labels).mean()


def evaluate(options: TrainingOptions, data: Data, trainee: Trainee) -> list[Evaluation]:
    """Every classifier on the selection split."""
    from kd_env.core.metrics import compute

    task, labels = data.task, data.selection.labels
    width = _width(task) if task.regression else None
    trainee.module.eval()
    evaluations = []
    for place, model in enumerate(trainee.classifiers):
        table = data.of(place).selection
        logits = logits_on(options, task, model, table)
        metrics = compute(task.metrics, losses.predictions(logits, task.regression), labels)
        evaluations.append(Evaluation({"loss": float(losses.gold_loss(logits, labels, width)), **metrics}, logits))
    return evaluations


def logits_on(options: TrainingOptions, task: Task, model: Any, table: Table) -> np.ndarray:
    """What a classifier in evaluation mode says of every row, ``[R, C]`` float64 in the order of the table."""
    logits = np.empty((len(table), task.num_labels))
    with torch.no_grad():
        for rows in table.chunks(_EVALUATION_BATCH):
            logits[rows] = _logits(options, model, table.gather(rows)).double().cpu().numpy()
    return logits


def summary(trainee: Trainee, evaluations: list[Evaluation]) -> dict[str, Any]:
    """The metrics of one teacher; of a set the summed loss, the mean metrics and ``members`` with each one's."""
    if not trainee.names:
        return evaluations[0].metrics
    members = {name: evaluation.metrics for name, evaluation in zip(trainee.names, evaluations, strict=True)}
    total = {name: float(np.mean([metrics[name] for metrics in members.values()])) for name in evaluations[0].metrics}
    total["loss"] = float(sum(metrics["loss"] for metrics in members.values()))
    return {**total, "members": members}


def making(
    options: TrainingOptions, data: Data, state: Mapping[str, Any], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The record of how something was made, so that its provenance can be checked.

    Args:
        options: all of them.
        data: what it was trained on.
        state: of the end of :func:`train`.
        source: what its weights had seen before (:func:`kd_env.finetuning.store.source_record`).
    """
    return {
        "task": options.task,
        "labels": list(data.task.labels),
        "trained_on": "train",
        "fingerprint": data.cut.fingerprint,
        "content_hash": data.cut.content_hash,
        "source": source,
        "split_seed": options.split_seed,
        "feedback_rows": len(data.cut.feedback),
        "selection_rows": len(data.cut.selection),
        "train_rows": len(data.cut.train),
        "best_step": state["best_step"],
        "history": state["history"],
        "config": options.identity(),
        "versions": versions(),
    }


def verdict(data: Data, evaluation: Evaluation) -> dict[str, Any]:
    """What the record says of one classifier: its metrics on the selection split, and the temperature fitted there.

    No temperature where none can be fitted: the task is one of scores, or the split has one class.
    """
    labels = data.selection.labels
    fits = not data.task.regression and len(np.unique(labels)) > 1 and bool(np.isfinite(evaluation.logits).all())
    temperature = fit_temperature(evaluation.logits, labels, "selection") if fits else None
    return {"selection": evaluation.metrics, "temperature": temperature}


def epoch_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices ``0..len(lengths)-1`` in batches of similar length, in random order; the last batch may be smaller.

    Random order is cut into buckets of 50 batches that are sorted by length, so that little is padded and rows still
    meet different neighbours in each epoch.
    """
    order = rng.permutation(len(lengths))
    bucket_rows = batch_size * _BUCKET_BATCHES
    order = np.concatenate(
        [
            bucket[np.argsort(lengths[bucket], kind="stable")]
            for bucket in (order[start : start + bucket_rows] for start in range(0, len(order), bucket_rows))
        ]
    )
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def _schedule(options: TrainingOptions, data: Data, done: int) -> Iterator[tuple[int, np.ndarray]]:
    """Updates still to do, counted from 1, with their rows; the order of an epoch depends on seed and epoch alone."""
    step = 0
    for epoch in range(_last_epoch(options)):
        rng = np.random.default_rng([options.seed, 0, epoch])
        for rows in epoch_batches(data.train.lengths, options.batch_size, rng):
            step += 1
            if step > done:
                yield step, rows


def _last_epoch(options: TrainingOptions) -> int:
    """Epochs that are trained; the schedule of the learning rate is always that of all ``epochs``."""
    return options.epochs if isinstance(options.keep, str) else options.keep


def _optimizer(options: TrainingOptions, model: Any) -> torch.optim.Optimizer:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def _logits(options: TrainingOptions, model: Any, batch: Batch) -> Tensor:
    """Logits ``[B, C]`` in float32."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:  # RoBERTa has one segment, DistilBERT none
        inputs["token_type_ids"] = batch.token_type_ids
    bf16 = options.precision == "bf16"
    with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
        logits: Tensor = model(**inputs).logits
    return logits.float()


def _width(task: Task) -> float:
    assert task.label_range is not None
    return task.label_range[1] - task.label_range[0]


def _postfix(loss: float, state: Mapping[str, Any]) -> str:
    text = f"loss {loss:.3f}"
    if state["history"]:
        last = state["history"][-1]
        shown = [name for name in last if name not in ("step", "epoch", "members")]
        text += "".join(f", selection {name} {last[name]:.3f}" for name in shown)
    return text
