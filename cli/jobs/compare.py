"""``kd-env compare``: finished runs by their folders, grouped into independent trainings, and what they show."""

from __future__ import annotations

import glob
import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.jobs.pages.reading import problem_of
from cli.jobs.studies.decision import is_pruned, prunings_of
from cli.runs import folder as runs
from cli.runs.config import at, differences
from cli.runs.former import with_former_defaults
from cli.runs.paths import absolute
from cli.settings.kinds.catalog import reader_of
from cli.settings.options import split_folders
from cli.settings.read import agent_label
from kd_files.manifest import check_file
from kd_files.reading import check_keys, damaged, read_json

if TYPE_CHECKING:
    from kd_env.evaluation.comparing.runs import Run

Config = Mapping[str, Any]
_PROBLEM = ("task", "teacher", "student")
_SETS = ("teachers", "cofinetuned")
_OTHER_PROBLEM = {"teacher_is_student", "shuffled_feedback"}
"""Controls that change the problem."""
_BESIDE = ("rules", "interventions", "jobs")
"""Of an evaluation: what is judged beside the agent, and by how many processes."""
_NO_MATTER = (
    *("seed", "control", "name", "runs_dir", "resume", "progress", "checkpoint_every", "pause"),
    *("threads", "cache_dir", "device", "agent_device", "vectorization", "presets", "recipe", "save_students"),
    *("logger", "logger_project"),
)
"""Keys that may differ between the trainings of one group; presets are in the values."""


def compare_runs(overrides: Sequence[str], command: str) -> Path:
    """``kd-env compare runs=[folder,...]`` (or folders as plain words): the folder that was written.

    Raises:
        ValueError: no run, a folder without results, runs that cannot be compared, or an ``out`` that is in use.
    """
    options, patterns = split_folders("compare", overrides)
    folders = find_runs(patterns)
    out = options["out"]
    if out is None:
        mark = hashlib.sha256("\n".join(sorted(str(folder.resolve()) for folder in folders)).encode()).hexdigest()
        out = str(Path(options["runs_dir"]) / f"compare-{mark[:10]}")
    target = Path(str(out)).expanduser()
    if target.exists() and not (target.is_dir() and (options["overwrite"] or not any(target.iterdir()))):
        raise ValueError(
            f"{target} exists; replace its comparison with overwrite=true, or choose another place with out=..."
        )
    return compare_folders(folders, target, command)


def compare_folders(folders: Sequence[Path], out: Path, command: str, left_out: Sequence[str] = ()) -> Path:
    """Compare finished runs, print what they show and write it to ``out``, with a report.

    Args:
        folders: of the runs.
        out: folder that is written.
        command: how the job was called.
        left_out: sentences about runs that have no results.

    Raises:
        ValueError: runs that cannot be compared.
    """
    from kd_env.evaluation.comparing.compare import compare
    from kd_env.evaluation.comparing.report import print_comparison, write_comparison
    from kd_env.evaluation.pages.contents import Study
    from kd_env.evaluation.pages.write import write_page

    read = read_runs(folders)
    comparison = replace(compare(read), prunings=prunings_of(folders))
    print_comparison(comparison)
    write_comparison(out, comparison, command)
    problem = problem_of(read, comparison, out)
    write_page(out, Study(f"{out.name}: {problem.name}", command, (problem,), tuple(left_out)))
    print(f"Written to {out}", flush=True)
    return out


def find_runs(patterns: Sequence[str]) -> list[Path]:
    """The run folders that folders and glob patterns name, each once, in order.

    A folder that a pattern finds and that is no run (another comparison, a file) is passed over, and so are the runs of
    an agent that was pruned; an unfinished run is refused, since leaving it out would choose among trainings.

    Raises:
        ValueError: nothing named or found, or a folder without results.
    """
    if not patterns:
        raise ValueError("Name run folders: kd-env compare runs=[runs/a,runs/b], or runs='runs/harmful_knowledge-*'.")
    found: dict[Path, Path] = {}
    for pattern in patterns:
        text = str(Path(pattern).expanduser())
        matches = [Path(text)] if Path(text).exists() else _matches(text)
        if not matches:
            raise ValueError(f"No run folder matches {pattern!r} (seen from {Path.cwd()}).")
        for folder in matches:
            if not (folder / runs.CONFIG).is_file():
                raise ValueError(
                    f"{folder} is no run folder: {runs.CONFIG} is missing. Runs in it would be {str(folder / '*')!r}."
                )
            if not (folder / runs.RESULTS).is_file():
                raise ValueError(
                    f"The run {folder} has no {runs.RESULTS}: finish it with resume=true (its command is in "
                    f"{runs.COMMAND}), or leave it out."
                )
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Configurations and results of run folders, checked for one problem.

    Raises:
        ValueError: other problems or evaluations, with the key and both values, or results that are no JSON.
    """
    from kd_env.evaluation.comparing.runs import Run

    configs = [runs.run_config(folder) for folder in folders]
    check_comparable(list(zip(map(str, folders), configs, strict=True)))
    return [
        Run(
            place=str(folder),
            agent=label,
            control=str(config["control"]),
            train_seeds=range(config["seed"], config["seed"] + config["num_envs"]),
            results=read_results(folder / runs.RESULTS),
            searched=config["agent"]["name"] == "searched",
            env=config["env"],
        )
        for folder, config, label in zip(folders, configs, agent_labels(configs), strict=True)
    ]


def read_results(path: Path) -> dict[str, Any]:
    """What a report wrote, with what every comparison reads; raises :class:`kd_files.reading.DamagedFile`."""
    remedy = "delete it, and judge the run again with resume=true"
    check_file(path, remedy)
    results = read_json(path, remedy, {"seeds": list, "policies": list})
    for row in results["policies"]:
        if not isinstance(row, dict):
            raise damaged(path, "it holds a policy without a name", remedy)
        check_keys(path, row, {"policy": str, "learned": bool, "seeds": dict}, remedy)
        check_keys(path, row["seeds"], {"splits": dict}, remedy)
    return {**results, "facts": _with_absolute_teachers(results["facts"])} if "facts" in results else results


def _with_absolute_teachers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a problem; the folders of teachers were as they had been given in earlier versions."""
    found = dict(facts)
    if "teacher" in facts:
        found["teacher"] = absolute(facts["teacher"])
    if "teachers" in facts:
        found["teachers"] = {name: absolute(folder) for name, folder in facts["teachers"].items()}
    return found


def check_comparable(configs: Sequence[tuple[str, Config]]) -> None:
    """Refuse configurations of different problems or evaluations; seen from the configuration, before any work.

    Args:
        configs: name (for the message) and resolved configuration of each run.

    Raises:
        ValueError: the first key that differs, with both values.
    """
    for name, config in configs:
        for key in ("control", "seed", "num_envs", "evaluation", "env", "agent", *_PROBLEM):
            if key not in config:
                raise ValueError(
                    f"The configuration of {name} has no {key!r}: it is of an older version, or none of ours."
                )
    (first_name, first), *others = configs
    for name, config in others:
        a, b = _problem(first), _problem(config)
        for key in differences(a, b):
            controls = {str(first["control"]), str(config["control"])}
            apart = sorted(controls & _OTHER_PROBLEM) if len(controls) > 1 else []
            hint = "".join(f" control={name} changes the problem: compare its runs apart." for name in apart)
            raise ValueError(
                f"{first_name} and {name} cannot be compared: {key} is {at(a, key)!r} in the first and "
                f"{at(b, key)!r} in the second.{hint}"
            )


def agent_labels(configs: Sequence[Config]) -> list[str]:
    """A name for the agent's configuration of each run: the agent's, and what differs where one agent has several."""
    wholes = [_agent(config) for config in configs]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for whole in wholes:
        known = kinds.setdefault(agent_label(whole["agent"]), [])
        if whole not in known:
            known.append(whole)
    labels = []
    for whole in wholes:
        name = agent_label(whole["agent"])
        known = kinds[name]
        keys = list(dict.fromkeys(key for other in known for key in differences(known[0], other)))
        shown = ", ".join(f"{key}={textwrap.shorten(str(at(whole, key)), 40)}" for key in keys)
        labels.append(name if len(known) == 1 else f"{name} #{known.index(whole) + 1} ({shown})")
    return labels


def _problem(config: Config) -> dict[str, Any]:
    """What all runs of a comparison share: not what is judged beside, deterministic given the seeds."""
    config = with_former_defaults(config)
    return {
        **{key: config[key] for key in _PROBLEM},
        **{key: config.get(key) for key in _SETS},  # runs of earlier versions have none
        "env": {key: value for key, value in config["env"].items() if key not in _of_the_agent(config)},
        "evaluation": {key: value for key, value in config["evaluation"].items() if key not in _BESIDE},
    }


def _agent(config: Config) -> dict[str, Any]:
    """What all trainings of a group share beside the problem; each may begin with the policy of another training."""
    shared = (*_PROBLEM, *_SETS, "env", "evaluation", *_NO_MATTER)
    own = {key: value for key, value in config.items() if key not in shared}
    source = config["agent"].get("from")
    if source is not None:
        own["agent"] = {**config["agent"], "from": re.sub(r"-seed\d+$", "", str(source))}
    return {**own, "env": {key: config["env"].get(key) for key in _of_the_agent(config)}}


def _of_the_agent(config: Config) -> tuple[str, ...]:
    """Options of the environment that belong to the agent: what it sees and how it says what it wants."""
    return reader_of(config["env"].get("id")).of_the_agent


def _matches(pattern: str) -> list[Path]:
    """Runs and nothing else; a folder in which no training has begun yet holds only its description.

    Those of an agent that its study pruned, all of them, are told by the comparison (``prunings``) and not in it.
    """
    found = [path for path in map(Path, sorted(glob.glob(pattern))) if (path / runs.CONFIG).is_file()]
    return [path for path in found if not is_pruned(path)]
