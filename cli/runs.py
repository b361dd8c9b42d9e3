"""Run folders: what was asked for, with which versions, and how far it has come. Every file is renamed into place."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kd_env.evaluation.report import atomic_write

CONFIG, OVERRIDES, COMMAND, VERSIONS = "config.yaml", "overrides.json", "command.txt", "versions.json"
POLICY, CHECKPOINT, LOGS = "policy", "checkpoint", "logs"
_MAY_CHANGE = ("resume", "progress", "threads", "checkpoint_every", "evaluation", "runs_dir", "cache_dir")
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


def open_run(folder: Path, resolved: Mapping[str, Any], overrides: Sequence[str], command: str) -> None:
    """Make the run folder and write what describes the run, or check that an existing one may be resumed.

    Raises:
        ValueError: the folder exists and ``resume`` was not asked for, or the options differ from those it began with.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not resolved["resume"]:
            raise ValueError(
                f"The run folder {folder} exists: go on with resume=true, or choose another name with name=..."
            )
        _check_same(folder, resolved)
    folder.mkdir(parents=True, exist_ok=True)
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


def versions() -> dict[str, Any]:
    """Versions of what the results depend on, and the hardware."""
    import os

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


def _check_same(folder: Path, resolved: Mapping[str, Any]) -> None:
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} exists and is no run folder ({CONFIG} is missing); choose another name with name=..."
        )
    before = from_yaml((folder / CONFIG).read_text())
    changed = [key for key in differences(before, resolved) if key.split(".")[0] not in _MAY_CHANGE]
    if changed:
        raise ValueError(
            f"The run {folder} was started with other values of {', '.join(changed)}; resume it with the same, or "
            "choose another name with name=..."
        )
