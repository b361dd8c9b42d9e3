"""``kd-env watch``: how far a study is, from another terminal, read from its files alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cli.errors import going_on
from cli.runs.shown.studies import Reader, Study, open_study
from cli.runs.shown.view import best_lines, render, summary
from cli.settings.options import flag, split_options
from kd_env.core.registry import unknown_name


def watch(overrides: Sequence[str], command: str) -> None:
    """``kd-env watch <folder of a study>``: shown until it is done, or nobody runs it any more.

    A terminal has the whole view; elsewhere a line says what has changed.

    Raises:
        ValueError: no study lies there, or an option that does not fit.
    """
    options, rest = split_options("watch", overrides)
    places = [*([] if options["study"] is None else [options["study"]]), *(word for word in rest if "=" not in word)]
    for word in rest:
        if "=" in word:
            raise ValueError(unknown_name("option of kd-env watch", word.partition("=")[0], options))
    if len(places) != 1:
        raise ValueError(
            f"kd-env watch shows one study, and {len(places)} folders are given; write kd-env watch runs/<name>."
        )
    every, once = options["every"], flag("once", options["once"])
    if isinstance(every, bool) or not isinstance(every, int | float) or not 0 < every <= 3600:
        raise ValueError(f"every={every!r} must be a number of seconds in (0, 3600].")
    reader = open_study(Path(str(places[0])).expanduser())
    if once:
        _print(reader.read())
        return
    follow = _show if sys.stdout.isatty() else _tell
    with going_on(lambda: "the study goes on; the same command shows it again."):
        follow(reader, float(every))


def _show(reader: Reader, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            study = reader.read()
            live.update(render(study, console.width), refresh=True)
            if _is_over(study):
                break
            time.sleep(every)
    print(_end(study), flush=True)


def _tell(reader: Reader, every: float) -> None:
    told = None
    while True:
        study = reader.read()
        states = [(part.name, cell.name, cell.state) for part in study.parts for cell in part.cells]
        if states != told:
            told = states
            best = "; ".join(best_lines(study))
            print(summary(study) + (f"; best on selection: {best}" if best else ""), flush=True)
        if _is_over(study):
            break
        time.sleep(every)
    print(_end(study), flush=True)


def _print(study: Study) -> None:
    from rich.console import Console

    console = Console()
    console.print(render(study, console.width), highlight=False)


def _is_over(study: Study) -> bool:
    return study.done or not study.alive


def _end(study: Study) -> str:
    if study.done:
        return f"{study.name} is done."
    return f"Nobody works on {study.name} now; the command in its folder goes on with what is left."
