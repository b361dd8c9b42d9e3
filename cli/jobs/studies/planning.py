"""The trainings of a study: kinds of agents by seeds, each composed and checked, with a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.jobs.compare import check_comparable
from cli.jobs.studies.agents import quoted
from cli.jobs.studies.training import Training
from cli.settings.compose import compose
from cli.settings.read import check, default_name, read_begun, with_defaults

SEED_STEP = 100


@dataclass(frozen=True)
class Kind:
    """One agent under one control."""

    overrides: tuple[str, ...]
    """Of the main job."""
    sources: tuple[Path, ...] = ()
    """Run folders with whose policies its trainings begin, one each; none: all begin as the overrides say."""


def expand(
    kinds: Sequence[tuple[Kind, Mapping[str, Any]]], folder: Path, *, trainings: int, first_seed: int, threads: int
) -> list[Training]:
    """The trainings of all kinds, kind by kind.

    Args:
        kinds: each with its composed configuration.
        folder: of the study, in which each run gets a folder.
        trainings: of each kind.
        first_seed: of the first training of each; the next are :data:`SEED_STEP` apart, or as far as replicas need.
        threads: of a training.

    Raises:
        ValueError: two runs of one folder, an option that does not fit, or runs that could not be compared.
    """
    found: list[Training] = []
    judged: set[tuple[int, ...]] = set()
    for kind, resolved in kinds:
        _refuse_rule(resolved)
        for index, seed in enumerate(seeds_of(resolved, trainings, first_seed)):
            training = _training(kind, resolved, folder, index, seed, threads, judged)
            if index == 0:
                check(training.settings)
            found.append(training)
    folders = [training.folder for training in found]
    if len(set(folders)) < len(folders):
        twice = next(folder.name for folder in folders if folders.count(folder) > 1)
        raise ValueError(
            f"Two agents would write the same run {twice!r}; leave one of them out, or give it a label as "
            "{name: ..., label: ...}."
        )
    check_comparable([(training.folder.name, training.settings.resolved) for training in found])
    return found


def _training(
    kind: Kind,
    resolved: Mapping[str, Any],
    folder: Path,
    index: int,
    seed: int,
    threads: int,
    judged: set[tuple[int, ...]],
) -> Training:
    own: dict[str, Any] = {"seed": seed, "runs_dir": str(folder), "threads": threads, "resume": True}
    # One process each: jobs=... says how many run at a time.
    overrides = [*kind.overrides, *(f"{key}={quoted(value)}" for key, value in own.items()), "evaluation.jobs=1"]
    evaluation = {**resolved["evaluation"], "jobs": 1}
    config = {**resolved, **own}
    if kind.sources:
        source = str(kind.sources[index])
        overrides.append(f"agent.from={quoted(source)}")
        config["agent"] = {**config["agent"], "from": source}
    settings = read_begun({**config, "evaluation": evaluation})
    if settings.evaluation_seeds in judged:  # rules are deterministic given the seeds: one run judges them
        evaluation["rules"] = []
        overrides = [*(text for text in overrides if not _sets_rules(text)), "evaluation.rules=[]"]
        settings = read_begun({**config, "evaluation": evaluation})
    judged.add(settings.evaluation_seeds)
    return Training(settings, tuple(overrides))


def seeds_of(resolved: Mapping[str, Any], trainings: int, first_seed: int) -> list[int]:
    """Seeds of the trainings of a kind, so far apart that no two of them share a student's seed."""
    # num_envs is checked by read_settings, which refuses what is no number.
    envs = resolved["num_envs"] if isinstance(resolved["num_envs"], int) else 1
    step = SEED_STEP * max(1, -(-envs // SEED_STEP))
    return [first_seed + step * index for index in range(trainings)]


def run_folders(resolved: Mapping[str, Any], folder: Path, seeds: Sequence[int]) -> list[Path]:
    """The run folders that the trainings of a kind have in the folder of a study."""
    return [folder / default_name({**resolved, "seed": seed}) for seed in seeds]


Known = dict[tuple[str, ...], dict[str, Any]]
"""Configurations by their overrides."""


def composed(kinds: Sequence[Kind], known: Known | None = None) -> list[tuple[Kind, dict[str, Any]]]:
    """Every kind with its configuration, taken from ``known`` where it is there and added where it is not.

    Raises:
        ValueError: overrides that do not fit.
    """
    known = {} if known is None else known
    for kind in kinds:
        if kind.overrides not in known:
            known[kind.overrides] = with_defaults(compose("config", kind.overrides))
    return [(kind, known[kind.overrides]) for kind in kinds]


def check_controls(controls: Sequence[str], evaluation: Mapping[str, Any]) -> None:
    """Refuse controls that sample their actions while the policies that they are set against take the likeliest."""
    if "none" not in controls and evaluation["deterministic"] is False:
        raise ValueError(
            f"evaluation.deterministic=false with controls={controls} would judge the controls by samples of their "
            "actions, and trained agents elsewhere by their most likely ones. Add none to controls, so that both act "
            "alike, or leave evaluation.deterministic out."
        )


def _refuse_rule(resolved: Mapping[str, Any]) -> None:
    from agents import agent_kind

    if agent_kind(resolved["agent"]["name"]) == "rule":
        raise ValueError(
            f"agents holds the rule {resolved['presets']['agent']!r}, which cannot be trained; rules are judged beside "
            "the agents, as evaluation.rules=[...] names them."
        )


def _sets_rules(text: str) -> bool:
    return text.split("=", 1)[0].lstrip("+") == "evaluation.rules"
