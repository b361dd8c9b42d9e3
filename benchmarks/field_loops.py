"""The loops that ``field`` compares, each as a function from batches to losses and seconds.

Every loop trains a fresh copy of the same student on the same batches with the same teacher, loss and optimiser. A tool
that brings its own loop runs with its own means alone: neither logging, evaluation nor saving while the clock runs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from kd_env.data.tables import Table
from kd_env.mdp.problem import Problem
from kd_env.teachers.sources import autocast

WARM_UP = 5
"""First updates of every run, which are not timed: the optimiser makes its state in them, and caches fill."""


class Trace(NamedTuple):
    """What a run of U updates gave."""

    losses: list[float]  # of the first updates, U or fewer
    seconds: float  # per update, without the first WARM_UP


Loop = Callable[[np.ndarray], Trace]
"""Takes train rows ``[U, B]``, U above WARM_UP."""


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``tau^2`` times the cross-entropy of the softened distributions; its gradient is that of ``tau^2 KL``."""
    return temperature**2 * F.cross_entropy(student / temperature, torch.softmax(teacher / temperature, -1))


@dataclass(frozen=True)
class Setting:
    """What all loops share."""

    problem: Problem
    teacher: Any
    """An ordinary Hugging Face module in evaluation mode."""
    start: Mapping[str, Tensor]
    """Parameters of the student before the first update."""
    temperature: float
    folder: Path
    """Where tools may write."""

    def student(self) -> Any:
        """A fresh student, an ordinary module with PyTorch's fused attention."""
        from transformers import BertForSequenceClassification

        template = self.problem.student.module
        with torch.random.fork_rng(devices=[]):
            # A copy: setting the attention below would set that of the environment's student too.
            model: Any = BertForSequenceClassification(copy.deepcopy(template.config))
        model.load_state_dict({**template.state_dict(), **self.start})
        model.set_attn_implementation("sdpa")
        return model.to(self.problem.device).train()  # dropout is 0 in its configuration

    def optimizer(self, model: Any) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW and the schedule of the environment (no warm-up, a decay that is far away)."""
        config, budget = self.problem.config.optimizer_config, self.problem.config.budget
        groups = [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0 - update / budget)

    def loader(self, rows: np.ndarray) -> Any:
        """A data loader of these batches that costs next to nothing: each is cut from a table in one piece."""
        from torch.utils.data import DataLoader

        batches = [[int(row) for row in batch] for batch in rows]
        return DataLoader(_Rows(self.problem.train), batch_sampler=batches, collate_fn=lambda batch: batch)


class _Rows(torch.utils.data.Dataset[Any]):
    """Train rows on the host, read batch by batch."""

    def __init__(self, table: Table) -> None:
        ids = table.input_ids.cpu().long()
        self.fields = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),  # all rows have the same length
            "token_type_ids": table.token_type_ids.cpu().long(),
            "labels": table.label_tensor.cpu(),
        }

    def __len__(self) -> int:
        return len(self.fields["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.fields.items()}

    def __getitems__(self, index: list[int]) -> dict[str, Tensor]:
        """Called by the loader in place of one call a row."""
        chosen = torch.as_tensor(index)
        return {name: value[chosen] for name, value in self.fields.items()}


class _Clock:
    """Times the updates of an optimiser that somebody else's loop calls."""

    def __init__(self, optimizer: torch.optim.Optimizer, updates: int, device: torch.device) -> None:
        self.count, self.updates, self.device = 0, updates, device
        self.begin = self.end = float("nan")
        optimizer.register_step_post_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.count += 1
        if self.count in (WARM_UP, self.updates):  # synchronising every update would slow the loop down
            common.synchronize(self.device)
            self.begin, self.end = self.end, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Per update, between the end of the last one that warms up and the end of the last one."""
        if self.count != self.updates:
            raise RuntimeError(f"The loop made {self.count} updates instead of {self.updates}.")
        return (self.end - self.begin) / (self.updates - WARM_UP)


def pytorch(setting: Setting, *, cached: bool) -> Loop:
    """A plain loop; with ``cached``, the teacher's logits were computed before, as a careful user would."""
    device, precision = setting.problem.device, setting.problem.config.precision
    limit = setting.problem.config.optimizer_config.max_grad_norm or float("inf")
    known = torch.as_tensor(setting.problem.reference.train_logits, device=device)

    def run(rows: np.ndarray) -> Trace:
        student = setting.student()
        optimizer, schedule = setting.optimizer(student)
        clock, losses = _Clock(optimizer, len(rows), device), []
        for index, host in enumerate(setting.loader(rows)):
            batch = {name: value.to(device) for name, value in host.items()}
            labels = batch.pop("labels")
            with autocast(device, precision):
                if cached:
                    taught = known[torch.as_tensor(rows[index], device=device)]
                else:
                    with torch.no_grad():
                        taught = setting.teacher(**batch).logits
                logits = student(**batch).logits
                loss = F.cross_entropy(logits, labels) + soft_loss(logits, taught, setting.temperature)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), limit)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        return Trace(torch.stack(losses).tolist(), clock.seconds)

    return run


def trainer(setting: Setting) -> Loop:
    """Hugging Face's ``Trainer`` with a ``compute_loss`` that runs the teacher."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    device, options = setting.problem.device, setting.problem.config
    losses: list[Tensor] = []

    class Distiller(Trainer):
        """The usual subclass."""

        batches: Any

        def get_train_dataloader(self) -> Any:
            return self.batches

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs.pop("labels")
            with torch.no_grad():
                taught = setting.teacher(**inputs).logits
            outputs = model(**inputs)
            logits = outputs.logits
            loss = F.cross_entropy(logits, labels) + soft_loss(logits, taught, setting.temperature)
            losses.append(loss.detach())
            return (loss, outputs) if return_outputs else loss

    def run(rows: np.ndarray) -> Trace:
        losses.clear()
        arguments = TrainingArguments(
            output_dir=str(setting.folder),
            max_steps=len(rows),
            per_device_train_batch_size=rows.shape[1],
            max_grad_norm=options.optimizer_config.max_grad_norm or 0.0,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=device.type == "cpu",
            bf16=options.precision == "bf16",
        )
        student = setting.student()
        optimizer, schedule = setting.optimizer(student)
        clock = _Clock(optimizer, len(rows), device)
        loop = Distiller(model=student, args=arguments, optimizers=(optimizer, schedule))
        loop.batches = setting.loader(rows)
        loop.remove_callback(PrinterCallback)
        loop.train()
        return Trace(torch.stack(losses).tolist(), clock.seconds)

    return run


def textbrewer(setting: Setting) -> Loop:
    """TextBrewer's ``GeneralDistiller``, the distiller that its documentation recommends for one teacher and task.

    Its loss on logits (``kd_loss_type="ce"``) is the cross-entropy of the softened distributions without ``tau^2``, so
    ``kd_loss_weight`` is ``tau^2``; the loss on labels comes from the student's own output with weight 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compares texts with `is`
        from textbrewer import (  # type: ignore[import-untyped]
            DistillationConfig,
            GeneralDistiller,
            TrainingConfig,
        )

    device, options = setting.problem.device, setting.problem.config
    losses: list[float] = []

    def adapt(batch: Mapping[str, Tensor], outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits, "losses": outputs.loss}

    def keep(loss: Tensor, step: int, parts: Any = None) -> None:
        losses.append(float(loss.detach()))

    def run(rows: np.ndarray) -> Trace:
        losses.clear()
        student = setting.student()
        optimizer, schedule = setting.optimizer(student)
        clock = _Clock(optimizer, len(rows), device)
        distiller = GeneralDistiller(
            # No checkpoint within an epoch: it would be written while the clock runs.
            TrainingConfig(output_dir=str(setting.folder), device=str(device), log_dir=None, ckpt_frequency=0),
            DistillationConfig(
                temperature=setting.temperature,
                kd_loss_type="ce",
                kd_loss_weight=setting.temperature**2,
                hard_label_weight=1.0,
            ),
            setting.teacher,
            student,
            adapt,
            adapt,
        )
        distiller.write_loss = keep  # reads the loss once an update, as its own does (which reads every part of it)
        # Its progress bars hide where the error stream is no terminal.
        with distiller, contextlib.redirect_stderr(io.StringIO()), autocast(device, options.precision):
            distiller.train(
                optimizer,
                setting.loader(rows),
                num_epochs=1,
                scheduler=schedule,
                max_grad_norm=options.optimizer_config.max_grad_norm or -1.0,
                callback=None,
            )
        return Trace(list(losses), clock.seconds)

    return run


def environment(env: Any) -> tuple[Callable[[int], tuple[np.ndarray, list[float]]], Callable[[int], float]]:
    """The environment, which draws its own batches.

    Returns:
        A function that makes a number of steps and gives their rows ``[steps * U, B]`` and the mean loss of each step;
        and one that gives the seconds per update of a number of steps.
    """
    ones = np.ones(len(env.term_names), dtype=np.int8)
    problem = env.problem

    def observed(steps: int) -> tuple[np.ndarray, list[float]]:
        rows, losses = [], []
        for _ in range(steps):
            rows.append(env.run.started().next_rows[0])
            losses.append(float(env.step(ones)[4]["raw_losses"].sum()))
        return np.concatenate(rows), losses

    def timed(steps: int) -> float:
        call = common.clocked(lambda: [env.step(ones) for _ in range(steps)], problem.device)
        updates: int = steps * problem.config.updates_per_step
        return call() / updates

    return observed, timed


@contextlib.contextmanager
def kept_global_state() -> Iterator[None]:
    """Puts the generators back that ``Trainer`` seeds for the whole process."""
    import random

    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
