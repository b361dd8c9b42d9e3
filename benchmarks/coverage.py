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
from kd_env.evaluation.statistics.crossed import standard_error
from kd_env.evaluation.statistics.distributions import t_quantile
from kd_env.evaluation.statistics.pooled import pooled_error
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
    draws: int = 4000
    """Studies of which a pooled difference is made; the coverage has an error of 0.003 at 4000."""
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
    design = problems, trainings, kind
    common.progress(f"coverage: {problems} problems, {trainings} trainings, {kind}")
    generator = np.random.default_rng(1)
    found = {"half": 0, "most": 0, "improvement": 0}
    spread = math.sqrt(sum(VARIANCES["mixed" if kind == "varied" else kind]))
    for band in range(options.bands):
        first, second = ({name: values[0] for name, values in _study(generator, 1, *design).items()} for _ in range(2))
        profile = performance_profile(_standard(first, kind), [-spread, 0.0], LEVEL, options.resamples, band)
        for name, place, truth in (("most", 0, NormalDist().cdf(1.0)), ("half", 1, 0.5)):
            found[name] += bool(profile.low[place] <= truth <= profile.high[place])
        share = probability_of_improvement(first, second, LEVEL, options.resamples, band)
        found["improvement"] += share.low <= 0.5 <= share.high
    shares = {name: count / options.bands for name, count in found.items()}
    first, second = (list(_study(generator, options.draws, *design).values()) for _ in range(2))
    pooled = {
        "rule": _pooled([[a] for a in first]),
        "agent": _pooled([list(pair) for pair in zip(first, second, strict=True)]),
    }
    return {"problems": problems, "trainings": trainings, "kind": kind, **pooled, **shares, "spread": 0.0}


def _pooled(groups: list[list[np.ndarray]]) -> float:
    """Coverage of pooled differences, of one agent or two with values ``[draws, R, S]`` in every problem."""
    parts = [standard_error(pair) for pair in groups]
    error, dof = pooled_error(np.stack([error for error, _ in parts]), np.stack([dof for _, dof in parts]))
    means = np.mean(
        [pair[0].mean(axis=(1, 2)) - (pair[1].mean(axis=(1, 2)) if pair[1:] else 0) for pair in groups], axis=0
    )
    quantiles = np.array([t_quantile((1 + LEVEL) / 2, float(each)) for each in dof])
    return float(np.mean(np.abs(means) <= quantiles * error))


def _study(
    generator: np.random.Generator, draws: int, problems: int, trainings: int, kind: str
) -> dict[str, np.ndarray]:
    """Values ``[draws, R, S]`` by problem."""
    study = {}
    for index in range(problems):
        scale, variances = _of_problem(index, kind)
        a, b, e = (scale * math.sqrt(value) for value in variances)
        values = a * generator.normal(size=(draws, trainings, 1)) + b * generator.normal(size=(draws, 1, SEEDS))
        study[f"problem {index}"] = values + e * generator.normal(size=(draws, trainings, SEEDS))
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
