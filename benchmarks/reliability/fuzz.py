"""Odd option sets against environments and the main job: ``python -m benchmarks.reliability.fuzz --count 10000``.

Every set changes one to three options to values of any type and size. What becomes of it is

- ``runs``: it is taken, what was resolved holds the values, and an episode is finite or says that it diverged;
- ``clear``: it is refused in one line that names one of the options or its value;
- ``unclear``: any other exception, a line that names none of them, or no end within a minute;
- ``silent``: it is taken, and what was resolved holds another value, or numbers are not finite without a word.

The last two are faults and are listed; the exit status says whether there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import random
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SECONDS = 60
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 5, -1, 0.5, 1.5, -0.1, 1e-300, 1e300, 10**25, 10**400, float("nan"), float("inf")),
    *("", "x", "none", "auto", "native", "box", "soft_label", "1", "ü", "a b", "../x", b"x", object()),
    *([], [1], ["x"], [["x"]], [[1, 2]], [None], {}, {"x": 1}, {1: 2}, {"name": "soft_label"}, {"name": 5}),
    *({"name": "soft_label", "temperature": 10**400}, {"name": "rkd", "weight": float("nan")}),
)
"""What options of environments are given."""
TEXTS = (
    *("5", "0", "-1", "1.5", "true", "null", "x", "''", "'a b'", "ü", "[]", "[1]", "[a,b]", "[[1,2]]", "{}", "{a: 1}"),
    *("{1: 2}", "1e400", "1" + 30 * "0", ".nan", "[{name: all}]", "[{name: soft_label, temperature: hot}]", "auto"),
)
"""What options of the main job are given, as on a command line."""


class Outcome(NamedTuple):
    """What became of one option set."""

    kind: str
    words: str


class Surface(NamedTuple):
    """Where options are given."""

    name: str
    keys: tuple[str, ...]
    values: tuple[Any, ...]
    run: Callable[[dict[str, Any]], str]
    """Takes options by key; returns what is wrong with the result, or nothing. Raises what kd-env raises."""


def environments(folder: Path) -> list[Surface]:
    """Environments of a tiny task and of a tiny text, made by their options and stepped three times."""
    import numpy as np

    from kd_env.config.environment import EnvConfig
    from kd_env.core.plain import plain_value
    from kd_env.envs.env import DistillEnv
    from kd_env.testing import tiny_task, tiny_text

    def surface(name: str, base: dict[str, Any]) -> Surface:
        def run(options: dict[str, Any]) -> str:
            env = DistillEnv(**{**base, **options})
            held = env.run.problem.config
            for key, value in options.items():
                if value == "auto":  # resolved when the problem is made
                    continue
                # learning_rate is short for one of the optimiser.
                kept = held.optimizer_config.learning_rate if key == "learning_rate" else getattr(held, key, value)
                if isinstance(value, str | int | float | None | list) and kept != plain_value(value) and kept == kept:
                    plain = dataclasses.asdict(kept) if dataclasses.is_dataclass(kept) else kept  # type: ignore[arg-type]
                    if not isinstance(plain, dict) and not (value is None and plain is not None):
                        return f"{key} is {plain!r}"
            env.reset(seed=0)
            for _ in range(3):
                observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                arrays = observation.values() if isinstance(observation, dict) else [observation]
                if not (np.isfinite(reward) and all(np.isfinite(array).all() for array in arrays)):
                    return "not finite"
                if terminated or truncated:
                    break
            return ""

        fields = tuple(field.name for field in dataclasses.fields(EnvConfig) if field.name != "show_progress")
        return Surface(name, fields, VALUES, run)

    task = {**tiny_task(folder / "task"), "budget": 4}
    return [
        surface("environment", task),
        surface("tutor", {"decision": "tutor_token", **tiny_text(folder / "text"), "budget": 4}),
    ]


def main_job() -> Surface:
    """The main job's options, composed and checked as before any work."""
    from cli.settings.compose import compose, leaves
    from cli.settings.read import check, read_begun

    base = ("experiment=quick", "agent=rule/all", "evaluation.rules=[all]")
    skipped = ("presets", "env.id")

    def run(options: dict[str, Any]) -> str:
        words = [*base, *(f"{key}={value}" for key, value in options.items())]
        settings = check(read_begun(compose("config", words)))
        return "" if settings.resolved["name"] else "no name"

    keys = tuple(key for key in leaves(compose("config", base)) if not key.startswith(skipped))
    return Surface("main job", keys, TEXTS, run)


def option_sets(surfaces: list[Surface], count: int, seed: int) -> Iterator[tuple[Surface, dict[str, Any]]]:
    """Random sets, four of five of them for the environments."""
    draw = random.Random(seed)
    for _ in range(count):
        surface = draw.choices(surfaces, weights=[3, 1, 1][: len(surfaces)])[0]
        keys = draw.sample(surface.keys, k=draw.choices((1, 2, 3), weights=(6, 3, 1))[0])
        yield surface, {key: draw.choice(surface.values) for key in keys}


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Ends what takes longer, by an exception."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def parts(value: Any) -> Iterator[str]:
    """A value, and what it is made of, as a message may write it."""
    yield str(value)
    if isinstance(value, str):  # on a command line lists and mappings are texts
        yield from (repr(word) for word in re.findall(r"\w+", value))
    if isinstance(value, dict | list | tuple):
        for part in (*value, *(value.values() if isinstance(value, dict) else ())):
            yield repr(part)


def outcome(surface: Surface, options: dict[str, Any]) -> Outcome:
    """Try one set."""
    from cli.errors import USER_ERRORS

    try:
        with limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = surface.run(options)
    except USER_ERRORS as error:
        message = " ".join(str(error).split())
        named = any(
            key.rsplit(".", 1)[-1] in message or any(text in message for text in parts(value))
            for key, value in options.items()
        )
        return Outcome("clear" if named and "\n\n" not in str(error) else "unclear", message)
    except Exception as error:
        return Outcome("unclear", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Outcome("silent", wrong) if wrong else Outcome("runs", "")


def main(arguments: list[str] | None = None) -> int:
    """Try the sets, print the counts and every fault; 1 where there is one."""
    parser = argparse.ArgumentParser(description="Odd option sets against environments and the main job.")
    parser.add_argument("--count", type=int, default=10_000, help="option sets")
    parser.add_argument("--seed", type=int, default=0, help="of the sets")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    counts: Counter[tuple[str, str]] = Counter()
    faults: Counter[str] = Counter()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        surfaces = [*environments(Path(folder)), main_job()]
        try:
            os.chdir(folder)  # relative names of files and caches among the values stay here
            for surface, options in option_sets(surfaces, given.count, given.seed):
                result = outcome(surface, options)
                counts[surface.name, result.kind] += 1
                if result.kind in ("unclear", "silent"):
                    faults[f"{surface.name}: {result.kind}: {str(options)[:150]} -> {result.words[:200]}"] += 1
        finally:
            os.chdir(here)
            logging.disable(logging.NOTSET)
    for fault in faults:
        print(fault)
    print("| options of | sets | runs | clear | unclear | silent |\n| --- | --- | --- | --- | --- | --- |")
    for surface in surfaces:
        numbers = [counts[surface.name, kind] for kind in ("runs", "clear", "unclear", "silent")]
        print(f"| {' | '.join(map(str, [surface.name, sum(numbers), *numbers]))} |")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
