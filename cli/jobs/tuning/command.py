"""``kd-env tune``: a search of agent options by Optuna, judged on the selection split alone, here or on a cluster."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from cli import MODULE
from cli.errors import going_on
from cli.jobs.kinds.catalog import job_of
from cli.jobs.kinds.paused import pause_seeds, read_paused
from cli.jobs.studies.agents import quoted
from cli.jobs.studies.planning import SEED_STEP
from cli.jobs.tuning.space import check_space, ends
from cli.jobs.tuning.trials import (
    COMPLETE,
    FAILED,
    OPEN,
    PRUNED,
    Search,
    Trial,
    best_of,
    is_behind,
    propose,
    read_trials,
    write_trials,
)
from cli.runs import folder as runs
from cli.runs.backends.base import Backend, Child
from cli.runs.backends.catalog import check_backend, jobs_of, opened
from cli.runs.pool import run_all
from cli.settings import probe
from cli.settings.cache import cache_folder
from cli.settings.compose import compose
from cli.settings.kinds.base import Settings
from cli.settings.options import folder_name, split_options, split_place
from cli.settings.read import check, check_pause, read_settings
from kd_env.core import checks
from kd_env.core.clusters.packages import require
from kd_files.writing import atomic_write

ELSEWHERE = 8
"""Trials of a round where the places are not known."""
_OWN = {
    "seed": "first_seed=... is the seed of the first training",
    "threads": "cpus=... says how many threads each training has",
    "resume": "a search always goes on from what is there",
    "control": "controls are for studies of what a search has found",
    "pause.at": "stages=... says when trials are judged",
}
"""Options of the main job that a search sets itself."""


@dataclass(frozen=True)
class Plan:
    """What is searched, and how."""

    search: Search
    base: Settings[Any]
    """Of every training, but for what is searched."""
    words: tuple[str, ...]
    """Of the main job, for every training."""
    folder: Path
    trials: int
    round: int
    threads: int
    next_seed: int
    """Of a training that shares no student with those of the search."""

    def child(self, number: int, trial: Trial, seed: int) -> Child:
        """The process that brings a training of a trial to its next stage."""
        name = f"trial{number}-seed{seed}"
        own = {"seed": seed, "name": name, "runs_dir": self.folder, "threads": self.threads, "resume": True}
        own |= {"pause.at": self.search.stages[len(trial.values)], "evaluation.jobs": 1}
        own |= {f"agent.options.{key}": value for key, value in trial.options.items()}
        words = [*self.words, *(f"{key}={quoted(value)}" for key, value in own.items()), "evaluation.rules=[]"]
        return Child(name, (MODULE, "train", *words), self.folder / f"{name}.log")


def tune(overrides: Sequence[str], command: str) -> Path:
    """``kd-env tune search={...} [trials=n backend=...] [options of the main job]``; the folder of the search.

    The same command goes on with a search that was stopped; more ``trials`` go on with one that is finished.

    Raises:
        ValueError: anything that does not fit, before any work; or no trial of a round came to its end.
    """
    probe.require_own_agents()
    options, others = split_options("tune", overrides)
    place, main = split_place(others)
    require("optuna", "tune", "kd-env tune")
    found = plan(options, place, main)
    check_backend(place, found.base.env.device, split_options("study", [])[0])
    with runs.writing(found.folder, "search"):
        found.folder.mkdir(exist_ok=True)
        trials = read_trials(found.folder, found.search)
        keeps = f"{found.folder} keeps the trials and their checkpoints; the same command goes on with them."
        cache = cache_folder(found.base.resolved["cache_dir"])
        with going_on(lambda: keeps), opened(place, found.folder, cache) as backend:
            job_of(found.base).make_teachers()
            atomic_write(found.folder / runs.COMMAND, command + "\n")
            _search(found, trials, backend)
    print(_words(found, trials), flush=True)
    return found.folder


def plan(options: Mapping[str, Any], place: Mapping[str, Any], main: Sequence[str]) -> Plan:
    """A search, checked: also with the first and the last value of everything that is searched.

    Raises:
        ValueError: what does not exist or does not fit, with the remedy.
    """
    check_space(options["search"])
    for key in ("trials", "trainings"):
        checks.whole(1)(key, options[key])
    checks.optional(checks.whole(1))("round", options["round"])
    for key in ("first_seed", "search_seed"):
        checks.whole(0)(key, options[key])
    _check_main(main, options["search"])
    own = ["evaluation.rules=[]", f"seed={options['first_seed']}"]
    bases = []
    for end in ends(options["search"]):
        values = [f"agent.options.{key}={quoted(value)}" for key, value in end.items()]
        bases.append(check(read_settings(compose("config", [*main, *own, *values]))))
    base = bases[0]
    c = base.resolved
    if c["env"].get("protocol") == "joint":
        raise ValueError("env.protocol=joint has no checkpoints, from which trials go on: set env.protocol=frozen.")
    stages = _stages(options["stages"], c["total_timesteps"])
    step = SEED_STEP * max(1, -(-c["num_envs"] // SEED_STEP))
    seeds = tuple(options["first_seed"] + step * index for index in range(options["trainings"]))
    for seed in seeds:
        check_pause({**c, "seed": seed, "pause": {**c["pause"], "at": stages[0]}}, base.evaluation_seeds)
    usual = f"{c['presets'].get('experiment') or c['task']['name']}-{base.agent.label}-tune".replace("/", "-")
    jobs = jobs_of(place)
    return Plan(
        search=Search(dict(options["search"]), stages, seeds, options["search_seed"]),
        base=base,
        words=tuple(main),
        folder=Path(str(options["runs_dir"])).expanduser() / folder_name(options["name"] or usual),
        trials=options["trials"],
        round=options["round"] or max(1, (jobs or ELSEWHERE) // len(seeds)),
        threads=place["cpus"],
        next_seed=seeds[-1] + step,
    )


def _search(found: Plan, trials: list[Trial], backend: Backend) -> None:
    """Run rounds until there are as many trials as are asked for; an open round is ended first."""
    while any(trial.state == OPEN for trial in trials) or len(trials) < found.trials:
        if not any(trial.state == OPEN for trial in trials):
            trials += propose(found.search, trials, min(found.round, found.trials - len(trials)))
            write_trials(found.folder, found.search, trials)
        begun = [number for number, trial in enumerate(trials) if trial.state == OPEN]
        while any(trials[number].state == OPEN for number in begun):
            _stage(found, trials, backend)
        if all(trials[number].state == FAILED for number in begun):
            logs = ", ".join(str(found.child(number, Trial({}), found.search.seeds[0]).log) for number in begun)
            raise ValueError(f"Every trial of a round failed; the search is kept. Logs: {logs}")


def _stage(found: Plan, trials: list[Trial], backend: Backend) -> None:
    """Bring the open trials that are furthest behind to their next stage, and judge them there."""
    reached = min(len(trial.values) for trial in trials if trial.state == OPEN)
    going = {n: trial for n, trial in enumerate(trials) if trial.state == OPEN and len(trial.values) == reached}
    children = {(n, seed): found.child(n, trial, seed) for n, trial in going.items() for seed in found.search.seeds}
    at = found.search.stages[reached]
    todo = [child for child in children.values() if _worth(found, child, at) is None]
    end = f"judged at step {at}"
    failed = {child.name for child in run_all(todo, backend, shown=found.base.resolved["progress"], end=end)}
    before = [trial for trial in trials if trial.state == COMPLETE]
    for number, trial in going.items():
        mine = [children[number, seed] for seed in found.search.seeds]
        values = [_worth(found, child, at) for child in mine if child.name not in failed]
        known = [value for value in values if value is not None]
        if len(known) < len(mine):
            trial.state = FAILED
            continue
        trial.values.append(fmean(known))
        if len(trial.values) == len(found.search.stages):
            trial.state = COMPLETE
        elif is_behind(trial, before):
            trial.state = PRUNED
    write_trials(found.folder, found.search, trials)


def _worth(found: Plan, child: Child, at: int) -> float | None:
    """What a training closes of the gap on the selection rows at a step; None where that is not known."""
    paused = read_paused(found.folder / child.name, at, pause_seeds(found.base.resolved["pause"]))
    return None if paused is None else paused.value


def _stages(given: Any, total: int) -> tuple[int, ...]:
    """Shares of a training as steps; the last is the last at which a training can pause."""
    shares = given if isinstance(given, list) else [given]
    if not shares or not all(checks.is_number(share) and 0 < share <= 1 for share in shares):
        checks.refuse("stages", given, "shares of the steps above 0 and at most 1, as [0.5, 1.0]")
    steps = [min(math.ceil(share * total), total - 1) for share in shares]
    if steps[0] < 1 or any(later <= earlier for earlier, later in pairwise(steps)):
        checks.refuse("stages", given, f"shares that rise, at different steps of total_timesteps={total}")
    return tuple(steps)


def _check_main(main: Sequence[str], search: Mapping[str, Any]) -> None:
    for text in main:
        key = text.partition("=")[0].lstrip("+")
        if key in _OWN:
            raise ValueError(f"{text!r} has no place in a search: {_OWN[key]}.")
        if key.removeprefix("agent.options.") in search and key.startswith("agent.options."):
            raise ValueError(f"{text!r} gives an option that is searched: leave one of the two out.")


def _words(found: Plan, trials: Sequence[Trial]) -> str:
    """What a search came to."""
    counts = ", ".join(
        f"{count} {state}"
        for state in (COMPLETE, PRUNED, FAILED)
        if (count := sum(trial.state == state for trial in trials))
    )
    said = f"{len(trials)} trials: {counts}."
    best, first = best_of(trials), trials[0]
    if best is None:
        return said
    value = f"{best.values[-1]:.3f} of the gap on the selection rows"
    if not best.options:
        return f"{said} None is better than the agent as it is, which closes {value}.\nWritten to {found.folder}"
    as_it_is = f" ({first.values[-1]:.3f} as it is)" if not first.options and first.state == COMPLETE else ""
    return (
        f"{said} The best is number {trials.index(best)}, {best.options}: it closes {value}{as_it_is}, where it was "
        "chosen, so that this is too much. Judge it beside the agent as it is, with trainings of other seeds: "
        f"kd-env study {_study(found, best)}\nWritten to {found.folder}"
    )


def _study(found: Plan, best: Trial) -> str:
    """Words of a study that sets the agent with what was found beside the agent as it is, as evidence is made."""
    keys = [word.partition("=")[0].lstrip("+") for word in found.words]
    agent, searched = found.base.resolved["agent"], found.search.search
    given = {key: value for key, value in agent["options"].items() if key not in searched}
    entry = {"name": found.base.resolved["presets"]["agent"]}
    entry |= {"env": {"action_view": agent["action_view"]}} if "agent.action_view" in keys else {}
    entry |= {"from": agent["from"]} if agent.get("from") else {}
    agents = [
        {**entry, "label": label, "options": {**given, **options}}
        for label, options in (("as_it_is", {}), ("tuned", best.options))
    ]
    others = zip(keys, found.words, strict=True)
    kept = [word for key, word in others if key != "evaluation.seeds" and key.split(".")[0] != "agent"]
    seeds = ["trainings=5", "evaluation.seeds=30", f"first_seed={found.next_seed}"]
    return shlex.join([*kept, f"agents={json.dumps(agents)}", *seeds])
