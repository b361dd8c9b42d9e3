"""Students that read rows of a table each of its own, where :mod:`kd_env.mdp.passes` has all of them read every row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from kd_env.data.tables import Table
from kd_env.mdp.passes import HasStudent, Params, TablePart, all_logits, read_table, student_forward
from kd_env.models.encoder import Encoder
from kd_env.numerics.chunks import STACKED_TOKENS, plan


def read_own_rows(
    problem: HasStudent, params: Params, table: Table, rows: np.ndarray, encoder: Encoder | None = None
) -> Iterator[TablePart]:
    """N students, or N copies of an ``encoder``, each on its own ``rows [N, R]``, part by part.

    ``rows`` of a part are places among them. Fields of its batch are ``[B, ...]`` of one student, ``[N, B, ...]`` of
    several. Where several read at once, rows of like length should have like places.
    """
    count, size = rows.shape
    width = (problem.student if encoder is None else encoder).facts.hidden_size
    on_gpu = problem.device.type == "cuda"
    if count > 1 and (on_gpu or plan(table.lengths[rows[0]], count, width).stacked):
        at_once = size if on_gpu else max(1, STACKED_TOKENS // int(table.lengths.max()))
        chunks = np.split(np.arange(size), range(at_once, size, at_once))
        for places in chunks[problem.ranks.rank :: problem.ranks.world]:
            with torch.no_grad():
                batch = table.gather(rows[:, places])
                logits = student_forward(problem, params, batch, frozenset(), encoder=encoder).logits
            yield TablePart(slice(count), places, batch, logits)
        return
    for place in range(count):
        student = slice(place, place + 1)
        single = {name: values[student] for name, values in params.items()}
        for part in read_table(problem, single, table.take(rows[place]), encoder):
            yield part._replace(students=student)


def predict_own_rows(
    problem: HasStudent, params: Params, table: Table, rows: np.ndarray, encoder: Encoder | None = None
) -> np.ndarray:
    """Logits of N students, or N copies of an ``encoder``, on their own ``rows [N, R]``: ``[N, R, C]``."""
    count, size = rows.shape
    return all_logits(problem, read_own_rows(problem, params, table, rows, encoder), count, table, size, encoder)
