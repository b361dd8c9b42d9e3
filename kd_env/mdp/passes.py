"""The student's forward and backward passes: one student as it is, several under ``vmap`` with stacked parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from kd_env.core import trees
from kd_env.core.types import Batch, DistillState, ModelOutput, Signal, TeacherState
from kd_env.data.tables import Table
from kd_env.knowledge import TermInputs
from kd_env.models.encoder import Encoder
from kd_env.numerics import losses
from kd_env.teachers.sources import autocast, cast
from kd_env.teachers.teacher_set import entry_name

if TYPE_CHECKING:
    from kd_env.mdp.problem import Problem

Params = Mapping[str, Tensor]
SMALLEST_SCALE = 1e-8
"""Least divisor of a term's loss."""


class Gradients(NamedTuple):
    """Of one update of N students."""

    raw: Tensor  # [N, T, K] mean raw losses
    scaled: Tensor  # [N, T, K] the same over the running scale
    term_scale: Tensor  # [N, T, K] running scale with this batch in it
    loss: Tensor  # [N] the weighted loss
    grads: dict[str, Tensor]  # name -> [N, ...]; empty where no update was asked for
    cosines: Tensor  # [N, K, K] or [N, 0, 0]


class StudentPass(NamedTuple):
    """A forward pass of N students with its graph, which several losses may be differentiated through."""

    leaves: dict[str, Tensor]  # the parameters that it began from, name -> [N, ...]
    output: ModelOutput


class HasStudent(Protocol):
    """A problem, as far as a student's forward pass reads it."""

    @property
    def device(self) -> torch.device:
        """Of the run."""

    @property
    def student(self) -> Encoder:
        """The template."""

    @property
    def precision(self) -> str:
        """Of the forward pass."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what comes out."""


def student_forward(
    problem: HasStudent,
    params: Params,
    batch: Batch,
    signals: frozenset[Signal],
    *,
    shared_batch: bool = False,
    eager: bool = False,
    encoder: Encoder | None = None,
) -> ModelOutput:
    """Outputs of N students, ``params`` ``[N, ...]``, on their own batches ``[N, B, ...]`` or one shared batch.

    With ``eager`` a single student's attention has forward-mode derivatives, too; that of several always has. With
    ``encoder`` those of N copies of it, such as teachers that learn.
    """
    chosen = problem.student if encoder is None else encoder
    count = next(iter(params.values())).shape[0]
    with autocast(batch.input_ids.device, problem.precision):
        if count == 1:
            single = batch if shared_batch else trees.map_leaves(lambda t: t.squeeze(0), batch)
            first = {name: p.squeeze(0) for name, p in params.items()}
            output = chosen.forward(first, single, signals, eager=eager)
            output = trees.map_leaves(lambda t: t[None], output)
        else:

            def one(own: Params, own_batch: Batch) -> ModelOutput:
                return chosen.forward(own, own_batch, signals, eager=True)

            output = vmap(one, in_dims=(0, None if shared_batch else 0))(dict(params), batch)
    return cast(output, problem.dtype)


def teacher_signals(
    problem: Problem, teacher: TeacherState | None, rows: np.ndarray, batch: Batch, student: ModelOutput
) -> tuple[ModelOutput, ...]:
    """What the T teachers say about rows ``[N, B]``, without gradient; one that learns as it is now.

    Args:
        problem: the problem.
        teacher: of a state.
        rows: ``[N, B]`` rows of the train table.
        batch: these rows.
        student: what the students say about them.
    """
    if teacher is None:
        return tuple(each.source.signals(rows, batch, student) for each in problem.teachers)
    with torch.no_grad():
        encoder = problem.reference.encoder
        return (student_forward(problem, teacher.params, batch, problem.teacher_signals, encoder=encoder),)


def changing_logits(problem: Problem, params: Params, teacher: TeacherState | None, batch: Batch) -> Tensor:
    """Logits ``[N, B, C]`` of the teachers that learn, or of students that are their own teachers (None)."""
    with torch.no_grad():
        own, encoder = (params, None) if teacher is None else (teacher.params, problem.reference.encoder)
        return student_forward(problem, own, batch, frozenset(), encoder=encoder).logits


def loss_table(
    problem: Problem, params: Params, student: ModelOutput, taught: tuple[ModelOutput, ...], batch: Batch
) -> Tensor:
    """The table ``L[T, K, B]`` of every replica, ``[N, T, K, B]``: per-example, unreduced losses; 0 where absent.

    Args:
        problem: the problem.
        params: name -> ``[N, ...]``; the projections are read.
        student: outputs ``[N, B, ...]``.
        taught: outputs of the T teachers, alike.
        batch: ``[N, B, ...]``.
    """
    count = len(problem.teachers)
    projections = {name: p for name, p in params.items() if name.startswith("projections.")}

    def one(own: Params, student: ModelOutput, taught: tuple[ModelOutput, ...], batch: Batch) -> Tensor:
        rows: list[Tensor] = []
        for row, teacher in enumerate(problem.teachers):
            columns = []
            for column, term in enumerate(teacher.terms):
                if not problem.present[row, column]:
                    columns.append(torch.zeros_like(rows[0][column]))
                    continue
                prefix = f"projections.{entry_name(term.name, teacher.name, count)}."
                mine = {name[len(prefix) :]: p for name, p in own.items() if name.startswith(prefix)}
                output = taught[row] if term.uses_teacher else None
                columns.append(term.loss(TermInputs(student, output, batch, mine)))
            rows.append(torch.stack(columns))
        return torch.stack(rows)

    if batch.labels.shape[0] == 1:  # squeeze, since the gradient of an index would be a copy of every parameter
        first = {name: p.squeeze(0) for name, p in projections.items()}
        single = trees.map_leaves(lambda t: t.squeeze(0), batch)
        own_student = trees.map_leaves(lambda t: t.squeeze(0), student)
        own_taught = tuple(trees.map_leaves(lambda t: t.squeeze(0), output) for output in taught)
        return one(first, own_student, own_taught, single)[None]
    return vmap(one)(projections, student, taught, batch)


def running_scale(term_scale: Tensor, term_seen: Tensor, raw: Tensor) -> Tensor:
    """The running means ``[N, T, K]`` with the losses of one more update, of which there were ``term_seen [N]``.

    A plain mean over the first 100 updates, an exponential one afterwards.
    """
    return term_scale + (raw - term_scale) / (term_seen + 1).clamp(max=100.0)[:, None, None]


def student_pass(problem: Problem, params: Params, batch: Batch, differentiate: bool = True) -> StudentPass:
    """Run N students on their batches ``[N, B, ...]`` and keep the graph."""
    leaves = {name: p.detach().requires_grad_(differentiate) for name, p in params.items()}
    with torch.set_grad_enabled(differentiate):
        return StudentPass(leaves, student_forward(problem, leaves, batch, problem.student_signals))


def gradients(
    problem: Problem,
    params: Params,
    rows: np.ndarray,
    weights: Tensor,
    term_scale: Tensor,
    term_seen: Tensor,
    *,
    teacher: TeacherState | None,
    differentiate: bool,
    dropout_seed: int = 0,
    known: StudentPass | None = None,
) -> Gradients:
    """Losses and gradients of N students on their batches.

    Args:
        problem: the problem.
        params: name -> ``[N, ...]``.
        rows: ``[N, B]`` rows of the train table.
        weights: ``[N, T, K, 1 or B]``.
        term_scale: ``[N, T, K]`` running mean so far.
        term_seen: ``[N]`` updates in that mean.
        teacher: of a state.
        differentiate: False computes the losses only (nothing is going to be applied).
        dropout_seed: of the student's dropout; single students only.
        known: of these parameters and rows, where it was made already; without dropout.
    """
    batch = problem.train.gather(rows)
    dropout = problem.config.student_config.dropout
    with (
        torch.set_grad_enabled(differentiate),
        dropout_on(problem.student, dropout, problem.device, dropout_seed),
    ):
        leaves, student = known or student_pass(problem, params, batch, differentiate)
        taught = teacher_signals(problem, teacher, rows, batch, student)
        table = loss_table(problem, leaves, student, taught, batch)
        raw = table.detach().mean(-1)
        if problem.config.term_scale == "running":
            scale = running_scale(term_scale, term_seen, raw)
            divisor = scale.clamp(min=SMALLEST_SCALE)
        else:
            scale, divisor = term_scale, torch.ones_like(term_scale)
        scaled = table / divisor[..., None]
        per_example = torch.where(
            weights != 0, weights * scaled, torch.zeros((), dtype=table.dtype, device=table.device)
        )
        loss = per_example.sum((1, 2)).mean(-1)
        cosines = _cosines(scaled, leaves) if problem.wants_cosines and differentiate else raw.new_zeros(len(raw), 0, 0)
        grads: dict[str, Tensor] = {}
        if differentiate:
            found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
            # A tensor that no term reads has no gradient and is left alone, as in an ordinary PyTorch loop. The fused
            # optimiser walks memory in order: a transposed gradient would update the wrong entries.
            grads = {name: grad.contiguous() for name, grad in zip(leaves, found, strict=True) if grad is not None}
    return Gradients(raw, raw / divisor, scale, loss.detach(), grads, cosines)


@contextmanager
def dropout_on(encoder: Encoder, probability: float, device: torch.device, seed: int) -> Iterator[None]:
    """An encoder in training mode, with a generator of its own: dropout draws from torch's global one."""
    if probability == 0:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        encoder.module.train()
        try:
            yield
        finally:
            encoder.module.eval()


def _cosines(scaled: Tensor, leaves: Params) -> Tensor:
    """Cosines between the gradients of the K terms (summed over teachers), ``[N, K, K]``: K more backward passes."""
    rows = []
    for term in range(scaled.shape[2]):
        found = torch.autograd.grad(
            scaled[:, :, term].sum(1).mean(-1).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        parts = [
            (torch.zeros_like(leaf) if grad is None else grad).flatten(1)
            for leaf, grad in zip(leaves.values(), found, strict=True)
        ]
        rows.append(torch.cat(parts, dim=1))
    stacked = torch.stack(rows, dim=1)
    unit = stacked / stacked.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosines: Tensor = unit @ unit.transpose(1, 2)
    return cosines


def predict(
    problem: HasStudent,
    params: Params,
    table: Table,
    rows_at_once: int | None = None,
    encoder: Encoder | None = None,
) -> np.ndarray:
    """Logits of N students on every row of a table, ``[N, R, C]`` float32 (float64 with precision=fp64).

    With ``encoder`` those of N copies of it.
    """
    count = next(iter(params.values())).shape[0]
    # Short chunks waste less on padding and stay in a CPU's cache; a GPU wants work.
    size = rows_at_once or max(32, (8192 if problem.device.type == "cuda" else 256) // count)
    result: Tensor | None = None
    with torch.no_grad():
        for rows in table.chunks(size):
            batch = table.gather(rows)
            logits = student_forward(problem, params, batch, frozenset(), shared_batch=True, encoder=encoder).logits
            if result is None:
                result = logits.new_empty(count, len(table), logits.shape[-1])
            result[:, torch.as_tensor(rows, device=logits.device)] = logits
    assert result is not None
    return result.cpu().numpy()


def batch_losses(
    problem: Problem, state: DistillState, rows: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of N students on the (train) labels of rows ``[N, B]``, and their weighted KL from the teachers.

    The KL of a row is the mean over teachers by the weights ``[N, T, K, 1 or B]`` of the first weighed term; 0 where no
    teacher is chosen, or where the student is its own teacher (``teacher_source=student``). In regression both are
    squared errors over the squared label range.
    """
    batch = problem.train.gather(rows)
    with torch.no_grad():
        logits = student_forward(problem, state.params, batch, frozenset()).logits.cpu().numpy()
    labels, width = problem.train.labels[rows], problem.label_width
    label_loss = losses.gold_loss(logits, labels, width)
    if problem.config.teacher_source == "student":  # the control would else hear of the teachers from its reward
        return label_loss, np.zeros_like(label_loss)
    if problem.config.decision != "teacher_weighting":
        column = np.ones((len(rows), len(problem.teachers), rows.shape[1]))
    else:
        found = weights[:, :, problem.term_names.index(problem.config.weighs[0])]
        column = np.broadcast_to(found, (len(rows), len(problem.teachers), rows.shape[1])).astype(np.float64)
    total = column.sum(1, keepdims=True)
    shares = np.divide(column, total, out=np.zeros_like(column), where=total > 0)
    if state.teacher is None:
        said = [teacher.train_logits[rows] for teacher in problem.teachers]
    else:
        said = [changing_logits(problem, state.params, state.teacher, batch).cpu().numpy()]
    taught = [losses.row_divergence(logits, each, width) for each in said]
    return label_loss, np.asarray((shares * np.stack(taught, axis=1)).sum(1).mean(-1))


class NextBatch(NamedTuple):
    """What student and teachers say about the first batch of the next step, on the host."""

    student_logits: np.ndarray  # [N, B, C]
    student_cls: np.ndarray | None  # [N, B, H_S], where it was asked for
    teacher_cls: tuple[np.ndarray, ...]  # T times [N, B, H_T]; empty where not asked for


def next_batch(problem: Problem, state: DistillState, rows: np.ndarray, *, with_cls: bool) -> NextBatch:
    """One forward pass of N students on rows ``[N, B]``, and the teachers' last [CLS] where asked for."""
    batch = problem.train.gather(rows)
    last = Signal("cls", problem.student.facts.num_layers)
    with torch.no_grad():
        output = student_forward(problem, state.params, batch, frozenset({last}) if with_cls else frozenset())
        taught: tuple[np.ndarray, ...] = ()
        if with_cls:
            found = teacher_signals(problem, state.teacher, rows, batch, output)
            depths = [teacher.source.facts.num_layers for teacher in problem.teachers]
            taught = tuple(said.cls[depth].cpu().numpy() for said, depth in zip(found, depths, strict=True))
    cls = output.cls[last.layer].cpu().numpy() if with_cls else None
    return NextBatch(output.logits.cpu().numpy(), cls, taught)
