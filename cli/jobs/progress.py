"""Progress of an evaluation on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def show_progress(policies: int) -> Progress:
    """A line that is overwritten on a terminal; else a line at every tenth. Both with the time left.

    Args:
        policies: that are to be judged; several of them may be at once.
    """
    live, begin = sys.stderr.isatty(), time.monotonic()
    shares: dict[str, float] = {}
    told = 0

    def show(name: str, step: int, steps: int) -> None:
        nonlocal told
        shares[name] = step / steps
        done = min(1.0, sum(shares.values()) / max(policies, 1))
        seconds = (time.monotonic() - begin) * (1 - done) / done
        left = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        text = f"evaluating {100 * done:.0f}%  {name} {step}/{steps}  ETA {left}"
        if live:
            print(f"\r\033[K{text}", end="\n" if done == 1 else "", file=sys.stderr, flush=True)
        elif (tenth := int(10 * done + 1e-9)) > told:
            told = tenth
            print(text, file=sys.stderr, flush=True)

    return show
