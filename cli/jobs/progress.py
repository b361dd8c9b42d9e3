"""Progress of an evaluation on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable


def show_progress() -> Callable[[str, int, int], None]:
    """A line that is overwritten on a terminal; else one line a policy."""
    live = sys.stderr.isatty()

    def show(name: str, step: int, steps: int) -> None:
        if live:
            end = "\n" if step == steps else ""
            print(f"\r\033[Kevaluating {name} {step}/{steps}", end=end, file=sys.stderr, flush=True)
        elif step == 1:
            print(f"evaluating {name}", file=sys.stderr, flush=True)

    return show
