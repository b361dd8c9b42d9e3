"""How often intervals of several problems contain the truth: pooled differences, profiles, probability of improvement.

Values of R trainings on 30 evaluation seeds are drawn with known variances of trainings, seeds and their interaction.
``varied`` has other ratios and another scale in every problem. A profile is asked at the thresholds that 50% and 84% of
all runs reach; the two policies of a probability of improvement have the same distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from benchmarks import common
from kd_env.core import checks
from kd_env.evaluation.statistics.pooled import pooled_difference
from kd_env.evaluation.statistics.profiles import performance_profile, probability_of_improvement

VARIANCES = {"trainings": (1.0, 0.01, 0.05), "seeds": (0.01, 1.0, 0.05), "interaction": (0.01, 0.01, 1.0)}
VARIANCES |= {"mixed": (1.0, 1.0, 1.0), "no seeds": (1.0, 0.0, 1.0), "no trainings": (0.0, 1.0, 1.0)}
KINDS = (*VARIANCES, "varied")
SEEDS = 30
LEVEL = 0.95


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    problems: tuple[int, ...] = (3, 8)
    """Problems of a study."""
    trainings: tuple[int, ...] = (5, 10)
    """Trainings of each policy in each problem."""
    draws: int = 2000
    """Studies of which a pooled difference is made; the coverage has an error of 0.005 at 2000."""
    bands: int = 400
    """Studies of which profiles and probabilities of improvement are made."""
    resamples: int = 1000
    """Resamples of their bootstrap."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "problems": common.each(checks.whole(1)),
        "trainings": common.each(checks.whole(2)),
        "draws": checks.whole(1),
        "bands": checks.whole(1),
        "resamples": checks.whole(1),
    }


def run(options: Options) -> common.Result:
    """Simulate every design and ratio of variances."""
    rows = [
        _cell(options, problems, trainings, kind)
        for problems in options.problems
        for trainings in options.trainings
        for kind in KINDS
    ]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Coverage by design and ratio of variances."""
    names = ("rule", "agent", "half", "most", "improvement")
    lines = [
        [f"{row['problems']} x {row['trainings']}, {row['kind']}", *(f"{row[name]:.3f}" for name in names)]
        for row in result["rows"]
    ]
    header = ["problems x trainings, what varies", "difference to a rule", "to an agent", "profile at 50%", "at 84%"]
    return common.markdown([*header, "improvement"], lines) + f"\n\nThe intervals say {LEVEL}."


def plot(result: common.Result, path: Path) -> None:
    """Coverage of pooled differences by design."""
    figure = common.new_figure(6.0, 4.0)
    axes = figure.subplots()
    labels = [f"{row['problems']} x {row['trainings']}, {row['kind']}" for row in result["rows"]]
    for name in ("rule", "agent", "improvement"):
        axes.plot([row[name] for row in result["rows"]], labels, "o", label=name)
    axes.axvline(LEVEL, color="black", linestyle=":")
    axes.tick_params(axis="y", labelsize=6)
    axes.legend(fontsize=7)
    common.save_figure(figure, path)


def _cell(options: Options, problems: int, trainings: int, kind: str) -> dict[str, Any]:
    common.progress(f"coverage: {problems} problems, {trainings} trainings, {kind}")
    generator = np.random.default_rng(1)
    zeros = np.zeros(SEEDS)
    found = {"rule": 0, "agent": 0, "half": 0, "most": 0, "improvement": 0}
    for draw in range(max(options.draws, options.bands)):
        first, second = (_study(generator, problems, trainings, kind) for _ in range(2))
        if draw < options.draws:
            to_rule = pooled_difference({name: (values, zeros) for name, values in first.items()})
            to_agent = pooled_difference({name: (values, second[name]) for name, values in first.items()})
            found["rule"] += to_rule.interval.contains_zero
            found["agent"] += to_agent.interval.contains_zero
        if draw < options.bands:
            spread = math.sqrt(sum(VARIANCES["mixed" if kind == "varied" else kind]))
            profile = performance_profile(_standard(first, kind), [-spread, 0.0], LEVEL, options.resamples, draw)
            for name, place, truth in (("most", 0, NormalDist().cdf(1.0)), ("half", 1, 0.5)):
                found[name] += bool(profile.low[place] <= truth <= profile.high[place])
            share = probability_of_improvement(first, second, LEVEL, options.resamples, draw)
            found["improvement"] += share.low <= 0.5 <= share.high
    counts = {name: options.draws if name in ("rule", "agent") else options.bands for name in found}
    shares = {name: count / counts[name] for name, count in found.items()}
    return {"problems": problems, "trainings": trainings, "kind": kind, **shares, "spread": 0.0}


def _study(generator: np.random.Generator, problems: int, trainings: int, kind: str) -> dict[str, np.ndarray]:
    study = {}
    for index in range(problems):
        scale, variances = _of_problem(index, kind)
        a, b, e = (scale * math.sqrt(value) for value in variances)
        values = a * generator.normal(size=(trainings, 1)) + b * generator.normal(size=SEEDS)
        study[f"problem {index}"] = values + e * generator.normal(size=(trainings, SEEDS))
    return study


def _of_problem(index: int, kind: str) -> tuple[float, tuple[float, float, float]]:
    if kind != "varied":
        return 1.0, VARIANCES[kind]
    return 2.0**-index, list(VARIANCES.values())[index % len(VARIANCES)]


def _standard(study: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The study with the same distribution of scores in every problem, so that a threshold has a known share."""
    if kind != "varied":
        return study
    wanted = math.sqrt(sum(VARIANCES["mixed"]))
    scales = [
        scale * math.sqrt(sum(variances)) for scale, variances in (_of_problem(i, kind) for i in range(len(study)))
    ]
    return {name: wanted * values / scale for (name, values), scale in zip(study.items(), scales, strict=True)}
