"""Damage files of runs, teachers and caches, use them, and count: ``python -m benchmarks.reliability.damage``.

Every case damages one file of a finished job in one way and does what a user would do with it. It is *told* where one
line names the file, *harmless* where the outcome is that of whole files; everything else is a fault: a traceback, a
message that names no file (unclear), or another outcome without a word (silent).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability.tiny import Job, jobs, outcome
from cli.main import main as kd_env

DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "truncate": lambda path, rng: path.write_bytes(path.read_bytes()[: rng.randrange(max(1, path.stat().st_size))]),
    "flip": lambda path, rng: path.write_bytes(_flipped(path.read_bytes(), rng)),
    "empty": lambda path, rng: path.write_bytes(b""),
    "delete": lambda path, rng: path.unlink(),
    "other content": lambda path, rng: path.write_bytes(rng.randbytes(200)),
    "other form": lambda path, rng: path.write_text('[1, {"a": null}]', encoding="utf-8"),
    "folder": lambda path, rng: _replaced(path),
}


_WRITTEN = {"judged": "{folder}/evaluations/again", "compared": "out", "used": "taught"}
"""Where the outcome of a use is; else in all folders."""


def main(arguments: list[str]) -> int:
    """Run the cases, print what became of them; 1 where one was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="cases, drawn from every file and damage")
    parser.add_argument("--seed", type=int, default=0, help="of the cases and what is flipped or cut")
    options = parser.parse_args(arguments)
    rng, counts, faults = random.Random(options.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        known = jobs(Path(place))
        uses = _uses(known, Path(place))
        whole.mkdir()
        for name in ("train", "dqn", "teacher"):
            _use(known[name].command(whole))
        expected: dict[int, Any] = {}
        targets = [path for path in sorted(whole.rglob("*")) if path.is_file() and _counts(path)]
        cases = [(path, damage) for path in targets for damage in DAMAGES]
        rng.shuffle(cases)
        for number, (path, damage) in enumerate(cases[: options.count]):
            use = rng.choice([use for use in uses if path.relative_to(whole).parts[0] == use.folder.split("/")[0]])
            if uses.index(use) not in expected:
                expected[uses.index(use)] = _outcome(use, whole, None, rng)[1]
            said, found = _outcome(use, whole, (path, damage), rng)
            verdict = _verdict(said, found, expected[uses.index(use)], path, str(path.relative_to(whole)))
            counts[verdict] += 1
            if verdict not in ("told", "harmless"):
                faults.append(f"{verdict}: {path.relative_to(whole)}, {damage}, {use.name}: {said.strip()[-300:]}")
                print(faults[-1], flush=True)
            elif (number + 1) % 25 == 0:
                print(f"{number + 1}/{min(options.count, len(cases))}  {dict(counts)}", flush=True)
    print(f"\n{sum(counts.values())} damages: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return 1 if faults else 0


def _uses(known: dict[str, Job], place: Path) -> list[Job]:
    """What is done with the folders: each with the folder that is read."""
    found = []
    for name in ("train", "dqn"):
        folder = known[name].folder
        found.append(known[name]._replace(name=f"{name}, resumed", words=(*known[name].words, "resume=true")))
        found.append(Job(f"{name}, judged", ("evaluate", f"run={{runs}}/{folder}", "name=again"), (), folder))
        found.append(Job(f"{name}, compared", ("compare", f"{{runs}}/{folder}", "out={runs}/out"), (), folder))
    taught = [word for word in known["train"].words if not word.startswith(("teacher.path", "name="))]
    words = (*taught, "teacher.path={runs}/teacher", "name=taught", "agent=rule/all")
    words = tuple(word for word in words if not word.startswith("agent.options"))
    return [*found, Job("teacher, used", words, (), "teacher"), known["teacher"]]


def _counts(path: Path) -> bool:
    """Whether a file is read again: not tables and pictures for people, nor what TensorBoard reads."""
    return path.suffix not in (".png", ".csv", ".md") and "tfevents" not in path.name


def _outcome(use: Job, whole: Path, damaged: tuple[Path, str] | None, rng: random.Random) -> tuple[str, Any]:
    """What is said on stderr (None in place of an outcome where the job was refused), on a fresh copy."""
    runs = whole.with_name("runs")
    shutil.copytree(whole, runs)
    try:
        if damaged is not None:
            path, damage = damaged
            DAMAGES[damage](runs / path.relative_to(whole), rng)
        status, said = _use(use.command(runs))
        if status != 0:
            return said, status
        found = outcome(runs / _WRITTEN.get(use.name.split(", ")[-1], "").format(folder=use.folder))
        if damaged is not None:  # what it does not read it leaves as it is
            found.pop(str(damaged[0].relative_to(whole)), None)
        return said, found
    finally:
        shutil.rmtree(runs)


def _use(words: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = kd_env(words)
        except Exception as error:
            return -1, f"{said.getvalue()}Traceback: {type(error).__name__}: {error}"
    return status, said.getvalue()


def _verdict(said: str, found: Any, expected: Any, path: Path, inside: str) -> str:
    if found == -1:
        return "TRACEBACK"
    if isinstance(found, int):
        (*_, line) = said.strip().splitlines() or [""]
        named = path.name in line or path.parent.name in line
        return "told" if named else "UNCLEAR"
    if all(found.get(name) == value for name, value in expected.items() if name in found or name != inside):
        return "harmless"
    return "told" if path.name in said else "SILENT"


def _replaced(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _flipped(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\x01"
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
