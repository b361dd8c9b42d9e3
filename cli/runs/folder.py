"""Run folders: what was asked for, with which versions, and how far it has come. Every file is renamed into place."""

from __future__ import annotations

import json
import os
import platform
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cli.runs.config import at, differences, read_config, to_yaml
from cli.runs.former import with_former_defaults
from cli.runs.paths import has_moved
from kd_env.core.locks import owned
from kd_files.manifest import MANIFEST, check_file, write_manifest
from kd_files.reading import damaged, parse_json, read_json, read_text
from kd_files.writing import atomic_write, sweep, write_json

CONFIG, OVERRIDES, COMMAND, VERSIONS = "config.yaml", "overrides.json", "command.txt", "versions.json"
POLICY, CHECKPOINT, LOGS, RESULTS, SPACES = "policy", "checkpoint", "logs", "results.json", "spaces.json"
METRICS = "metrics.jsonl"
"""In the logs, a line for every report of an agent."""
RESUMED, JUDGED = "resumed", "judged"
"""Key of the versions under which a run went on, and folder of policies that are judged while others are not."""
_REMEDY = "copy the run folder again, or choose another"
_VERSIONS_REMEDY = "delete it, and it is written again"
_COMPONENTS, _FEATURES, _VIEW = "action components", "observation features", "action view"
_MAY_CHANGE = (
    *("resume", "progress", "threads", "checkpoint_every", "pause", "evaluation", "logger", "logger_project"),
    *("save_students", "runs_dir", "cache_dir"),
    *("env.micro_batch_size", "env.activation_checkpointing"),
)
_SECTIONS = {**dict.fromkeys(("task", "teacher", "student", "env", "agent", "evaluation"), dict), "seed": int}
_PACKAGES = (
    "torch",
    "transformers",
    "gymnasium",
    "stable-baselines3",
    "sb3-contrib",
    "numpy",
    "hydra-core",
    "datasets",
)


@contextmanager
def writing(folder: Path, what: str = "run folder") -> Iterator[None]:
    """Be the only process that writes into a folder while it works; makes the folder above it.

    Raises:
        ValueError: another process does, named with its host, or no folder can be made there.
    """
    _make_runs_dir(folder.parent)
    with owned(folder, what, "wait for its end or stop it, or choose another name with name=..."):
        yield


def check_folder(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Check that the run may use its folder; called before any work.

    A folder in which nothing but the description of a run lies does not count: that run failed before its training.

    Raises:
        ValueError: the folder exists and ``resume`` was not asked for, the options differ from those it began with, or
            no run lies there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (folder / CONFIG).is_file() and not _began(folder):
        return
    if not resolved["resume"]:
        raise ValueError(
            f"The run folder {folder} exists: go on with resume=true, or choose another name with name=..."
        )
    _check_same(folder, resolved)


def open_run(folder: Path, resolved: Mapping[str, Any], overrides: Sequence[str], command: str) -> None:
    """Make the run folder and write what describes the run.

    Raises:
        ValueError: as :func:`check_folder`, which is asked again: other work may have come first.
    """
    check_folder(folder, resolved)
    describe(folder, resolved, overrides, command)


def describe(folder: Path, resolved: Mapping[str, Any], overrides: Sequence[str], command: str) -> None:
    """Make a folder where it is missing and write what describes its run or evaluation.

    Of one that goes on, commands and versions stay, and those of now stand behind them.
    """
    folder.mkdir(exist_ok=True)
    sweep(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # until it is of what is written now
    commands, first = _former_description(folder)
    atomic_write(folder / CONFIG, to_yaml(resolved))
    atomic_write(folder / OVERRIDES, json.dumps(list(overrides)) + "\n")
    atomic_write(folder / COMMAND, "".join(f"{line}\n" for line in [*commands, command]))
    now = versions()
    write_json(folder / VERSIONS, now if first is None else {**first, RESUMED: [*first.get(RESUMED, []), now]})
    write_manifest(folder, deep=False)


def resumed(folder: Path) -> int:
    """How often a run or an evaluation went on in its folder."""
    return len(read_json(folder / VERSIONS, _VERSIONS_REMEDY).get(RESUMED, []))


def _former_description(folder: Path) -> tuple[list[str], dict[str, Any] | None]:
    """Commands and versions under which work has begun in a folder; none where it has not."""
    if not _began(folder) or not (folder / VERSIONS).is_file():
        return [], None
    former = read_json(folder / VERSIONS, _VERSIONS_REMEDY)
    if not isinstance(former.get(RESUMED, []), list):
        raise damaged(folder / VERSIONS, f"{RESUMED!r} is no list", _VERSIONS_REMEDY)
    path = folder / COMMAND
    return (read_text(path, "delete it").splitlines() if path.is_file() else []), former


def read_run(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Resolved configuration and overrides of a run.

    Raises:
        ValueError: no run folder, a damaged one, or one that has no policy yet.
    """
    if not (folder / CONFIG).is_file() or not (folder / OVERRIDES).is_file():
        raise ValueError(f"{folder} is no run folder: {CONFIG} or {OVERRIDES} is missing.")
    if not (folder / POLICY).is_dir():
        raise ValueError(f"The run {folder} has no policy yet; finish its training with resume=true.")
    path, remedy = folder / OVERRIDES, _REMEDY
    check_file(path, remedy)
    overrides = parse_json(path, read_text(path, remedy), remedy)
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        raise damaged(path, "it holds no list of options", remedy)
    return run_config(folder), overrides


def run_config(folder: Path) -> dict[str, Any]:
    """Resolved configuration of a run, with the sections that every version wrote; raises :class:`DamagedFile`."""
    check_file(folder / CONFIG, _REMEDY)
    return read_config(folder / CONFIG, _SECTIONS, remedy=_REMEDY)


def begun_config(folder: Path) -> dict[str, Any] | None:
    """Resolved configuration of a run whose training has begun; None where none has."""
    return run_config(folder) if (folder / CONFIG).is_file() and _began(folder) else None


def write_spaces(folder: Path, env: Any) -> None:
    """Write what the observations and actions of a training meant."""
    write_json(folder / SPACES, _meaning(env))
    write_manifest(folder, deep=False)


def check_spaces(folder: Path, env: Any, remedy: str = "Evaluate it with the same, or train another") -> None:
    """Refuse to drive a policy by observations or actions of another meaning than those it was trained with.

    Args:
        folder: of the run.
        env: with ``term_names``, ``action_names``, ``observation_layout`` and the other public attributes. Where it
            decides about each row of a batch, the number of rows may differ: whether the policy can do with that is the
            agent's to say.
        remedy: what to do where they differ, for the message.

    Raises:
        ValueError: with both lists; or the run does not say what it was trained with.
    """
    path = folder / SPACES
    if not path.is_file():
        raise ValueError(
            f"The run {folder} does not say what its policy was trained with ({SPACES} is missing); train it again."
        )
    check_file(path, _REMEDY)
    before, now = read_json(path, _REMEDY), _meaning(env)
    before.setdefault(_VIEW, now.get(_VIEW))  # what runs of earlier versions do not say
    if getattr(env, "weighting", "batch") == "sample":
        before, now = (_of_one_row(meaning, env.row_features) for meaning in (before, now))
    for what, found in now.items():
        trained = before.get(what)
        if trained != found:
            raise ValueError(
                f"The policy of {folder} was trained with other {what}: {_words(trained)}; here they are "
                f"{_words(found)}. {remedy}."
            )


def _began(folder: Path) -> bool:
    return any((folder / name).exists() for name in (POLICY, CHECKPOINT, LOGS, RESULTS, JUDGED))


def _meaning(env: Any) -> dict[str, list[Any]]:
    layout = [[name, list(part.shape)] for name, part in env.observation_layout.items()]
    found = {
        "knowledge terms": list(getattr(env, "term_names", ())),  # texts have none
        _COMPONENTS: list(env.action_names),
        _FEATURES: layout,
    }
    view = getattr(env.decision, "view_meaning", env.action_view)
    if view is not None:
        found[_VIEW] = [view]
    return found


def _of_one_row(meaning: Mapping[str, Any], row_features: Sequence[str]) -> dict[str, Any]:
    """What is left of it without the number of rows: the components of the first, and B in shapes."""
    names = [name for name in meaning.get(_COMPONENTS) or () if not re.search(r"\[(?!0\])\d+\]$", name)]
    features = [
        [name, ["B", *shape[1:]] if name in row_features else shape] for name, shape in meaning.get(_FEATURES) or ()
    ]
    return {**meaning, _COMPONENTS: names, _FEATURES: features}


def _words(items: Any) -> str:
    return f"[{', '.join(item if isinstance(item, str) else f'{item[0]} {tuple(item[1])}' for item in items or ())}]"


def _make_runs_dir(folder: Path) -> None:
    remedy = "choose another place with runs_dir=... (or the variable KD_ENV_RUNS)"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"The folder {folder} cannot be made ({error.strerror}); {remedy}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"The folder {folder} cannot be written to; {remedy}.")


def versions() -> dict[str, Any]:
    """Versions of what the results depend on, and the hardware."""
    import torch

    import kd_env

    found: dict[str, Any] = {"kd-env": kd_env.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **found,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": devices,
    }


def _check_same(folder: Path, resolved: Mapping[str, Any]) -> None:
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} exists and is no run folder ({CONFIG} is missing); choose another name with name=..."
        )
    before = with_former_defaults(run_config(folder))
    changed = [key for key in differences(before, resolved) if not {key, key.split(".")[0]} & {*_MAY_CHANGE}]
    for key in [key for key in changed if has_moved(key, at(before, key), at(resolved, key))]:
        # The hashes of the rows tell whether it holds the same ones.
        warnings.warn(
            f"{key}={at(before, key)} is not there any more; {at(resolved, key)} is read in its place.",
            UserWarning,
            stacklevel=2,
        )
        changed.remove(key)
    former, wanted = before.get("total_timesteps"), resolved.get("total_timesteps")
    if isinstance(former, int) and isinstance(wanted, int) and wanted > former:  # more of the same
        changed = [key for key in changed if key != "total_timesteps"]
    if changed:
        raise ValueError(
            f"The run {folder} was started with other values of {', '.join(changed)}; resume it with the same, or "
            "choose another name with name=..."
        )
