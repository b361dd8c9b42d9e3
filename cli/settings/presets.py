"""What the configuration folder offers: groups, presets (nested ones too) and a line of description for each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

PACKAGE = "configs"
NO_EXPERIMENT = "none"
"""The experiment, or regime, that sets nothing: Hydra cannot take away a default by ``experiment=null``."""
JOB_GROUPS = {
    "config": ("task", "teacher", "student", "env", "objective", "agent", "experiment", "regime"),
    "finetune": ("task", "teacher"),
}
"""Groups of each primary configuration file, in the order in which help shows them."""


@cache
def groups(job: str = "config") -> dict[str, tuple[str, ...]]:
    """Presets of every group of a job, nested ones as ``sb3/ppo``; files named ``_...`` are shared parts."""
    return {group: tuple(sorted(_presets(files(PACKAGE).joinpath(group)))) for group in JOB_GROUPS[job]}


@cache
def studies() -> tuple[str, ...]:
    """Names of the studies that are fixed in a file of the configuration folder."""
    return tuple(sorted(_presets(files(PACKAGE).joinpath("study"))))


def description(group: str, preset: str) -> str:
    """The first comment of a preset's file, in one line."""
    text = files(PACKAGE).joinpath(group, *f"{preset}.yaml".split("/")).read_text(encoding="utf-8")
    words = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words)


def option_comments(name: str) -> list[tuple[str, str, str]]:
    """``(dotted key, value, comment)`` of the values of a configuration file, for the help text."""
    found: list[tuple[str, str, str]] = []
    comment: list[str] = []
    outer: list[str] = []
    for line in files(PACKAGE).joinpath(*f"{name}.yaml".split("/")).read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.removeprefix("#").strip())
            continue
        key, _, value = text.partition(":")
        if text and not text.startswith("-"):
            outer = [*outer[: (len(line) - len(line.lstrip())) // 2], key]
            if value and outer[0] not in ("defaults", "hydra"):
                found.append((".".join(outer), value.strip(), " ".join(comment)))
        comment = []
    return found


def _presets(folder: Traversable, prefix: str = "") -> Iterator[str]:
    for item in folder.iterdir():
        if item.name.startswith("_"):
            continue
        if item.is_dir():
            yield from _presets(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".yaml"):
            yield prefix + item.name.removesuffix(".yaml")
