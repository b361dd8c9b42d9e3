"""Statistics of a study of several policies and problems: pooled differences, profiles, probabilities of improvement.

Values are drawn. The first policy is compared with every other one, and every policy has a profile with its band.
Wall time and the time of the processor are given: the second is that of one thread where NumPy's BLAS takes several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks import common
from kd_env.core import checks
from kd_env.evaluation.statistics.pooled import pooled_difference
from kd_env.evaluation.statistics.profiles import performance_profiles, probabilities_of_improvement

AIM = 2.0


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 5
    """Timed rounds; medians are reported."""
    policies: int = 10
    """Policies that are compared."""
    problems: int = 8
    """Tasks times regimes."""
    trainings: int = 10
    """Trainings of each policy in each problem."""
    seeds: int = 30
    """Evaluation seeds of each training."""
    resamples: int = 50_000
    """Resamples of the bootstrap."""
    thresholds: int = 50
    """Thresholds of the profiles."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "policies": checks.whole(2),
        "problems": checks.whole(1),
        "trainings": checks.whole(2),
        "seeds": checks.whole(2),
        "resamples": checks.whole(1),
        "thresholds": checks.whole(2),
    }


def run(options: Options) -> common.Result:
    """Time the three parts."""
    generator = np.random.default_rng(0)
    shape = (options.trainings, options.seeds)
    scores = {
        f"policy {policy}": {f"problem {problem}": generator.normal(size=shape) for problem in range(options.problems)}
        for policy in range(options.policies)
    }
    first, others = scores["policy 0"], {name: values for name, values in scores.items() if name != "policy 0"}
    taus = np.linspace(-3, 3, options.thresholds)
    calls: dict[str, Callable[[], object]] = {
        "pooled differences": lambda: [
            pooled_difference({problem: (first[problem], values[problem]) for problem in first})
            for values in others.values()
        ],
        "profiles": lambda: performance_profiles(scores, taus, resamples=options.resamples),
        "probabilities of improvement": lambda: probabilities_of_improvement(
            first, others, resamples=options.resamples
        ),
    }
    rows = []
    for part, call in calls.items():
        common.progress(f"statistics: {part}")
        found = np.array([_clocked(call) for _ in range(options.repeats + 1)][1:])
        seconds, processor = np.median(found, axis=0).tolist()
        rows.append({"part": part, "seconds": seconds, "processor": processor, "spread": common.spread(found[:, 0])})
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Seconds of each part and of all."""
    rows = [(row["part"], row["seconds"], row["processor"]) for row in result["rows"]]
    rows.append(("all", *(sum(values) for values in list(zip(*rows, strict=True))[1:])))
    lines = [[part, f"{seconds:.2f}", f"{processor:.2f}"] for part, seconds, processor in rows]
    return common.markdown(["part", "s", "s of the processor"], lines) + f"\n\nAim: at most {AIM:.0f} s in all."


def plot(result: common.Result, path: Path) -> None:
    """Seconds by part."""
    figure = common.new_figure(5.0, 2.5)
    axes = figure.subplots()
    axes.barh([row["part"] for row in result["rows"]], [row["seconds"] for row in result["rows"]])
    axes.axvline(AIM, color="black", linestyle=":")
    axes.set_xlabel("s")
    common.save_figure(figure, path)


def _clocked(call: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor
