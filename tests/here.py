"""What other processes do, done in this one, and figures of a dot: to start Python and to draw take longer than all."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from typing import Any

import pytest

from cli import MODULE
from cli.main import main
from cli.runs.backends.base import Backend, Cell, Child, Ended
from cli.runs.backends.local import Local


class _Done(Cell):
    def __init__(self, child: Child, status: int) -> None:
        super().__init__(child)
        self._status = status

    def ended(self) -> Ended:
        return Ended(self._status)


class Here(Backend):
    """Cells of a study one after another in this process, with undrawn figures.

    Args:
        started: of the first ones that are processes of their own, as all are without it.
    """

    jobs = 1

    def __init__(self, started: int = 0) -> None:
        self._started, self._local = started, Local(1)

    def start(self, child: Child) -> Cell:
        if self._started:
            self._started -= 1
            return self._local.start(child)
        module, *words = child.words
        assert module == MODULE
        quiet = [word for word in words if not word.startswith("progress=")] + ["progress=false"]  # one bar at a time
        with child.log.open("a") as log, redirect_stdout(log), redirect_stderr(log), undrawn_figures():
            return _Done(child, main(quiet))

    def stop(self, cells: Sequence[Cell]) -> None:
        self._local.stop(cells)


def in_turn(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], told: Callable[[Any], None]) -> list[Any]:
    """As ``side_by_side`` of :mod:`kd_env.core.processes`, with what would reach the processes and come back."""

    def sent(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    return [sent(sent(work)(*sent(task), lambda value: told(sent(value)))) for task in tasks]


@cache
def _empty_files() -> dict[str, bytes]:
    """A figure without anything, by the kind of its file; asked for before anything is replaced."""
    from matplotlib.figure import Figure

    files: dict[str, bytes] = {}
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        Figure(figsize=(0.1, 0.1)).savefig(buffer, format=kind)
        files[kind] = buffer.getvalue()
    return files


@contextmanager
def undrawn_figures() -> Iterator[pytest.MonkeyPatch]:
    """Figures are filled, and their files hold an empty one; what is given ends it early (``undo``)."""
    from matplotlib.figure import Figure

    empty = _empty_files()

    def savefig(figure: Figure, file: io.BytesIO, *, format: str, **_: object) -> None:
        file.write(empty[format])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield patch
