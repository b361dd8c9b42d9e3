"""A study on the terminal: what is done, what runs and how far, what failed, how long it takes, who is best so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.runs.shown.cells import FAILED, RUNNING, WAITING
from cli.runs.shown.studies import DONE, STOPPED, Best, Cell, Study

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 8
"""Running and failed cells that are shown, each."""
_NARROW = 60


def summary(study: Study, now: float | None = None) -> str:
    """One line: counts, the time left, and the best policy so far."""
    states = (DONE, RUNNING, FAILED, WAITING, STOPPED)
    counts = [f"{study.count(state)} {state}" for state in states if state == DONE or study.count(state)]
    counts[0] = f"{study.count(DONE)}/{len(study.cells)} {DONE}"
    if study.unknown:
        counts.append(f"{study.unknown} problem{'' if study.unknown == 1 else 's'} not begun")
    left = study.left(time.time() if now is None else now)
    if left is not None and not study.done:
        counts.append(f"ETA {duration(left)}")
    return f"{study.name}  {', '.join(counts)}"


def best_lines(study: Study) -> list[str]:
    """The best learned policy and the best rule so far, of each problem in which something has finished."""
    lines = []
    for part in study.parts:
        learned = next((best for best in part.best if best.learned), None)
        rule = next((best for best in part.best if not best.learned), None)
        if words := ", ".join(_of(best) for best in (learned, rule) if best is not None):
            lines.append(f"{part.name}: {words}" if len(study.parts) > 1 else words)
    return lines


def render(study: Study, width: int, now: float | None = None) -> RenderableType:
    """The whole view for a terminal of so many columns."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(summary(study, now), style="bold"),
        _bar(study.share / max(len(study.cells), 1), width),
    ]
    running = [cell for part in study.parts for cell in part.cells if cell.state == RUNNING]
    if running:
        parts.append(_table(running, width))
    failed = [cell for part in study.parts for cell in part.cells if cell.state == FAILED]
    parts += [
        Text(f"failed: {cell.name}: {cell.said}", style="red", no_wrap=True, overflow="ellipsis")
        for cell in failed[:_SHOWN]
    ]
    parts += [Text(f"and {len(cells) - _SHOWN} more") for cells in (failed,) if len(cells) > _SHOWN]
    if best := best_lines(study):
        parts.append(Text("best so far, by gap closed on the selection rows:"))
        parts += [Text(f"  {line}", overflow="fold") for line in best]
    return Group(*parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bar(share: float, width: int) -> RenderableType:
    from rich.text import Text

    filled = int(width * min(share, 1.0))
    return Text.assemble(("━" * filled, "green"), ("─" * (width - filled), "dim"))


def _of(best: Best) -> str:
    count = f" ({best.trainings} training{'' if best.trainings == 1 else 's'})" if best.learned else " (rule)"
    return f"{best.policy} {best.gap:+.3f}{count}"


def _table(cells: Sequence[Cell], width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), width=width)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(justify="right", no_wrap=True)
    for cell in cells[:_SHOWN]:
        table.add_row(Text(cell.name), _how_far(cell, width))
    if len(cells) > _SHOWN:
        table.add_row(f"and {len(cells) - _SHOWN} more", "")
    return table


def _how_far(cell: Cell, width: int) -> str:
    if cell.judging:
        return "judging"
    if cell.total is None:
        return f"step {cell.steps}" if cell.steps else "starting"
    percent = f"{100 * min(cell.steps / max(cell.total, 1), 1):.0f}%"
    return percent if width < _NARROW else f"step {cell.steps}/{cell.total}  {percent}"
