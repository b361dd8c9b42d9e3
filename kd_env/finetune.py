"""Fine-tuning of a teacher on train rows alone, with progress, choice on the selection split, and resume."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_env import losses, models, splits
from kd_env.finetune_model import load_classifier, quiet_transformers
from kd_env.finetune_store import Checkpoints, finished, source_record, write_teacher
from kd_env.glue import Rows, Task, get_task, load_train
from kd_env.knowledge.labels import cross_entropy, scaled_squared_error
from kd_env.optim import learning_rate_factor
from kd_env.records import read_record
from kd_env.registry import unknown_name
from kd_env.tables import Table, tokenize
from kd_env.types import Batch

_NOT_IDENTITY = ("output", "show_progress", "resume", "device")
_EVALUATION_BATCH = 64
_BUCKET_BATCHES = 50


@dataclass(frozen=True)
class TeacherConfig:
    """Options of :func:`finetune`. The split options must be those of the environment that uses the teacher."""

    task: str
    """``toy``, ``toy_pair``, a GLUE task, or ``custom`` with ``columns``."""
    name_or_path: str
    """Folder or hub name of the pre-trained encoder."""
    output: str
    """Folder that is written, in Hugging Face layout."""
    data_dir: str | None = None
    """Folder with ``<task>/<split>.parquet`` (csv, tsv, jsonl too); None reads GLUE from the hub."""
    columns: Mapping[str, Any] | None = None
    """For ``task=custom``, as in the environment."""
    split_seed: int = 0
    """Seed of the cut into train, feedback and selection, and of label noise."""
    feedback_rows: int | None = None
    selection_rows: int | None = None
    max_train_rows: int | None = None
    """Upper limit of train rows after the cut."""
    max_length: int = 128
    """Tokens a row is cut to."""
    num_hidden_layers: int | None = None
    """Keep the first n blocks of the encoder; None keeps all."""
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    """Decoupled (AdamW); biases and layer norms are not decayed."""
    warmup: float = 0.1
    """Share of the updates over which the learning rate rises linearly, before it falls linearly."""
    max_grad_norm: float = 1.0
    label_noise: float = 0.0
    """Share of train labels replaced by a wrong one, after the cut; the selection split stays clean."""
    seed: int = 0
    """Seed of new prediction layers, order of rows and dropout."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast of the forward passes)."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    evaluations_per_epoch: int = 1
    """Evaluations on the selection split, each with a checkpoint."""
    show_progress: bool = True
    resume: bool = True
    """Continue an interrupted run with the same options; False starts afresh."""

    @classmethod
    def from_kwargs(cls, **options: Any) -> TeacherConfig:
        """Validated configuration from plain keywords; unknown and missing ones are refused by name."""
        fields = dataclasses.fields(cls)
        for key in options:
            if key not in {field.name for field in fields}:
                raise ValueError(unknown_name("teacher option", key, [field.name for field in fields]))
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and options.get(f.name) is None]
        if missing:
            raise ValueError(f"Fine-tuning a teacher needs {', '.join(missing)}; give {missing[0]}=...")
        config = cls(**options)
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ``ValueError`` for the first value outside its range."""
        for name in ("task", "name_or_path", "output"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a non-empty string.")
        lows = {"epochs": 1, "batch_size": 1, "evaluations_per_epoch": 1, "max_length": 3, "split_seed": 0, "seed": 0}
        optional = {"feedback_rows": 1, "selection_rows": 1, "max_train_rows": 1, "num_hidden_layers": 1}
        lows.update({name: low for name, low in optional.items() if getattr(self, name) is not None})
        for name, low in lows.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {low}.")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0 and finite.")
        for name, high in (("weight_decay", math.inf), ("warmup", 1.0), ("label_noise", 1.0)):
            if not 0.0 <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in [0, {high}].")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(unknown_name("value of precision:", self.precision, ("fp32", "bf16")))

    def identity(self) -> dict[str, Any]:
        """The options that decide which teacher comes out; local paths are made absolute."""
        options = {key: value for key, value in dataclasses.asdict(self).items() if key not in _NOT_IDENTITY}
        for name in ("data_dir", "name_or_path"):
            if options[name] is not None and Path(options[name]).exists():
                options[name] = str(Path(options[name]).resolve())
        return options


class Data(NamedTuple):
    """The two splits that fine-tuning may see, tokenised."""

    task: Task
    cut: splits.Splits
    train: Table  # rows in the order of cut.train, with label noise
    selection: Table  # rows in the order of cut.selection


def finetune(config: TeacherConfig, *, on_evaluation: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Fine-tune a sequence classifier on train rows and write it as a Hugging Face folder with its record.

    AdamW with linear warm-up and decay on batches of similar length. The checkpoint with the lowest loss on the
    selection split is kept, ties going to the better headline metric; the official dev split is never read. A finished
    output of the same options is returned as it is. An interrupted run continues from its last evaluation to the same
    weights, bit for bit on the CPU of one machine.

    Args:
        config: the options.
        on_evaluation: called after each evaluation with ``step``, ``epoch``, ``loss`` and the task's metrics.

    Returns:
        The output folder.

    Raises:
        ValueError: bad options or data, no model, an output that holds something else; before any training.
        FloatingPointError: a loss that is not finite, with step and rows.
    """
    config.validate()
    output = Path(config.output)
    if finished(output, config.identity()):
        return output
    from kd_env.build import resolve_device

    device = resolve_device(config.device)
    models.check_source(config.name_or_path)
    task = get_task(config.task, config.columns, config.data_dir)
    model, had_head = load_classifier(config.name_or_path, task, config.num_hidden_layers, config.seed)
    model, source = model.to(device), source_record(config.name_or_path, had_head)
    tokenizer = models.load_tokenizer(config.name_or_path)
    data = _prepare(config, task, tokenizer, model, device)
    store = Checkpoints(output, {**config.identity(), "fingerprint": data.cut.fingerprint}, resume=config.resume)
    state = _train(config, data, model, store, on_evaluation)
    store.load_model(state["best_step"], model)
    with quiet_transformers():
        write_teacher(output, model, tokenizer, _record(config, data, model, state, source))
    store.remove()
    return output


def teacher_record(folder: str | Path) -> dict[str, Any] | None:
    """What a teacher folder says about its own making; None for a foreign teacher, an error if damaged."""
    return read_record(folder)


def epoch_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices ``0..len(lengths)-1`` in batches of similar length, in random order; the last batch may be smaller.

    Random order is cut into buckets of 50 batches that are sorted by length, so that little is padded and rows still
    meet different neighbours in each epoch.
    """
    order = rng.permutation(len(lengths))
    bucket = batch_size * _BUCKET_BATCHES
    order = np.concatenate(
        [
            part[np.argsort(lengths[part], kind="stable")]
            for part in (order[start : start + bucket] for start in range(0, len(order), bucket))
        ]
    )
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def _prepare(config: TeacherConfig, task: Task, tokenizer: Any, model: Any, device: torch.device) -> Data:
    rows = load_train(task, config.data_dir)
    cut = splits.cut(
        rows,
        seed=config.split_seed,
        feedback_rows=config.feedback_rows,
        selection_rows=config.selection_rows,
        max_train_rows=config.max_train_rows,
        regression=task.regression,
    )
    labels = rows.labels
    if config.label_noise:
        labels = splits.add_label_noise(labels, cut.train, config.label_noise, task.num_labels, config.split_seed)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer of {config.name_or_path!r} has no padding token; batches need one.")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {config.name_or_path!r} has {len(tokenizer)} tokens, its model has "
            f"{model.config.vocab_size}; give a folder whose tokenizer and model belong together."
        )
    train, selection = (
        tokenize(_subset(rows, labels, part), tokenizer, config.max_length, device, torch.float32)
        for part in (cut.train, cut.selection)
    )
    longest = int(max(train.lengths.max(), selection.lengths.max()))
    positions = models.usable_positions(model)
    if positions is not None and longest > positions:
        raise ValueError(
            f"A row has {longest} tokens, {config.name_or_path!r} only {positions} positions; set max_length to them."
        )
    return Data(task, cut, train, selection)


def _subset(rows: Rows, labels: np.ndarray, part: np.ndarray) -> Rows:
    second = None if rows.second is None else [rows.second[row] for row in part.tolist()]
    return Rows([rows.first[row] for row in part.tolist()], second, labels[part])


def _train(
    config: TeacherConfig,
    data: Data,
    model: Any,
    store: Checkpoints,
    on_evaluation: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Train to the end, from the last checkpoint where there is one; the state of the end."""
    from tqdm import tqdm

    per_epoch = math.ceil(len(data.train) / config.batch_size)
    total = per_epoch * config.epochs
    pauses = {
        math.ceil(part * per_epoch / config.evaluations_per_epoch)
        for part in range(1, config.evaluations_per_epoch + 1)
    }
    optimizer = _optimizer(config, model)
    state = store.latest() or {"step": 0, "best_step": None, "best": None, "history": []}
    if state["step"]:
        store.load_model(state["step"], model)
        store.load_optimizer(state["step"], model, optimizer)
    title = f"teacher {config.task}"
    with tqdm(total=total, initial=state["step"], desc=title, unit="update", disable=not config.show_progress) as bar:
        for step, rows in _schedule(config, data, state["step"]):
            factor = float(learning_rate_factor(np.array([step - 1.0]), np.array([float(total)]), config.warmup)[0])
            loss = _update(config, data, model, optimizer, rows, step, config.learning_rate * factor)
            bar.update()
            bar.set_postfix_str(_postfix(loss, state), refresh=False)
            if (step - 1) % per_epoch + 1 not in pauses:
                continue
            entry = {"step": step, "epoch": step / per_epoch, **_evaluate(config, data, model)[0]}
            key = [entry["loss"], -entry[data.task.metrics[0]]]
            better = state["best"] is None or key < state["best"]
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


def _schedule(config: TeacherConfig, data: Data, done: int) -> Iterator[tuple[int, np.ndarray]]:
    """Updates still to do, counted from 1, with their rows; the order of an epoch depends on seed and epoch alone."""
    step = 0
    for epoch in range(config.epochs):
        rng = np.random.default_rng([config.seed, 0, epoch])
        for rows in epoch_batches(data.train.lengths, config.batch_size, rng):
            step += 1
            if step > done:
                yield step, rows


def _optimizer(config: TeacherConfig, model: Any) -> torch.optim.Optimizer:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _update(
    config: TeacherConfig,
    data: Data,
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: np.ndarray,
    step: int,
    learning_rate: float,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    batch = data.train.gather(rows)
    model.train()
    # Dropout can only read the global generator: it is seeded per update, and given back as it was.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(int(np.random.SeedSequence([config.seed, 1, step]).generate_state(1)[0]))
        logits = _logits(config, model, batch)
    if data.task.regression:
        loss = scaled_squared_error(logits[:, 0], batch.labels, _width(data.task)).mean()
    else:
        loss = cross_entropy(logits, batch.labels).mean()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The teacher's loss is {value} at update {step} (rows {data.cut.train[rows].tolist()} of the official "
            f"train split); lower learning_rate={config.learning_rate}."
        )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return value


def _evaluate(config: TeacherConfig, data: Data, model: Any) -> tuple[dict[str, float], np.ndarray]:
    """Loss and metrics on the selection split, and the logits ``[R, C]``."""
    from kd_env.evaluation.metrics import compute

    model.eval()
    logits = np.empty((len(data.selection), data.task.num_labels))
    with torch.no_grad():
        for rows in data.selection.chunks(_EVALUATION_BATCH):
            logits[rows] = _logits(config, model, data.selection.gather(rows)).double().cpu().numpy()
    width = _width(data.task) if data.task.regression else None
    metrics = compute(data.task.metrics, losses.predictions(logits, data.task.regression), data.selection.labels)
    return {"loss": float(losses.gold_loss(logits, data.selection.labels, width)), **metrics}, logits


def _logits(config: TeacherConfig, model: Any, batch: Batch) -> Tensor:
    """Logits ``[B, C]`` in float32."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:  # RoBERTa has one segment, DistilBERT none
        inputs["token_type_ids"] = batch.token_type_ids
    bf16 = config.precision == "bf16"
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
        text += "".join(f", selection {name} {last[name]:.3f}" for name in last if name not in ("step", "epoch"))
    return text


def _record(
    config: TeacherConfig, data: Data, model: Any, state: Mapping[str, Any], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    import transformers

    metrics, logits = _evaluate(config, data, model)
    classes = not data.task.regression
    return {
        "task": config.task,
        "labels": list(data.task.labels),
        "trained_on": "train",
        "fingerprint": data.cut.fingerprint,
        "source": source,
        "split_seed": config.split_seed,
        "feedback_rows": len(data.cut.feedback),
        "selection_rows": len(data.cut.selection),
        "train_rows": len(data.cut.train),
        "selection": metrics,
        "temperature": losses.fit_temperature(logits, data.selection.labels) if classes else None,
        "best_step": state["best_step"],
        "history": state["history"],
        "config": config.identity(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
