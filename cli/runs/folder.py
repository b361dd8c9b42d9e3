"""Run folders: what was asked for, with which versions, and how far it has come. Every file is renamed into place."""

from __future__ import annotations

import json
import os
import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cli.runs.paths import has_moved, with_absolute_paths
from kd_env.config.optimizer import FRESH_LEARNING_RATE
from kd_env.core.files import atomic_write

CONFIG, OVERRIDES, COMMAND, VERSIONS = "config.yaml", "overrides.json", "command.txt", "versions.json"
POLICY, CHECKPOINT, LOGS, RESULTS, SPACES = "policy", "checkpoint", "logs", "results.json", "spaces.json"
_COMPONENTS, _FEATURES, _VIEW = "action components", "observation features", "action view"
_MAY_CHANGE = (
    *("resume", "progress", "threads", "checkpoint_every", "evaluation"),
    *("save_students", "runs_dir", "cache_dir"),
)
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


def check_folder(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Check that the run may use its folder, and make the folder above it; called before any work.

    A folder in which nothing but the description of a run lies does not count: that run failed before its training.

    Raises:
        ValueError: the folder exists and ``resume`` was not asked for, the options differ from those it began with, or
            no folder can be made there.
    """
    _make_runs_dir(folder.parent)
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
    folder.mkdir(exist_ok=True)
    atomic_write(folder / CONFIG, to_yaml(resolved))
    atomic_write(folder / OVERRIDES, json.dumps(list(overrides)) + "\n")
    atomic_write(folder / COMMAND, command + "\n")
    atomic_write(folder / VERSIONS, json.dumps(versions(), indent=2) + "\n")


def read_run(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Resolved configuration and overrides of a run.

    Raises:
        ValueError: no run folder, or one that has no policy yet.
    """
    if not (folder / CONFIG).is_file() or not (folder / OVERRIDES).is_file():
        raise ValueError(f"{folder} is no run folder: {CONFIG} or {OVERRIDES} is missing.")
    if not (folder / POLICY).is_dir():
        raise ValueError(f"The run {folder} has no policy yet; finish its training with resume=true.")
    return from_yaml((folder / CONFIG).read_text()), list(json.loads((folder / OVERRIDES).read_text()))


def with_former_rate(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """A composed configuration with the learning rate of the run in ``folder``, where an earlier version began it.

    The default was 0.007 for every student then. Such a run of students that are not fresh goes on, and is judged, as
    it began, where ``config`` has the same kind of student and chooses no learning rate; else nothing is changed.
    """
    same = dict(config)
    env, init = config["env"], config["student"]["init"]
    if not _began(folder) or not (folder / CONFIG).is_file() or env["optimizer"]["learning_rate"] is not None:
        return same
    before = from_yaml((folder / CONFIG).read_text())
    rate = before["env"]["optimizer"]["learning_rate"]
    if init == "fresh" or before["student"]["init"] != init or rate != FRESH_LEARNING_RATE:
        return same
    return {**same, "env": {**env, "optimizer": {**env["optimizer"], "learning_rate": rate}}}


def with_former_gap(folder: Path, config: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """A composed configuration with the ``env.gap`` that the run in ``folder`` was trained with.

    Its policy has observed that loss. The default was another one in earlier versions, so that the overrides of a run
    do not tell; what is among ``given`` stays.
    """
    before = from_yaml((folder / CONFIG).read_text())["env"].get("gap")
    if before is None or any(text.lstrip("+").startswith("env.gap=") for text in given):
        return dict(config)
    return {**config, "env": {**config["env"], "gap": before}}


def write_spaces(folder: Path, env: Any) -> None:
    """Write what the observations and actions of a training meant."""
    atomic_write(folder / SPACES, json.dumps(_meaning(env), indent=2) + "\n")


def check_spaces(folder: Path, env: Any) -> None:
    """Refuse to drive a policy by observations or actions of another meaning than those it was trained with.

    Args:
        folder: of the run.
        env: with ``term_names``, ``action_names``, ``observation_layout`` and the other public attributes. Where it
            decides about each row of a batch, the number of rows may differ: whether the policy can do with that is the
            agent's to say.

    Raises:
        ValueError: with both lists; or the run does not say what it was trained with.
    """
    path = folder / SPACES
    if not path.is_file():
        raise ValueError(
            f"The run {folder} does not say what its policy was trained with ({SPACES} is missing); train it again."
        )
    before, now = json.loads(path.read_text(encoding="utf-8")), _meaning(env)
    before.setdefault(_VIEW, now.get(_VIEW))  # what runs of earlier versions do not say
    if getattr(env, "weighting", "batch") == "sample":
        before, now = (_of_one_row(meaning, env.row_features) for meaning in (before, now))
    for what, found in now.items():
        trained = before.get(what)
        if trained != found:
            raise ValueError(
                f"The policy of {folder} was trained with other {what}: {_words(trained)}; here they are "
                f"{_words(found)}. Evaluate it with the same, or train another."
            )


def _began(folder: Path) -> bool:
    return any((folder / name).exists() for name in (POLICY, CHECKPOINT, LOGS, RESULTS))


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


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))


def from_yaml(text: str) -> dict[str, Any]:
    """YAML that :func:`to_yaml` wrote."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    found: list[str] = []
    for key in dict.fromkeys([*first, *second]):
        a, b = first.get(key), second.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def with_former_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the options that earlier versions did not have, as they did without them.

    Their paths were as they had been given; they are seen from here.
    """
    found = {"agent_device": "cpu", **config, "student": {"zero_head": False, **config["student"]}}
    env, influence = dict(config["env"]), config["env"].get("influence")
    if isinstance(env.get("learning_teacher"), Mapping):
        env["learning_teacher"] = {"zero_head": False, "dropout": 0.0, **env["learning_teacher"]}
    # Earlier influence was without clipping; where nothing learned from it, that is no difference.
    asked = "influence" in (env.get("score"), *(str(name).removeprefix("row_") for name in env.get("features") or ()))
    if isinstance(influence, Mapping) and not asked:
        env["influence"] = {"clip": True, **influence}
    return with_absolute_paths({**found, "env": env})


def _check_same(folder: Path, resolved: Mapping[str, Any]) -> None:
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} exists and is no run folder ({CONFIG} is missing); choose another name with name=..."
        )
    before = with_former_defaults(from_yaml((folder / CONFIG).read_text()))
    changed = [key for key in differences(before, resolved) if key.split(".")[0] not in _MAY_CHANGE]
    for key in [key for key in changed if has_moved(key, value_at(before, key), value_at(resolved, key))]:
        # The hashes of the rows tell whether it holds the same ones.
        warnings.warn(
            f"{key}={value_at(before, key)} is not there any more; {value_at(resolved, key)} is read in its place.",
            UserWarning,
            stacklevel=2,
        )
        changed.remove(key)
    if changed:
        raise ValueError(
            f"The run {folder} was started with other values of {', '.join(changed)}; resume it with the same, or "
            "choose another name with name=..."
        )
