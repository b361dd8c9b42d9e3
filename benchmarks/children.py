"""Measurements in processes that did nothing else."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import common
from kd_env.core import processes


def in_child(benchmark: str, options: common.Options, **asked: Any) -> dict[str, Any]:
    """What a benchmark's :func:`answer` finds in a process of its own.

    Args:
        benchmark: its name; the module calls :func:`answer` where it is run.
        options: of the benchmark.
        **asked: plain values, handed on by name.
    """
    words = json.dumps({"options": dataclasses.asdict(options), "asked": asked})
    printed = processes.output(
        [f"benchmarks.{benchmark}", words], environment={"OMP_NUM_THREADS": str(options.threads)}
    )
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def answer(kind: type[common.Options], measure: Callable[..., dict[str, Any]]) -> None:
    """In such a process: print what ``measure(options, **asked)`` finds, with options of a ``kind``."""
    words = json.loads(sys.argv[1])
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in words["options"].items()
    }
    print(json.dumps(measure(kind(**plain), **words["asked"])))
