"""The student's forward and backward passes: one student as it is, several under ``vmap`` with stacked parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from kd_env.core import trees
from kd_env.core.types import Batch, ModelOutput, Signal
from kd_env.data.tables import Table
from kd_env.mdp.parts import by_rows, in_parts, part
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, TeacherState
from kd_env.models.encoder import Encoder
from kd_env.numerics.chunks import Plan
from kd_env.numerics.chunks import plan as make_plan
from kd_env.numerics.ranks import Ranks
from kd_env.teachers.sources import autocast, cast

Params = Mapping[str, Tensor]


class StudentPass(NamedTuple):
    """A forward pass of N students with its graph, which several losses may be differentiated through."""

    leaves: dict[str, Tensor]  # the parameters that it began from, name -> [N, ...]
    output: ModelOutput


class HasStudent(Protocol):
    """A problem, as far as a student's forward pass reads it."""

    @property
    def device(self) -> torch.device:
        """Device of the run."""

    @property
    def student(self) -> Encoder:
        """Template of the students."""

    @property
    def precision(self) -> str:
        """Precision of the forward pass."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the outputs."""

    @property
    def ranks(self) -> Ranks:
        """The processes that share the rows."""


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

    With ``eager`` a single student's attention has forward-mode derivatives, too; that of several always has. An
    ``encoder`` in place of the student's gives outputs of N copies of it, such as teachers that learn.
    """
    chosen = problem.student if encoder is None else encoder
    count = next(iter(params.values())).shape[0]
    params = _as_read(problem, params, chosen)
    with autocast(batch.input_ids.device, problem.precision):
        if count == 1:
            single = batch if shared_batch else trees.map_leaves(lambda t: t.squeeze(0), batch)
            first = {name: p.squeeze(0) for name, p in params.items()}
            output = chosen.forward(first, single, signals, eager=eager)
            output = trees.map_leaves(lambda t: t[None], output)
        else:
            output = chosen.forward_stacked(params, batch, signals, shared_batch=shared_batch)
    return cast(output, problem.dtype)


def _as_read(problem: HasStudent, params: Params, encoder: Encoder) -> Params:
    """The parameters as passes read them, cast once however often they are used; those that are cast stay."""
    return encoder.in_bf16(params) if problem.precision == "bf16" else params


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
        return tuple(frozen.source.signals(rows, batch, student) for frozen in problem.teachers)
    with torch.no_grad():
        encoder = problem.reference.encoder
        return (student_forward(problem, teacher.params, batch, problem.teacher_signals, encoder=encoder),)


def changing_logits(problem: Problem, params: Params, teacher: TeacherState | None, batch: Batch) -> Tensor:
    """Logits ``[N, B, C]`` of the teachers that learn, or of students that are their own teachers (None)."""
    with torch.no_grad():
        teacher_params, encoder = (params, None) if teacher is None else (teacher.params, problem.reference.encoder)
        return student_forward(problem, teacher_params, batch, frozenset(), encoder=encoder).logits


def student_pass(problem: Problem, params: Params, batch: Batch, differentiate: bool = True) -> StudentPass:
    """Run N students on their batches ``[N, B, ...]`` and keep the graph."""
    leaves = {name: p.detach().requires_grad_(differentiate) for name, p in params.items()}
    with torch.set_grad_enabled(differentiate):
        return StudentPass(leaves, student_forward(problem, leaves, batch, problem.student_signals))


def whole_output(problem: Problem, params: Params, batch: Batch, signals: frozenset[Signal]) -> ModelOutput:
    """Outputs of N students on their batches ``[N, B, ...]`` without gradient, part by part where that is asked for."""
    with torch.no_grad():
        return by_rows(
            problem,
            batch.input_ids.shape[1],
            lambda piece: student_forward(problem, params, part(batch, piece), signals),
        )


def logits_of(problem: Problem, params: Params, batch: Batch) -> ModelOutput:
    """Logits of N students on their batches ``[N, B, ...]``, as an output without other signals."""
    return whole_output(problem, params, batch, frozenset())


class _KeptPass(NamedTuple):
    """A pass on train rows as they are, and what it is a function of."""

    problem: Problem
    rows: bytes
    tensors: tuple[tuple[int, int], ...]  # where each parameter lies, and how often it was written to
    forward_pass: StudentPass


_kept_passes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Of every state that is in use the last pass on its next batch, by the first of its parameters."""


def next_pass(problem: Problem, params: Params, rows: np.ndarray) -> StudentPass:
    """The pass of N students of a state on train rows ``[N, B]`` as they are, without dropout.

    It is kept for who asks next: features, scores, and the update that follows, so that its graph is kept, too.
    """
    kept = kept_pass(problem, params, rows)
    if kept is None and in_parts(problem):  # as it is for features alone
        signals = frozenset(signal for signal in problem.student_signals if signal.kind == "cls")
        kept = StudentPass(dict(params), whole_output(problem, params, problem.train.gather(rows), signals))
    elif kept is None:
        kept = student_pass(problem, params, problem.train.gather(rows), is_shared(problem))
    _kept_passes[next(iter(params.values()))] = _KeptPass(problem, rows.tobytes(), _written(params), kept)
    return kept


def kept_pass(problem: Problem, params: Params, rows: np.ndarray) -> StudentPass | None:
    """What :func:`next_pass` made of these students and rows, which is forgotten here; None where there is none.

    That is where a parameter was written to since, or where the rows are others.
    """
    kept: _KeptPass | None = _kept_passes.pop(next(iter(params.values())), None)
    if kept is None or kept.problem is not problem or (kept.rows, kept.tensors) != (rows.tobytes(), _written(params)):
        return None
    return kept.forward_pass


def is_shared(problem: Problem) -> bool:
    """Whether students read a batch in an update as features read it before: as it is, whole, and without dropout."""
    return problem.config.student_config.dropout == 0 and problem.assets.reader is None and not in_parts(problem)


def _written(params: Params) -> tuple[tuple[int, int], ...]:
    # A kept pass holds the memory of its parameters, so that no others can lie there.
    return tuple((p.data_ptr(), p._version) for p in params.values())


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


class TablePart(NamedTuple):
    """What some students say about some rows of a table."""

    students: slice
    rows: np.ndarray
    batch: Batch
    logits: Tensor  # [n, B, C], of students of masked text scores [n, B, S, 1]


def read_table(
    problem: HasStudent, params: Params, table: Table, encoder: Encoder | None = None
) -> Iterator[TablePart]:
    """N students, or N copies of an ``encoder`` in their place, on every row of a table, part by part.

    A part is what is fastest (:mod:`kd_env.numerics.chunks`; a GPU wants work). The longest rows come first. Of several
    ranks each reads its share of the rows, of all lengths: what is made of them has to be added up.
    """
    chosen = problem.student if encoder is None else encoder
    count, width = next(iter(params.values())).shape[0], chosen.facts.hidden_size
    params = _as_read(problem, params, chosen)
    order = np.argsort(-table.lengths, kind="stable")[problem.ranks.rank :: problem.ranks.world]
    if not len(order):
        return
    if problem.device.type == "cuda":
        at_once = max(32, 8192 // count)
        plan = Plan(np.split(order, range(at_once, len(order), at_once)), True)
    else:
        plan = make_plan(table.lengths[order], count, width)
        plan = plan._replace(chunks=[order[chunk] for chunk in plan.chunks])
    for students in [slice(count)] if plan.stacked else [slice(place, place + 1) for place in range(count)]:
        part = {name: values[students] for name, values in params.items()}
        for rows in plan.chunks:
            with torch.no_grad():
                batch = table.gather(rows)
                output = student_forward(problem, part, batch, frozenset(), shared_batch=True, encoder=encoder)
            yield TablePart(students, rows, batch, output.logits)


def predict(problem: HasStudent, params: Params, table: Table, encoder: Encoder | None = None) -> np.ndarray:
    """Logits of N students on every row of a table, ``[N, R, C]`` float32 (float64 with precision=fp64).

    Of students of masked text scores of tokens ``[N, R, S]``, 0 at padding. An ``encoder`` in place of the student's
    gives logits of N copies of it.
    """
    count = next(iter(params.values())).shape[0]
    return all_logits(problem, read_table(problem, params, table, encoder), count, table, encoder=encoder)


def all_logits(
    problem: HasStudent,
    parts: Iterable[TablePart],
    count: int,
    table: Table,
    size: int | None = None,
    encoder: Encoder | None = None,
) -> np.ndarray:
    """What ``count`` students, or copies of an ``encoder``, say in the parts of a table, on the host.

    The parts are of all rows, or of ``size`` of them; those of all ranks are put together.
    """
    chosen = problem.student if encoder is None else encoder
    width = chosen.facts.num_labels if table.labels.ndim == 1 else int(table.lengths.max())
    shape = (count, len(table) if size is None else size, width)
    result = torch.zeros(shape, dtype=problem.dtype, device=problem.device)
    for students, rows, batch, logits in parts:
        if logits.dim() == 4:
            logits = torch.where(batch.attention_mask, logits.squeeze(-1), 0.0)
        result[students, trees.upload(rows, logits.device), : logits.shape[-1]] = logits
    problem.ranks.sum_([result])
    return result.cpu().numpy()


def teacher_logits(problem: Problem, state: DistillState, rows: np.ndarray) -> np.ndarray:
    """Logits of the T teachers on train rows ``[N, B]``, ``[T, N, B, C]``.

    A teacher that learns, and the student where it is its own teacher (``teacher_source=student``), run anew.
    """
    if not changes(problem):
        return np.stack([teacher.train_logits[rows] for teacher in problem.teachers])
    batch = problem.train.gather(rows)
    logits = changing_logits(problem, state.params, state.teacher, batch).cpu().numpy()
    return np.broadcast_to(logits, (len(problem.teachers), *logits.shape))


def changes(problem: Problem) -> bool:
    """Whether what the teacher says changes in the course of an episode."""
    return problem.config.teacher_learns or problem.config.teacher_source == "student"
