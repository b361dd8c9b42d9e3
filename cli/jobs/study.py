"""``kd-env study``: the independent trainings of several agents, here or on a cluster, then their comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import MODULE
from cli.errors import going_on
from cli.jobs.compare import compare_folders
from cli.jobs.estimates.said import say_study
from cli.jobs.kinds.catalog import job_of
from cli.jobs.pages.reading import unfinished
from cli.jobs.studies.agents import quoted, read_agents
from cli.jobs.studies.decision import write_pruning
from cli.jobs.studies.planning import Kind, check_controls, composed, expand
from cli.jobs.studies.pruning import decide, decided, going_on_with, pause_words, pausing, unjudged
from cli.jobs.studies.registered import run_registered
from cli.jobs.studies.training import Training
from cli.runs import folder as runs
from cli.runs.backends.base import Child
from cli.runs.backends.catalog import LOCAL, check_backend, jobs_of, opened
from cli.runs.origin import check_source
from cli.runs.pool import refuse_failed, run_all
from cli.settings import probe
from cli.settings.cache import cache_folder
from cli.settings.options import folder_name, names_of, split_options, whole
from cli.settings.presets import groups, option_comments
from kd_env.core.registry import unknown_name
from kd_files.writing import atomic_write

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.comparison import Pruning

_INSTEAD = {
    "agent": "agents=[...] chooses the agents",
    "control": "controls=[...] chooses the controls",
    "seed": "first_seed=... is the seed of the first training",
    "threads": "cpus=... says how many threads each training has, and jobs=... how many run at a time",
    "resume": "a study always goes on from what is there",
    "evaluation.jobs": "each training is one process, and jobs=... says how many run at a time",
    "pause.at": "pruning=median has trainings pause, and pruning_at=... says when",
}
"""Options of the main job that a study sets itself."""


def study(overrides: Sequence[str], command: str) -> Path:
    """``kd-env study [agents=[...] controls=[...] trainings=n backend=...] [options of the main job]``; its folder.

    Runs that are finished are kept, others go on from their last checkpoint: the same command resumes a study. Which
    agents are pruned is decided once.

    Raises:
        ValueError: anything that does not fit, before any work; after it, the trainings that failed, with their logs.
    """
    probe.require_own_agents()
    options, main = split_options("study", overrides)
    if options["study"] is not None:
        return run_registered(options, main, overrides, command)
    _check_main(main, options)
    everyone = plan(options, main)
    check_backend(options, everyone[0].settings.env.device, split_options("study", [])[0])
    paused = pausing(everyone, options)
    folder = everyone[0].folder.parent
    if (folder / runs.CONFIG).is_file():
        raise ValueError(f"{folder} is a run folder; choose another name of the study with name=...")
    pruning = decided(folder, options, paused)
    with runs.writing(folder, "study"):
        _run(folder, everyone, paused, pruning, options, command)
    return folder


def _run(
    folder: Path,
    everyone: Sequence[Training],
    paused: Sequence[Training],
    pruning: Pruning | None,
    options: Mapping[str, Any],
    command: str,
) -> None:
    c = everyone[0].settings.resolved
    folder.mkdir(exist_ok=True)
    trainings = going_on_with(everyone, pruning)
    todo = _unfinished(trainings)
    for training in todo:
        check_source(training.settings.resolved, training.folder)
    keeps = f"{folder} keeps finished trainings and the checkpoints of the others; the same command goes on with them."
    # Where nothing is left to do, no cluster is asked for it.
    with (
        going_on(lambda: keeps),
        opened(options if todo else _here(options), folder, cache_folder(c["cache_dir"])) as place,
    ):
        _make_teachers(todo)
        atomic_write(folder / runs.COMMAND, command + "\n")
        print(
            f"{folder}: {len(trainings)} trainings, {len(trainings) - len(todo)} of them finished before.", flush=True
        )
        if options["backend"] == LOCAL:  # other machines are not measured
            jobs = jobs_of(options) or 1
            say_study([training.settings for training in todo], jobs, [] if pruning else [t.settings for t in paused])
        if paused and pruning is None:
            print(pause_words(paused), flush=True)
            children = [_child(training) for training in unjudged(paused)]
            failed = run_all(children, place, shown=c["progress"], end="paused", cells=True)
            refuse_failed(failed, len(paused), "trainings")
            pruning = decide(folder, options, paused)
            write_pruning(folder, pruning)
            trainings = going_on_with(everyone, pruning)
            todo = _unfinished(trainings)
        if pruning is not None:
            from kd_env.evaluation.comparing.words import pruning_words

            print(pruning_words(pruning), flush=True)
        for training in todo:
            (training.folder / runs.RESULTS).unlink(missing_ok=True)  # of another evaluation, which is done again
        failed = run_all([_child(training) for training in todo], place, shown=c["progress"], cells=True)
    done = [training.folder for training in trainings if (training.folder / runs.RESULTS).is_file()]
    if done:
        missing = [unfinished(training.folder) for training in trainings if training.folder not in done]
        compare_folders(done, folder, command, missing)
    refuse_failed(failed, len(trainings), "trainings")


def _unfinished(trainings: Sequence[Training]) -> list[Training]:
    return [training for training in trainings if not training.finished()]


def plan(options: dict[str, Any], main: Sequence[str]) -> list[Training]:
    """Every training, composed and checked: agents by controls by seeds, each with a folder of its own.

    Args:
        options: of the study.
        main: overrides of the main job for all of them.

    Raises:
        ValueError: an unknown or unfit agent, control or option, seeds that overlap those of the evaluation, or runs
            that could not be compared afterwards.
    """
    agents, controls = read_agents(options["agents"]), names_of("controls", options["controls"])
    count, first = whole("trainings", options["trainings"], 1), whole("first_seed", options["first_seed"], 0)
    kinds = composed(
        [
            Kind((*_without(main, agent), *agent, f"control={quoted(control)}"))
            for agent in agents
            for control in controls
        ]
    )
    resolved = kinds[0][1]
    check_controls(controls, resolved["evaluation"])
    folder = _study_folder(options, resolved)
    return expand(kinds, folder, trainings=count, first_seed=first, threads=options["cpus"])


def _without(main: Sequence[str], agent: Sequence[str]) -> list[str]:
    """The options of a study without those that an agent has of its own."""
    keys = {text.split("=", 1)[0] for text in agent}
    return [text for text in main if text.split("=", 1)[0].lstrip("+") not in keys]


def _check_main(main: Sequence[str], options: dict[str, Any]) -> None:
    """Refuse what a study sets itself, and near misses of its own options, which the main job does not know."""
    keys = {key.split(".")[0] for key, _, _ in option_comments("config")}
    valid = {*options, *keys, *groups()} - {*_INSTEAD}
    for text in main:
        key, equals, _ = text.partition("=")
        if key in _INSTEAD and equals:
            raise ValueError(f"{text!r} has no place in a study: {_INSTEAD[key]}.")
        if equals and re.fullmatch(r"[a-z_]+", key) and key not in valid:
            raise ValueError(unknown_name("option", key, valid))


def _study_folder(options: dict[str, Any], resolved: dict[str, Any]) -> Path:
    name = options["name"] or f"{resolved['presets'].get('experiment') or resolved['task']['name']}-study"
    return Path(str(options["runs_dir"])).expanduser() / folder_name(name)


def _make_teachers(todo: Sequence[Training]) -> None:
    """Fine-tune a missing teacher here: processes side by side would all begin to."""
    if todo:
        job_of(todo[0].settings).make_teachers()


def _here(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "backend": LOCAL}


def _child(training: Training) -> Child:
    return Child(training.folder.name, (MODULE, "train", *training.overrides), training.log)
